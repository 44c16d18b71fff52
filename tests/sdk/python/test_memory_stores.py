"""Memory stores: stores, memories, versions, and the folders of a session."""

import hashlib
from typing import Any, Callable

import anthropic
import pytest
from play import bash, message, turn, unique
from sdk import BETA, BASE_URL, CURRENT, KEY, Client

pytestmark = pytest.mark.skipif(anthropic.__version__ != CURRENT, reason="earlier SDKs type memory stores otherwise")

MOST = 102_400


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def make_store(client: Client) -> Callable[..., Any]:
    def make(**fields: Any) -> Any:
        return client.beta.memory_stores.create(**{"name": unique("store"), **fields})

    return make


@pytest.fixture
def store(make_store: Callable[..., Any]) -> Any:
    return make_store()


def write(client: Client, store: Any, path: str, content: str = "text") -> Any:
    return client.beta.memory_stores.memories.create(store.id, path=path, content=content)


def test_a_store_is_created_read_updated_listed_archived_and_deleted(client: Client, make_store: Callable[..., Any]) -> None:
    stores = client.beta.memory_stores
    made = make_store(description="d", metadata={"kept": "yes", "dropped": "yes"})
    assert made.id.startswith("memstore_") and made.archived_at is None
    assert stores.retrieve(made.id) == made
    updated = stores.update(made.id, name=unique("renamed"), description="", metadata={"dropped": None})
    assert (updated.description, updated.metadata) == ("", {"kept": "yes"})
    assert made.id in [store.id for store in stores.list(limit=1, created_at_gte=made.created_at)]
    archived = stores.archive(made.id)
    assert archived.archived_at == archived.updated_at
    assert made.id not in [store.id for store in stores.list(created_at_gte=made.created_at)]
    assert made.id in [store.id for store in stores.list(created_at_gte=made.created_at, include_archived=True)]
    with pytest.raises(anthropic.BadRequestError, match="cannot modify archived resource"):
        stores.update(made.id, name="x")
    assert stores.delete(made.id).type == "memory_store_deleted"
    with pytest.raises(anthropic.NotFoundError):
        stores.retrieve(made.id)


def test_memories_and_their_versions(client: Client, store: Any) -> None:
    memories, versions = client.beta.memory_stores.memories, client.beta.memory_stores.memory_versions
    made = write(client, store, "/notes/a.md", "one")
    assert (made.content, made.content_sha256, made.content_size_bytes) == (None, sha256("one"), 3)
    assert memories.retrieve(made.id, memory_store_id=store.id).content == "one"
    updated = memories.update(
        made.id,
        memory_store_id=store.id,
        view="full",
        content="two",
        path="/notes/b.md",
        precondition={"type": "content_sha256", "content_sha256": sha256("one")},
    )
    assert (updated.id, updated.content, updated.path) == (made.id, "two", "/notes/b.md")
    write(client, store, "/other")
    assert [item.path for item in memories.list(store.id, limit=1)] == ["/other", "/notes/b.md"]
    assert [item.type for item in memories.list(store.id, depth=1)] == ["memory", "memory_prefix"]
    below = memories.list(store.id, path_prefix="/notes/", view="full")
    assert [(item.path, item.content) for item in below] == [("/notes/b.md", "two")]
    deleted = memories.delete(made.id, memory_store_id=store.id, expected_content_sha256=sha256("two"))
    assert (deleted.id, deleted.type) == (made.id, "memory_deleted")
    history = list(versions.list(store.id, memory_id=made.id, limit=1, view="full"))
    assert [(version.operation, version.content) for version in history] == [
        ("deleted", None),
        ("modified", "two"),
        ("created", "one"),
    ]
    assert all(version.created_by.type == "api_actor" for version in history)
    key = history[0].created_by.api_key_id
    assert len(list(versions.list(store.id, api_key_id=key, operation="created"))) == 2
    assert versions.retrieve(history[2].id, memory_store_id=store.id) == history[2]
    redacted = versions.redact(history[2].id, memory_store_id=store.id)
    assert (redacted.path, redacted.content, redacted.redacted_by) == (None, None, history[2].created_by)


