"""A session's threads, of which Rota has the primary one: the session, seen as its thread."""

from typing import Any, Callable

import anthropic
import pytest
from play import bash, history, message, only, turn
from sdk import Client

OF_THE_SESSION = ("session.status_running", "session.usage", "session.status_idle")


@pytest.fixture
def session(agent: Any, make_session: Callable[..., Any]) -> Any:
    return make_session(agent)


@pytest.fixture
def thread(client: Client, session: Any) -> Any:
    (primary,) = client.beta.sessions.threads.list(session.id)
    return primary


def test_a_fresh_session_has_one_thread(client: Client, session: Any, thread: Any) -> None:
    assert (thread.session_id, thread.parent_thread_id, thread.status) == (session.id, None, "idle")
    assert (thread.stats, thread.usage) == (None, None)
    assert client.beta.sessions.threads.retrieve(thread.id, session_id=session.id) == thread


def test_the_thread_has_the_sessions_events_but_for_those_of_the_session_as_a_whole(
    client: Client, session: Any, thread: Any
) -> None:
    turn(client, session.id, message(bash("true")))
    stored = [event.id for event in history(client, session.id) if event.type not in OF_THE_SESSION]
    events = list(client.beta.sessions.threads.events.list(thread.id, session_id=session.id, limit=3))
    assert [event.id for event in events] == stored
    assert only(events, "session.thread_status_idle").session_thread_id == thread.id
    assert client.beta.sessions.threads.retrieve(thread.id, session_id=session.id).usage.output_tokens > 0


def test_a_threads_stream_tells_its_turn(client: Client, session: Any, thread: Any) -> None:
    with client.beta.sessions.threads.events.stream(thread.id, session_id=session.id) as stream:
        client.beta.sessions.events.send(session.id, events=[message(bash("true"))])
        kinds = []
        for event in stream:
            kinds.append(event.type)
            if event.type == "session.thread_status_idle":
                break
    assert kinds[0] == "session.thread_status_running"
    assert not set(kinds) & set(OF_THE_SESSION)


def test_the_primary_thread_cannot_be_archived(client: Client, session: Any, thread: Any) -> None:
    with pytest.raises(anthropic.BadRequestError) as failure:
        client.beta.sessions.threads.archive(thread.id, session_id=session.id)
    assert "The primary thread cannot be archived; archive the session instead." in str(failure.value)
