"""Messages for the playbook model, and ways to watch a session until it rests."""

import uuid
from typing import Any, Iterable

import anthropic
from sdk import FEATURES, Client, event_types

TOOLSET = {"type": "agent_toolset_20260401"}
RESTS = ("session.status_idle", "session.status_terminated")


def unique(kind: str) -> str:
    return f"{kind} {uuid.uuid4()}"


def bash(script: str) -> str:
    return call("bash", script)


def call(tool: str, body: str) -> str:
    """A block that the playbook model turns into a call of this tool."""
    return f"```{tool}\n{body}\n```\n"


def message(*blocks: str) -> dict[str, Any]:
    return {"type": "user.message", "content": [{"type": "text", "text": "\n".join(blocks)}]}


def history(client: Client, session_id: str, **filters: Any) -> Iterable[Any]:
    """A session's stored events; an SDK from before some event types asks for those that it can read."""
    if not FEATURES["session usage events"]:
        filters.setdefault("types", event_types())
    return client.beta.sessions.events.list(session_id, **filters)


def follow(client: Client, session_id: str) -> list[Any]:
    """The events of a session that was started elsewhere, up to its rest.

    The stream holds what comes after it was opened, the history what came before; an event that is in both has one id.
    """
    with client.beta.sessions.events.stream(session_id) as stream:
        events = {event.id: event for event in history(client, session_id)}
        if not any(event.type in RESTS for event in events.values()):
            events.update((event.id, event) for event in until_rest(stream))
    return list(events.values())


def turn(client: Client, session_id: str, *sent: dict[str, Any]) -> list[Any]:
    """Sends events to a resting session and returns what it streams until it rests again."""
    with client.beta.sessions.events.stream(session_id) as stream:
        client.beta.sessions.events.send(session_id, events=sent)
        return list(until_rest(stream))


def until_rest(stream: "anthropic.Stream[Any]") -> Iterable[Any]:
    for event in stream:
        yield event
        if event.type in RESTS:
            return
    raise AssertionError("the stream ended before the session came to rest")


def of_type(events: Iterable[Any], kind: str) -> list[Any]:
    return [event for event in events if event.type == kind]


def only(events: Iterable[Any], kind: str) -> Any:
    found = of_type(events, kind)
    assert len(found) == 1, f"{len(found)} events {kind}: {found}"
    return found[0]


def text(event: Any) -> str:
    """The text of a message or of a tool's result."""
    return "\n".join(block.text for block in event.content or [] if block.type == "text")


def outputs(events: Iterable[Any]) -> list[str]:
    """What the tools answered, in order."""
    return [text(event) for event in of_type(events, "agent.tool_result")]
