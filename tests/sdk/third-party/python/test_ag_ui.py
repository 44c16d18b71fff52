"""AG-UI's integration of managed agents: a thread of a user interface is a session, and a run is a turn of it."""

import asyncio
import uuid
from typing import Any, Callable, Sequence

import anthropic
import pytest
from ag_ui.core import Message, RunAgentInput, Tool, ToolMessage, UserMessage
from ag_ui_claude_managed_agents import BackendTool, ManagedAgentsAgent

PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}


class Thread:
    """A thread of the interface: what was said in it goes along with each run."""

    def __init__(self, client: anthropic.AsyncAnthropic, agent: str, environment: str, **options: Any) -> None:
        self.failures: list[tuple[BaseException, dict[str, Any]]] = []
        self.agent = ManagedAgentsAgent(
            managed_agent_id=agent,
            environment_id=environment,
            client=client,
            on_error=lambda failure, context: self.failures.append((failure, context)),
            **options,
        )
        self.id = str(uuid.uuid4())
        self.messages: list[Message] = []

    def say(self, *blocks: tuple[str, str], tools: Sequence[Tool] = ()) -> list[Any]:
        playbook = "".join(f"```{label}\n{body}\n```\n" for label, body in blocks)
        return self.run(UserMessage(id=str(uuid.uuid4()), role="user", content=playbook), tools)

    def run(self, message: Message, tools: Sequence[Tool] = ()) -> list[Any]:
        self.messages.append(message)
        return asyncio.run(self._run(list(tools)))

    async def _run(self, tools: list[Tool]) -> list[Any]:
        asked = RunAgentInput(
            thread_id=self.id,
            run_id=str(uuid.uuid4()),
            messages=self.messages,
            tools=tools,
            state={},
            context=[],
            forwarded_props={},
        )
        seen = [event async for event in self.agent.run(asked)]
        assert not self.failures
        return seen


def types(events: Sequence[Any]) -> list[str]:
    return [event.type.value for event in events]


def said(events: Sequence[Any]) -> str:
    return "".join(event.delta for event in events if event.type.value == "TEXT_MESSAGE_CONTENT")


def results(events: Sequence[Any]) -> list[str]:
    return [event.content for event in events if event.type.value == "TOOL_CALL_RESULT"]


def test_turns_of_one_thread_are_turns_of_one_session(
    client: anthropic.AsyncAnthropic, make_agent: Callable[..., str], environment: str
) -> None:
    thread = Thread(client, make_agent(), environment)
    first = thread.say(("bash", "echo kept > note; echo hello"))
    assert types(first)[-1] == "RUN_FINISHED"
    assert results(first) == ["hello\n"]
    assert said(first).startswith("1 ok, 0 failed")
    assert results(thread.say(("bash", "cat note"))) == ["kept\n"]


def test_tools_of_the_interfaces_server_run_there(
    client: anthropic.AsyncAnthropic, make_agent: Callable[..., str], environment: str
) -> None:
    weather = BackendTool("weather", "Tells the weather.", PLACE, lambda asked: f"sunny in {asked['place']}")
    thread = Thread(client, make_agent(), environment, backend_tools=[weather])
    turn = thread.say(("weather", '{"place": "Oslo"}'), ("bash", "echo after"))
    assert types(turn)[-1] == "RUN_FINISHED"
    assert results(turn) == ["sunny in Oslo", "after\n"]


def test_a_person_answers_what_the_agent_asks(
    client: anthropic.AsyncAnthropic, make_agent: Callable[..., str], environment: str
) -> None:
    thread = Thread(client, make_agent(), environment)
    ask = Tool(name="ask", description="Asks a person.", parameters=PLACE)
    asked = thread.say(("ask", '{"place": "Oslo"}'), tools=[ask])
    assert types(asked)[-1] == "RUN_FINISHED"
    call = next(event.tool_call_id for event in asked if event.type.value == "TOOL_CALL_START")
    answered = thread.run(ToolMessage(id=str(uuid.uuid4()), role="tool", content="go there", tool_call_id=call), [ask])
    assert types(answered)[-1] == "RUN_FINISHED"
    assert "go there" in said(answered)


@pytest.mark.parametrize(("answer", "report"), [("allow", "1 ok, 0 failed"), ("deny", "0 ok, 1 failed")])
def test_confirmations_are_answered(
    client: anthropic.AsyncAnthropic, make_agent: Callable[..., str], environment: str, answer: str, report: str
) -> None:
    thread = Thread(client, make_agent("always_ask"), environment, tool_confirmation=answer)
    assert said(thread.say(("bash", "echo hello"))).startswith(report)


def test_a_turn_that_lasts_too_long_is_interrupted_and_the_session_goes_on(
    client: anthropic.AsyncAnthropic, make_agent: Callable[..., str], environment: str
) -> None:
    thread = Thread(client, make_agent(), environment, turn_timeout_s=2)
    cut = thread.say(("bash", "sleep 600"))
    assert types(cut)[-1] == "RUN_ERROR"
    assert cut[-1].code == "turn_timeout"
    thread.agent.turn_timeout_s = 100
    assert results(thread.say(("bash", "echo again")))[-1] == "again\n"