def test_conflicts_have_types_of_their_own(client: Client, store: Any) -> None:
    made = write(client, store, "/a")
    for path in ("/a", "/a/b"):
        with pytest.raises(anthropic.ConflictError) as caught:
            write(client, store, path)
        assert caught.value.type == "memory_path_conflict_error"
        error = caught.value.body["error"]
        assert (error["conflicting_memory_id"], error["conflicting_path"]) == (made.id, "/a")
    with pytest.raises(anthropic.ConflictError) as caught:
        client.beta.memory_stores.memories.delete(
            made.id, memory_store_id=store.id, expected_content_sha256=sha256("other")
        )
    assert caught.value.type == "memory_precondition_failed_error"


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"name": "é" * 255, "description": "d" * 1024}, False),
        ({"name": "é" * 256}, True),
        ({"name": ""}, True),
        ({"description": "d" * 1025}, True),
        ({"metadata": {str(i): "v" for i in range(16)}}, False),
        ({"metadata": {str(i): "v" for i in range(17)}}, True),
    ],
)
def test_a_store_has_limits(make_store: Callable[..., Any], fields: dict[str, Any], refused: bool) -> None:
    if refused:
        with pytest.raises(anthropic.BadRequestError):
            make_store(**fields)
    else:
        make_store(**fields)


@pytest.mark.parametrize(
    ("path", "content", "refused"),
    [
        ("/a", "x" * MOST, False),
        ("/a", "x" * (MOST + 1), True),
        ("/" + "p" * 1023, "", False),
        ("/" + "p" * 1024, "", True),
        ("/p" * 20, "", False),
        ("/p" * 21, "", True),
        ("/e\u0301", "", True),
        ("/\u00e9", "", False),
        ("relative", "", True),
    ],
)
def test_a_memory_has_limits(client: Client, store: Any, path: str, content: str, refused: bool) -> None:
    if refused:
        with pytest.raises(anthropic.BadRequestError):
            write(client, store, path, content)
    else:
        assert write(client, store, path, content).content_size_bytes == len(content.encode())


def test_both_beta_names_at_once_are_refused(client: Client) -> None:
    with pytest.raises(anthropic.BadRequestError):
        client.beta.memory_stores.list(betas=[BETA])
    answer = client.get("/v1/memory_stores", cast_to=object, options={"headers": {"anthropic-beta": BETA}})
    assert "data" in answer
    with pytest.raises(anthropic.NotFoundError):
        Client(base_url=BASE_URL, api_key=KEY).get("/v1/memory_stores", cast_to=object)


def test_an_agent_reads_and_writes_the_stores_of_its_session(
    client: Client, agent: Any, make_session: Callable[..., Any], make_store: Callable[..., Any]
) -> None:
    notes, rules = make_store(name="Notes"), make_store(name="Rules", description="How we work.")
    write(client, notes, "/plan.md", "before")
    write(client, rules, "/rule.md", "be kind")
    session = make_session(
        agent,
        resources=[
            {"type": "memory_store", "memory_store_id": notes.id},
            {"type": "memory_store", "memory_store_id": rules.id, "access": "read_only", "instructions": "Follow it."},
        ],
    )
    assert [resource.mount_path for resource in session.resources] == ["/mnt/memory/notes", "/mnt/memory/rules"]
    assert session.id in [found.id for found in client.beta.sessions.list(memory_store_id=notes.id)]
    script = "cd /mnt/memory && cat notes/plan.md rules/rule.md && printf after > notes/plan.md; printf x > rules/rule.md"
    events = turn(client, session.id, message(bash(script)))
    results = [event for event in events if event.type == "agent.tool_result"]
    assert "beforebe kind" in results[0].content[0].text
    memories = client.beta.memory_stores.memories
    assert [memory.content for memory in memories.list(notes.id, view="full")] == ["after"]
    assert [memory.content for memory in memories.list(rules.id, view="full")] == ["be kind"]
    written = list(client.beta.memory_stores.memory_versions.list(notes.id, session_id=session.id))
    assert [(version.operation, version.created_by.type) for version in written] == [("modified", "session_actor")]
