"""Webhooks, received by a real server, verified and read by the SDK."""

import queue
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Callable, Iterator

import pytest
from play import bash, follow, message, unique
from sdk import Client, needs, undocumented

ENDPOINTS = "/rota/v1/webhook_endpoints"
PATIENCE_S = 20
"""How long a webhook may take to arrive."""

Delivery = tuple[dict[str, str], str]


class Receiver:
    """Keeps what arrives: headers and body."""

    def __init__(self) -> None:
        self.arrived: queue.Queue[Delivery] = queue.Queue()
        arrived = self.arrived

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                arrived.put((dict(self.headers), body.decode()))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hooks"

    def next(self) -> Delivery:
        return self.arrived.get(timeout=PATIENCE_S)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    Thread(target=receiver.server.serve_forever, daemon=True).start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.fixture
def subscribe(client: Client, receiver: Receiver) -> Iterator[Callable[..., Any]]:
    """Creates endpoints at the receiver; they are gone after the test."""
    made: list[str] = []

    def create(*events: str) -> Any:
        body = {"url": receiver.url, "enabled_events": events, "name": unique("endpoint")}
        endpoint: Any = client.post(ENDPOINTS, cast_to=object, body=body)
        made.append(endpoint["id"])
        return endpoint

    yield create
    for id in made:
        client.delete(f"{ENDPOINTS}/{id}", cast_to=object)


@needs("webhooks of agents")
def test_each_event_is_verified_and_read_by_the_sdk(
    client: Client, receiver: Receiver, subscribe: Callable[..., Any], make_agent: Any, make_environment: Any
) -> None:
    wanted = (
        "agent.created",
        "agent.archived",
        "environment.created",
        "deployment.created",
        "deployment.archived",
        "session.status_run_started",
        "session.status_idled",
    )
    secret = subscribe(*wanted)["signing_secret"]
    agent, environment = make_agent(), make_environment()
    deployment = client.beta.deployments.create(
        name=unique("deployment"),
        agent=agent.id,
        environment_id=environment.id,
        initial_events=[message(bash("true"))],
    )
    session = client.beta.deployments.run(deployment.id).session_id
    assert session is not None
    follow(client, session)
    client.beta.agents.archive(agent.id)
    received = set()
    for _ in wanted:
        headers, body = receiver.next()
        event = client.beta.webhooks.unwrap(body, headers=headers, key=secret)
        assert not list(undocumented(event))
        assert (event.type, event.id) == ("event", headers["webhook-id"])
        received.add((event.data.type, event.data.id))
    about = (agent, agent, environment, deployment, deployment)
    assert received == set(zip(wanted, [resource.id for resource in about] + [session, session]))


@needs("webhooks of agents")
def test_an_event_that_the_sdk_does_not_know_is_verified_and_read_all_the_same(
    client: Client, receiver: Receiver, subscribe: Callable[..., Any], make_agent: Any, make_environment: Any
) -> None:
    secret = subscribe("rota.run.finished")["signing_secret"]
    agent, environment = make_agent(), make_environment()
    deployment = client.beta.deployments.create(
        name=unique("deployment"),
        agent=agent.id,
        environment_id=environment.id,
        initial_events=[message(bash("true"))],
    )
    run = client.beta.deployments.run(deployment.id)
    headers, body = receiver.next()
    event: Any = client.beta.webhooks.unwrap(body, headers=headers, key=secret)
    assert (event.data.type, event.data.id) == ("rota.run.finished", run.id)
    assert (event.data.deployment_id, event.data.session_id) == (deployment.id, run.session_id)
    assert (event.data.outcome, event.data.stop_reason, event.data.error) == ("done", "end_turn", None)


@needs("webhooks of agents")
def test_only_the_secret_of_now_verifies(
    client: Client, receiver: Receiver, subscribe: Callable[..., Any], make_agent: Any
) -> None:
    from standardwebhooks import WebhookVerificationError

    endpoint = subscribe("agent.created")
    path = f"{ENDPOINTS}/{endpoint['id']}/regenerate_signing_secret"
    new: Any = client.post(path, cast_to=object)
    make_agent()
    headers, body = receiver.next()
    with pytest.raises(WebhookVerificationError):
        client.beta.webhooks.unwrap(body, headers=headers, key=endpoint["signing_secret"])
    with pytest.raises(WebhookVerificationError):
        client.beta.webhooks.unwrap(body + " ", headers=headers, key=new["signing_secret"])
    client.beta.webhooks.unwrap(body, headers=headers, key=new["signing_secret"])
