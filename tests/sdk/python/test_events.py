"""Sending, streaming and listing a session's events."""

from typing import Any, Callable

import anthropic
import pytest
from play import bash, call, follow, history, message, of_type, only, outputs, text, turn, until_rest
from sdk import LATER_EVENTS, Client, needs

ASKING = {
    "type": "agent_toolset_20260401",
    "default_config": {"enabled": True, "permission_policy": {"type": "always_ask"}},
}
WEATHER = {
    "type": "custom",
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture
def session(agent: Any, make_session: Callable[..., Any]) -> Any:
    return make_session(agent)


@pytest.fixture
def asking(make_agent: Callable[..., Any], make_session: Callable[..., Any]) -> Any:
    """A session whose tools wait for a confirmation."""
    return make_session(make_agent(tools=[ASKING]))


@pytest.fixture
def forecaster(make_agent: Callable[..., Any], make_session: Callable[..., Any]) -> Any:
    """A session with a tool that the caller carries out."""
    return make_session(make_agent(tools=[WEATHER]))


def confirmation(tool_use: Any, result: str, **fields: Any) -> dict[str, Any]:
    return {"type": "user.tool_confirmation", "tool_use_id": tool_use.id, "result": result, **fields}


def test_a_message_is_answered_until_the_session_rests(client: Client, session: Any) -> None:
    events = turn(client, session.id, message(bash("echo one $((20 + 22))")))
    assert [event.type for event in events] == [
        "session.status_running",
        "session.thread_status_running",
        "user.message",
        "span.model_request_start",
        "agent.tool_use",
        "span.model_request_end",
        "agent.tool_result",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    assert events[-1].stop_reason.type == only(events, "session.thread_status_idle").stop_reason.type == "end_turn"
    use = only(events, "agent.tool_use")
    assert (use.name, use.evaluated_permission) == ("bash", "allow")
    assert only(events, "agent.tool_result").tool_use_id == use.id
    assert "one 42" in outputs(events)[0]
    assert client.beta.sessions.retrieve(session.id).status == "idle"


@needs("session usage events")
def test_usage_is_told_just_before_the_rest(client: Client, session: Any) -> None:
    events = turn(client, session.id, message(bash("true")))
    assert [event.type for event in events[-2:]] == ["session.usage", "session.status_idle"]


def test_each_model_request_has_its_start_and_end(client: Client, session: Any) -> None:
    events = turn(client, session.id, message(bash("true")))
    starts = [event.id for event in of_type(events, "span.model_request_start")]
    ends = [event.model_request_start_id for event in of_type(events, "span.model_request_end")]
    assert starts and starts == ends


def test_blocks_run_in_order_in_one_shell(client: Client, session: Any) -> None:
    events = turn(client, session.id, message(bash("cd /tmp && place=kept"), bash('echo "$place in $PWD"')))
    assert "kept in /tmp" in outputs(events)[1]


def test_files_outlast_a_turn(client: Client, session: Any) -> None:
    turn(client, session.id, message(call("write", '{"file_path": "/workspace/note.txt", "content": "noted\\n"}')))
    assert "noted" in outputs(turn(client, session.id, message(bash("cat /workspace/note.txt"))))[0]


def test_a_failing_command_is_told_as_an_answer(client: Client, session: Any) -> None:
    events = turn(client, session.id, message(bash("ls /nowhere")))
    assert "/nowhere" in outputs(events)[0]
    assert events[-1].stop_reason.type == "end_turn"


def test_the_history_holds_what_was_streamed(client: Client, session: Any) -> None:
    streamed = turn(client, session.id, message(bash("echo once")))
    stored = list(history(client, session.id))
    readable = [event for event in streamed if event.type not in LATER_EVENTS[anthropic.__version__]]
    assert [event.id for event in stored] == [event.id for event in readable]
    assert only(stored, "user.message").processed_at is not None


def test_the_history_is_paged_ordered_and_filtered(client: Client, session: Any) -> None:
    turn(client, session.id, message(bash("echo once")))
    stored = list(history(client, session.id))
    assert [event.id for event in history(client, session.id, limit=2)] == [event.id for event in stored]
    backward = history(client, session.id, limit=2, order="desc")
    assert [event.id for event in backward] == [event.id for event in reversed(stored)]
    tools = list(client.beta.sessions.events.list(session.id, types=["agent.tool_use", "agent.tool_result"]))
    assert [event.type for event in tools] == ["agent.tool_use", "agent.tool_result"]


def test_the_history_is_filtered_by_time(client: Client, session: Any) -> None:
    turn(client, session.id, message(bash("echo once")))
    stored = list(history(client, session.id))
    middle = stored[len(stored) // 2].processed_at

    def listed(**filters: Any) -> list[str]:
        return [event.id for event in history(client, session.id, **filters)]

    assert listed(created_at_gt=middle) == [event.id for event in stored if event.processed_at > middle]
    assert listed(created_at_gte=middle) == [event.id for event in stored if event.processed_at >= middle]
    assert listed(created_at_lt=middle) == [event.id for event in stored if event.processed_at < middle]
    assert listed(created_at_lte=middle) == [event.id for event in stored if event.processed_at <= middle]


@needs("event deltas")
def test_deltas_build_the_message_that_follows(client: Client, session: Any) -> None:
    with client.beta.sessions.events.stream(session.id, event_deltas=["agent.message"]) as stream:
        client.beta.sessions.events.send(session.id, events=[message(bash("echo once"))])
        events = list(until_rest(stream))
    started = [event.event.id for event in of_type(events, "event_start")]
    assert len(started) == len(set(started))
    for said in of_type(events, "agent.message"):
        parts = [event.delta.content.text for event in of_type(events, "event_delta") if event.event_id == said.id]
        assert text(said).startswith("".join(parts))
        assert said.id in started or not parts
    assert started


def test_sent_events_come_back_stored(client: Client, session: Any) -> None:
    sent = client.beta.sessions.events.send(session.id, events=[message("No block in here.")])
    assert sent.data is not None
    assert [event.type for event in sent.data] == ["user.message"]
    assert "processed_at" not in sent.data[0].model_fields_set
    events = follow(client, session.id)
    assert sent.data[0].id in {event.id for event in events}


def test_a_custom_tool_waits_for_the_callers_result(client: Client, forecaster: Any) -> None:
    waiting = turn(client, forecaster.id, message(call("weather", '{"city": "Oslo"}')))
    use = only(waiting, "agent.custom_tool_use")
    assert (use.name, use.input) == ("weather", {"city": "Oslo"})
    assert waiting[-1].stop_reason.type == "requires_action"
    assert waiting[-1].stop_reason.event_ids == [use.id]
    answer = {
        "type": "user.custom_tool_result",
        "custom_tool_use_id": use.id,
        "content": [{"type": "text", "text": "seven degrees"}],
    }
    events = turn(client, forecaster.id, answer)
    assert "seven degrees" in "".join(text(event) for event in of_type(events, "agent.message"))
    assert events[-1].stop_reason.type == "end_turn"


def test_an_allowed_tool_runs(client: Client, asking: Any) -> None:
    waiting = turn(client, asking.id, message(bash("echo allowed")))
    use = only(waiting, "agent.tool_use")
    assert use.evaluated_permission == "ask"
    assert not of_type(waiting, "agent.tool_result")
    assert waiting[-1].stop_reason.event_ids == [use.id]
    events = turn(client, asking.id, confirmation(use, "allow"))
    assert "allowed" in outputs(events)[0]
    assert events[-1].stop_reason.type == "end_turn"


def test_a_denied_tool_does_not_run(client: Client, asking: Any) -> None:
    waiting = turn(client, asking.id, message(bash("echo $((40 + 2)) > /workspace/denied")))
    use = only(waiting, "agent.tool_use")
    events = turn(client, asking.id, confirmation(use, "deny", deny_message="not on a Sunday"))
    result = only(events, "agent.tool_result")
    assert (result.tool_use_id, result.is_error) == (use.id, True)
    assert text(result) == "Permission to use bash has been rejected. Rejection message: not on a Sunday"
    assert events[-1].stop_reason.type == "end_turn"
    waiting = turn(client, asking.id, message(bash("ls /workspace")))
    events = turn(client, asking.id, confirmation(only(waiting, "agent.tool_use"), "allow"))
    assert "denied" not in outputs(events)[0]


def test_a_waiting_session_takes_no_message(client: Client, asking: Any) -> None:
    use = only(turn(client, asking.id, message(bash("true"))), "agent.tool_use")
    with pytest.raises(anthropic.BadRequestError) as failure:
        client.beta.sessions.events.send(asking.id, events=[message("and now?")])
    assert "waiting on responses to events" in str(failure.value)
    assert use.id in str(failure.value)


def test_a_confirmation_that_nobody_asked_for_is_refused(client: Client, session: Any) -> None:
    use = only(turn(client, session.id, message(bash("true"))), "agent.tool_use")
    with pytest.raises(anthropic.BadRequestError):
        client.beta.sessions.events.send(session.id, events=[confirmation(use, "allow")])


def test_an_interrupt_ends_the_turn(client: Client, session: Any) -> None:
    with client.beta.sessions.events.stream(session.id) as stream:
        client.beta.sessions.events.send(session.id, events=[message(bash("sleep 600"))])
        events = []
        for event in until_rest(stream):
            events.append(event)
            if event.type == "agent.tool_use":
                client.beta.sessions.events.send(session.id, events=[{"type": "user.interrupt"}])
    result = only(events, "agent.tool_result")
    assert (result.tool_use_id, result.is_error) == (only(events, "agent.tool_use").id, True)
    assert text(result) == "Tool execution was interrupted before completion. Please retry."
    assert [event.type for event in events[-5:]] == [
        "agent.tool_result",
        "user.interrupt",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    assert events[-1].stop_reason.type == "end_turn"
    assert "still here" in outputs(turn(client, session.id, message(bash("echo still here"))))[0]


def test_a_waiting_session_may_be_interrupted(client: Client, asking: Any) -> None:
    turn(client, asking.id, message(bash("true")))
    events = turn(client, asking.id, {"type": "user.interrupt"})
    assert events[-1].stop_reason.type == "end_turn"
    assert client.beta.sessions.retrieve(asking.id).status == "idle"
