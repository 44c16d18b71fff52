"""Each class of error, with its type and wording, and what a caller may not see."""

from typing import Any, Callable

import anthropic
import pytest
from play import follow, message, unique
from sdk import BETA, KEY, LIMITED_BASE_URL, LIMITED_KEY, Client, needs

BODY_LIMIT_BYTES = 32 * 1024 * 1024


def post(client: Client, path: str, body: dict[str, Any], beta: str = BETA) -> object:
    """Sends a body that the SDK's own methods would not make."""
    return client.post(path, body=body, cast_to=object, options={"headers": {"anthropic-beta": beta}})


def cron(expression: str) -> dict[str, str]:
    return {"type": "cron", "expression": expression, "timezone": "UTC"}


def check(failure: anthropic.APIStatusError, status: int, kind: str) -> str:
    """Checks the envelope of an error and returns its message."""
    body = failure.body
    assert isinstance(body, dict) and set(body) == {"type", "error", "request_id"}
    assert (failure.status_code, failure.type, body["type"]) == (status, kind, "error")
    assert failure.request_id == body["request_id"] and body["request_id"].startswith("req_")
    assert failure.response.headers["anthropic-organization-id"]
    message = body["error"]["message"]
    assert isinstance(message, str) and message
    return message


def test_a_wrong_key_is_401() -> None:
    with pytest.raises(anthropic.AuthenticationError) as failure:
        Client(api_key="nonsense").beta.agents.list()
    check(failure.value, 401, "authentication_error")


def test_a_key_may_come_as_a_bearer_token() -> None:
    Client(api_key=None, auth_token=KEY).beta.agents.list()
    with pytest.raises(anthropic.AuthenticationError):
        Client(api_key=None, auth_token="nonsense").beta.agents.list()


def test_a_workspace_that_is_not_the_keys_is_404_and_one_that_is_no_id_400(client: Client) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.beta.agents.list(extra_headers={"anthropic-workspace-id": "wrkspc_" + "1" * 22})
    check(missing.value, 404, "not_found_error")
    with pytest.raises(anthropic.BadRequestError) as malformed:
        client.beta.agents.list(extra_headers={"anthropic-workspace-id": "default"})
    check(malformed.value, 400, "invalid_request_error")


