"""The calls of the SDK's own example programs in their order: send, then open the stream, and read until the session rests."""

from typing import Any

import pytest
from play import RESTS, TOOLSET, bash, message, of_type, text, unique
from sdk import Client

TIMES = 10
SLOW = "claude-haiku-4-5"


@pytest.fixture(params=["playbook", SLOW])
def example_agent(request: pytest.FixtureRequest, client: Client) -> Any:
    return client.beta.agents.create(name=unique("example"), model=request.param, tools=[TOOLSET])


def program(client: Client, agent: Any) -> list[Any]:
    environment = client.beta.environments.create(name=unique("example"), description="for an example")
    session = client.beta.sessions.create(
        environment_id=environment.id, agent={"type": "agent", "id": agent.id, "version": agent.version}
    )
    client.beta.sessions.events.send(session.id, events=[message(bash("echo hello"))])
    seen = []
    with client.beta.sessions.events.stream(session.id) as stream:
        for event in stream:
            seen.append(event)
            if event.type in RESTS:
                break
    return seen


@pytest.mark.timeout(120)
def test_the_first_program_reads_its_answer_and_ends(client: Client, example_agent: Any) -> None:
    for _ in range(TIMES):
        seen = program(client, example_agent)
        assert seen[-1].type == "session.status_idle", [event.type for event in seen]
        assert seen[-1].stop_reason.type == "end_turn"
        assert any(text(said) for said in of_type(seen, "agent.message")), [event.type for event in seen]
        assert len({event.id for event in seen}) == len(seen), "an event came twice"
