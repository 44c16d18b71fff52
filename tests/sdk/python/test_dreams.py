"""Dreams: each operation, and what one of the playbook leaves behind."""

import time
from typing import Any, Callable

import anthropic
import pytest
from play import message, unique
from sdk import CURRENT, Client

pytestmark = pytest.mark.skipif(anthropic.__version__ != CURRENT, reason="dreams are those of the current SDK")

PATIENCE_S = 60


def ended(client: Client, dream: Any) -> Any:
    until = time.monotonic() + PATIENCE_S
    while dream.status in ("pending", "running"):
        assert time.monotonic() < until, dream
        time.sleep(0.1)
        dream = client.beta.dreams.retrieve(dream.id)
    return dream


def inputs(store: Any, *sessions: Any) -> Any:
    ids = [session.id for session in sessions]
    return [{"type": "memory_store", "memory_store_id": store.id}, {"type": "sessions", "session_ids": ids}]


@pytest.fixture
def store(client: Client) -> Any:
    return client.beta.memory_stores.create(name=unique("store"))


@pytest.fixture
def session(client: Client, agent: Any, make_session: Callable[..., Any]) -> Any:
    session = make_session(agent, initial_events=[message("The key is under the mat.")])
    until = time.monotonic() + PATIENCE_S
    while client.beta.sessions.retrieve(session.id).status != "idle":
        assert time.monotonic() < until
        time.sleep(0.1)
    return session


def test_a_dream_writes_what_its_sessions_said(client: Client, store: Any, session: Any) -> None:
    made = client.beta.dreams.create(inputs=inputs(store, session), model="playbook", instructions="Be brief.")
    assert (made.status, made.outputs, made.output_behavior.type) == ("pending", [], "create_new")
    done = ended(client, made)
    assert (done.status, done.error) == ("completed", None)
    output = done.outputs[0].memory_store_id
    # The service sends `prefixes` beside the rows, which the SDK's types do not have: what was sent is read.
    listed = client.beta.memory_stores.memories.with_raw_response.list(output, view="full")
    memories = listed.http_response.json()["data"]
    assert any("The key is under the mat." in memory["content"] for memory in memories)
    assert done.id in {dream.id for dream in client.beta.dreams.list(statuses=["completed"], created_at_gt="2020-01-01T00:00:00Z")}
    archived = client.beta.dreams.archive(done.id)
    assert archived.archived_at is not None
    assert done.id not in {dream.id for dream in client.beta.dreams.list()}
    with pytest.raises(anthropic.BadRequestError, match="only one that is pending or running"):
        client.beta.dreams.cancel(done.id)


def test_a_store_is_updated_by_one_dream_at_a_time(client: Client, store: Any, session: Any) -> None:
    behavior: Any = {"type": "update_existing", "memory_store_id": store.id}
    sessions = inputs(store, session)
    # The model of this name takes half a second to answer.
    slow = client.beta.dreams.create(inputs=sessions, model="claude-haiku-4-5", output_behavior=behavior)
    with pytest.raises(anthropic.ConflictError) as refused:
        client.beta.dreams.create(inputs=sessions, model="playbook", output_behavior=behavior)
    assert refused.value.type == "conflict_error"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert client.beta.dreams.cancel(slow.id).status == "canceled"
    done = ended(client, client.beta.dreams.create(inputs=sessions, model="playbook", output_behavior=behavior))
    assert (done.status, done.outputs[0].memory_store_id) == ("completed", store.id)


def test_bounds_of_a_dream(client: Client, store: Any, session: Any) -> None:
    def refused(match: str, **fields: Any) -> None:
        with pytest.raises(anthropic.BadRequestError, match=match):
            client.beta.dreams.create(**{"inputs": inputs(store, session), "model": "playbook", **fields})

    refused("exactly one", inputs=inputs(store, session)[:1])
    refused("instructions", instructions="x" * 4097)
    refused("instructions", instructions="")
    refused("duplicates", inputs=inputs(store, session, session))
    refused("standard", model={"id": "playbook", "speed": "fast"})
    client.beta.dreams.create(
        inputs=inputs(store, session), model={"id": "playbook", "speed": "standard"}, instructions="x" * 4096
    )