@pytest.mark.parametrize(
    "change, wording",
    [
        ({"colour": "red"}, 'Failed to parse request body: unknown field "colour"'),
        ({"schedule": {**cron("0 3 * * *"), "every": 5}}, 'Failed to parse request body: unknown field "every"'),
        ({"schedule": {"type": "interval"}}, 'schedule.type: "interval" is not a valid value'),
        ({"schedule": {"type": "cron", "expression": "0 3 * * *"}}, "schedule.timezone: Field required"),
        ({"schedule": {**cron("0 3 * * *"), "timezone": "Mars/Phobos"}}, '"Mars/Phobos" is not a valid IANA timezone'),
        ({"schedule": cron("0 0 3 * * *")}, "expected 5 fields, got 6"),
        ({"schedule": cron("@daily")}, "predefined shortcuts"),
        ({"schedule": cron("0 3 L * *")}, 'special character "L" is not supported'),
        ({"schedule": cron("0 3 * * FRI")}, 'invalid value "FRI" in field day-of-week'),
        ({"schedule": cron("99 3 * * *")}, "field minute value 99 is out of range"),
        ({"schedule": cron("0 0 30 2 *")}, "does not produce any occurrences in the next year"),
        (
            {"initial_events": [{"type": "user.interrupt"}]},
            'initial_events[0].type: "user.interrupt" is not a valid value',
        ),
        ({"initial_events": []}, "value must contain at least 1 item"),
        ({"initial_events": [message("again")] * 51}, "no more than 50 item(s)"),
        (
            {"initial_events": [{**message("x"), "colour": "red"}]},
            'Failed to parse request body: unknown field "colour"',
        ),
        ({"name": 7}, "name"),
        ({"name": ""}, "name"),
        ({"metadata": {f"key{n}": "" for n in range(17)}}, "metadata"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_body_that_does_not_fit_is_400_and_names_the_place(
    client: Client, agent: Any, environment: Any, change: dict[str, Any], wording: str
) -> None:
    body = {
        "name": unique("deployment"),
        "agent": agent.id,
        "environment_id": environment.id,
        "initial_events": [message("Good morning.")],
    }
    with pytest.raises(anthropic.BadRequestError) as failure:
        post(client, "/v1/deployments", {**body, **change})
    assert wording in check(failure.value, 400, "invalid_request_error")


@pytest.mark.parametrize("field", ["name", "agent", "environment_id", "initial_events"])
def test_a_missing_field_is_400_and_named(client: Client, agent: Any, environment: Any, field: str) -> None:
    body = {
        "name": unique("deployment"),
        "agent": agent.id,
        "environment_id": environment.id,
        "initial_events": [message("Good morning.")],
    }
    del body[field]
    with pytest.raises(anthropic.BadRequestError) as failure:
        post(client, "/v1/deployments", body)
    assert f"{field}: Field required" in check(failure.value, 400, "invalid_request_error")


@pytest.mark.parametrize("resource", ["agents", "environments", "sessions", "deployments", "deployment_runs"])
def test_a_cursor_that_was_never_given_out_is_400(client: Client, resource: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as failure:
        getattr(client.beta, resource).list(page="page_nonsense")
    check(failure.value, 400, "invalid_request_error")


def test_a_request_without_the_beta_header_is_404(client: Client) -> None:
    with pytest.raises(anthropic.NotFoundError) as failure:
        client.get("/v1/agents", cast_to=object)
    check(failure.value, 404, "not_found_error")


def test_a_beta_that_is_no_name_is_400_and_named(client: Client) -> None:
    with pytest.raises(anthropic.BadRequestError) as failure:
        client.beta.agents.list(betas=["nonsense"])
    wording = check(failure.value, 400, "invalid_request_error")
    assert "Unexpected value(s)" in wording and "`nonsense`" in wording


def test_a_reference_to_nothing_is_404(client: Client, agent: Any, environment: Any) -> None:
    unknown = {"agent": agent.id[:-4] + "1111", "environment": environment.id[:-4] + "1111"}
    cases = [
        (unknown["agent"], environment.id, "Referenced agent not found or not accessible."),
        (agent.id, unknown["environment"], "Referenced environment not found or not accessible."),
    ]
    for agent_id, environment_id, wording in cases:
        with pytest.raises(anthropic.NotFoundError) as failure:
            client.beta.deployments.create(
                name=unique("deployment"),
                agent=agent_id,
                environment_id=environment_id,
                initial_events=[message("Good morning.")],
            )
        assert check(failure.value, 404, "not_found_error") == wording


def test_a_stale_version_is_409(client: Client, agent: Any) -> None:
    client.beta.agents.update(agent.id, version=1, system="two")
    with pytest.raises(anthropic.ConflictError) as failure:
        client.beta.agents.update(agent.id, version=1, system="three")
    wording = check(failure.value, 409, "invalid_request_error")
    assert wording == "Concurrent modification detected. Please fetch the latest version and retry."


@needs("budgets")
def test_a_budget_is_400_with_a_code(client: Client, agent: Any, environment: Any) -> None:
    budget = {"type": "limit", "max_list_cost": {"amount": "125", "currency": "USD"}}
    with pytest.raises(anthropic.BadRequestError) as failure:
        client.beta.sessions.create(agent=agent.id, environment_id=environment.id, budget=budget)
    body = failure.value.body
    assert isinstance(body, dict) and body["error"]["details"]["error_code"] == "model_not_budgetable"
    check(failure.value, 400, "invalid_request_error")


def test_a_session_over_the_rate_is_429_and_a_run_is_recorded_as_failed() -> None:
    client = Client(base_url=LIMITED_BASE_URL, api_key=LIMITED_KEY)
    agent = client.beta.agents.create(name=unique("agent"), model="playbook")
    environment = client.beta.environments.create(name=unique("environment"), description="for a test")
    deployment = client.beta.deployments.create(
        name=unique("deployment"),
        agent=agent.id,
        environment_id=environment.id,
        initial_events=[message("Good morning.")],
    )
    assert client.beta.deployments.run(deployment.id).session_id
    with pytest.raises(anthropic.RateLimitError) as failure:
        client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    check(failure.value, 429, "rate_limit_error")
    assert int(failure.value.response.headers["retry-after"]) > 0
    run = client.beta.deployments.run(deployment.id)
    assert (run.session_id, run.error.type) == (None, "session_rate_limited_error")


def test_a_body_over_the_limit_is_413(client: Client) -> None:
    with pytest.raises(anthropic.APIStatusError) as failure:
        client.beta.agents.create(name=unique("agent"), model="playbook", system="x" * BODY_LIMIT_BYTES)
    assert type(failure.value).__name__ in ("ContentTooLargeError", "RequestTooLargeError")
    check(failure.value, 413, "request_too_large")


def test_a_response_names_its_request(agent: Any) -> None:
    assert agent._request_id.startswith("req_")


def by_id(client: Client, agent: Any, environment: Any, deployment: Any, run: Any) -> dict[str, Callable[[], Any]]:
    """Every operation that names a resource in its path."""
    beta = client.beta
    return {
        "agents.retrieve": lambda: beta.agents.retrieve(agent.id),
        "agents.update": lambda: beta.agents.update(agent.id, version=1, name="theirs"),
        "agents.versions.list": lambda: beta.agents.versions.list(agent.id),
        "environments.retrieve": lambda: beta.environments.retrieve(environment.id),
        "environments.update": lambda: beta.environments.update(environment.id, name="theirs"),
        "environments.archive": lambda: beta.environments.archive(environment.id),
        "environments.delete": lambda: beta.environments.delete(environment.id),
        "sessions.retrieve": lambda: beta.sessions.retrieve(run.session_id),
        "sessions.update": lambda: beta.sessions.update(run.session_id, title="theirs"),
        "sessions.archive": lambda: beta.sessions.archive(run.session_id),
        "sessions.delete": lambda: beta.sessions.delete(run.session_id),
        "sessions.events.list": lambda: beta.sessions.events.list(run.session_id),
        "sessions.events.send": lambda: beta.sessions.events.send(run.session_id, events=[message("theirs")]),
        "sessions.events.stream": lambda: beta.sessions.events.stream(run.session_id),
        "deployments.retrieve": lambda: beta.deployments.retrieve(deployment.id),
        "deployments.update": lambda: beta.deployments.update(deployment.id, name="theirs"),
        "deployments.pause": lambda: beta.deployments.pause(deployment.id),
        "deployments.unpause": lambda: beta.deployments.unpause(deployment.id),
        "deployments.run": lambda: beta.deployments.run(deployment.id),
        "deployments.archive": lambda: beta.deployments.archive(deployment.id),
        "deployment_runs.retrieve": lambda: beta.deployment_runs.retrieve(run.id),
        "agents.archive": lambda: beta.agents.archive(agent.id),
    }


def test_another_workspace_sees_nothing(
    client: Client, stranger: Client, agent: Any, environment: Any, deployment: Any
) -> None:
    run = client.beta.deployments.run(deployment.id)
    follow(client, run.session_id)
    for operation, call in by_id(stranger, agent, environment, deployment, run).items():
        with pytest.raises(anthropic.NotFoundError) as failure:
            call()
            pytest.fail(f"{operation} answered another workspace")
        check(failure.value, 404, "not_found_error")
    assert agent.id not in {found.id for found in stranger.beta.agents.list()}
    assert environment.id not in {found.id for found in stranger.beta.environments.list()}
    assert run.session_id not in {found.id for found in stranger.beta.sessions.list()}
    assert deployment.id not in {found.id for found in stranger.beta.deployments.list()}
    assert list(stranger.beta.deployment_runs.list(deployment_id=deployment.id)) == []
    assert client.beta.deployments.retrieve(deployment.id) == deployment


def test_what_never_was_is_404(client: Client, agent: Any, environment: Any, deployment: Any) -> None:
    def absent(thing: Any) -> Any:
        other = thing.id[:-4] + ("1111" if thing.id[-4:] != "1111" else "2222")
        return thing.model_copy(update={"id": other, "session_id": other.replace("drun_", "sesn_")})

    run = client.beta.deployments.run(deployment.id)
    missing = by_id(client, absent(agent), absent(environment), absent(deployment), absent(run))
    for operation, call in missing.items():
        with pytest.raises(anthropic.NotFoundError) as failure:
            call()
            pytest.fail(f"{operation} answered for nothing")
        check(failure.value, 404, "not_found_error")
