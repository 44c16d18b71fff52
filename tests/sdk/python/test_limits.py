"""Documented limits: one below and at them is taken, one above is refused. Those of memories, skills and vaults stand beside their tests."""

import json
import urllib.request
from typing import Any, Callable

import anthropic
import pytest
from play import TOOLSET, bash, message, unique
from sdk import BASE_URL, CURRENT, KEY, Client

pytestmark = pytest.mark.skipif(anthropic.__version__ != CURRENT, reason="the limits are those of the current SDK")


class Scene:
    """What the limits are tried on."""

    def __init__(self, client: Client) -> None:
        self.client, self.api = client, client.beta
        self.agent = self.api.agents.create(name=unique("agent"), model="playbook", tools=[TOOLSET])
        self.environment = self.api.environments.create(name=unique("environment"))
        self.stores = [self.api.memory_stores.create(name=unique("store")).id for _ in range(9)]
        mine = self.api.environments.create(name=unique("mine"), config={"type": "self_hosted"})
        request = urllib.request.Request(
            f"{BASE_URL}/rota/v1/environments/{mine.id}/keys",
            data=json.dumps({"name": "worker"}).encode(),
            headers={"x-api-key": KEY, "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            worker = Client(api_key=None, auth_token=json.load(answer)["secret"])
        self.mine, self.work = mine.id, worker.beta.environments.work

    def agent_with(self, **fields: Any) -> Any:
        return self.api.agents.create(**{"name": unique("agent"), "model": "playbook", **fields})

    def session_with(self, **fields: Any) -> Any:
        return self.api.sessions.create(agent=self.agent.id, environment_id=self.environment.id, **fields)

    def deployment_with(self, **fields: Any) -> Any:
        first = {"name": unique("deployment"), "initial_events": [message("hello")]}
        return self.api.deployments.create(
            **{"agent": self.agent.id, "environment_id": self.environment.id, **first, **fields}
        )

    def store(self, place: int, **fields: Any) -> dict[str, Any]:
        return {"type": "memory_store", "memory_store_id": self.stores[place], **fields}

    def mcp(self, count: int) -> Any:
        servers = [{"type": "url", "name": f"s{n}", "url": f"https://s{n}.invalid"} for n in range(count)]
        tools = [{"type": "mcp_toolset", "mcp_server_name": server["name"]} for server in servers]
        return self.agent_with(mcp_servers=servers, tools=tools)

    def heartbeat(self, seconds: int) -> Any:
        session = self.api.sessions.create(
            agent=self.agent.id, environment_id=self.mine, initial_events=[message(bash("true"))]
        )
        return self.work.heartbeat(session.id, environment_id=self.mine, desired_ttl_seconds=seconds)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(Client(api_key=KEY))


MOST: dict[str, tuple[int, Callable[[Scene, int], Any]]] = {
    "name of an agent": (256, lambda scene, n: scene.agent_with(name="é" * n)),
    "description of an agent": (2048, lambda scene, n: scene.agent_with(description="d" * n)),
    "system prompt": (100_000, lambda scene, n: scene.agent_with(system="é" * n)),
    "metadata of an agent": (16, lambda scene, n: scene.agent_with(metadata={str(i): "v" for i in range(n)})),
    "MCP servers of an agent": (20, lambda scene, n: scene.mcp(n)),
    "first events of a deployment": (50, lambda scene, n: scene.deployment_with(initial_events=[message("hi")] * n)),
    "metadata of a deployment": (16, lambda scene, n: scene.deployment_with(metadata={str(i): "v" for i in range(n)})),
    "memory stores of a session": (
        8,
        lambda scene, n: scene.session_with(resources=[scene.store(place) for place in range(n)]),
    ),
    "instructions of a memory store": (
        4096,
        lambda scene, n: scene.session_with(resources=[scene.store(0, instructions="i" * n)]),
    ),
    "metadata of a session": (16, lambda scene, n: scene.session_with(metadata={str(i): "v" for i in range(n)})),
    "name of a file": (255, lambda scene, n: scene.api.files.upload(file=("f" * n, b"x", "text/plain"))),
    "life of a file": (
        7_776_000,
        lambda scene, n: scene.client.files.upload(file=("f", b"x", "text/plain"), expires_in_seconds=n),
    ),
    "wait of a poll": (999, lambda scene, n: scene.work.poll(scene.mine, block_ms=n)),
    "lease of work": (3600, lambda scene, n: scene.heartbeat(n)),
    "page of files": (1000, lambda scene, n: scene.api.files.list(limit=n)),
    "page of agents": (100, lambda scene, n: scene.api.agents.list(limit=n)),
    "page of runs": (1000, lambda scene, n: scene.api.deployment_runs.list(limit=n)),
}
LEAST: dict[str, tuple[int, Callable[[Scene, int], Any]]] = {
    "first events of a deployment": (1, lambda scene, n: scene.deployment_with(initial_events=[message("hi")] * n)),
    "life of a file": (
        3600,
        lambda scene, n: scene.client.files.upload(file=("f", b"x", "text/plain"), expires_in_seconds=n),
    ),
    "wait of a poll": (1, lambda scene, n: scene.work.poll(scene.mine, block_ms=n)),
    "lease of work": (1, lambda scene, n: scene.heartbeat(n)),
    "page of agents": (1, lambda scene, n: scene.api.agents.list(limit=n)),
}


@pytest.mark.parametrize("what", MOST)
def test_a_most_is_taken_and_one_more_refused(scene: Scene, what: str) -> None:
    most, ask = MOST[what]
    for taken in (most - 1, most):
        ask(scene, taken)
    with pytest.raises(anthropic.BadRequestError):
        ask(scene, most + 1)


@pytest.mark.parametrize("what", LEAST)
def test_a_least_is_taken_and_one_less_refused(scene: Scene, what: str) -> None:
    least, ask = LEAST[what]
    for taken in (least + 1, least):
        ask(scene, taken)
    with pytest.raises(anthropic.BadRequestError):
        ask(scene, least - 1)
