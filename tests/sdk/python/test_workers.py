"""Self-hosted environments: the official worker, unmodified, takes up their sessions."""

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import anthropic
import pytest
from play import TOOLSET, bash, call, history, message, of_type, only, unique
from sdk import BASE_URL, CURRENT, KEY, Client

pytestmark = pytest.mark.skipif(anthropic.__version__ != CURRENT, reason="workers are those of the current SDK")

PATIENCE_S = 30.0
WORKER = Path(__file__).with_name("worker.py")
# A worker mounts memory stores below /mnt, which is its own here and nobody else's.
OWN_MNT = ("unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none /mnt && exec "$@"', "sh")


class Site:
    """A self-hosted environment and the key with which workers take up its work."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.environment = client.beta.environments.create(name=unique("workers"), config={"type": "self_hosted"})
        request = urllib.request.Request(
            f"{BASE_URL}/rota/v1/environments/{self.environment.id}/keys",
            data=json.dumps({"name": "worker"}).encode(),
            headers={"x-api-key": KEY, "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            self.key = json.load(answer)["secret"]
        self.worker = Client(api_key=None, auth_token=self.key)
        self.work = self.worker.beta.environments.work

    def session(self, *blocks: str) -> Any:
        agent = self.client.beta.agents.create(name=unique("agent"), model="playbook", tools=[TOOLSET])
        return self.client.beta.sessions.create(
            agent=agent.id, environment_id=self.environment.id, initial_events=[message(*blocks)]
        )

    def variables(self, **more: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
        environment = {"ANTHROPIC_BASE_URL": BASE_URL, "ANTHROPIC_ENVIRONMENT_ID": self.environment.id}
        return {**inherited, **environment, **more}

    @contextmanager
    def official_worker(self, folder: Path, *before: str) -> Iterator["subprocess.Popen[bytes]"]:
        variables = self.variables(ANTHROPIC_ENVIRONMENT_KEY=self.key)
        folder.mkdir(exist_ok=True)
        with (folder.parent / f"{folder.name}.log").open("wb") as log:
            command = [*before, sys.executable, WORKER, "run", folder]
            process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def until(self, session_id: str, done: Any, what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = done(list(history(self.client, session_id)))
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"{what}: {[event.type for event in history(self.client, session_id)]}")

    def until_done(self, session_id: str) -> list[Any]:
        def done(events: list[Any]) -> Any:
            idles = of_type(events, "session.status_idle")
            return events if idles and idles[-1].stop_reason.type == "end_turn" else None

        return self.until(session_id, done, "the session does not end its turn")


@pytest.fixture
def site(client: Client) -> Site:
    return Site(client)


def results(events: list[Any]) -> list[str]:
    return ["".join(block.text for block in event.content) for event in of_type(events, "user.tool_result")]


def test_the_official_worker_completes_a_session_that_uses_bash_write_and_read(site: Site, tmp_path: Path) -> None:
    session = site.session(
        bash("echo from-a-worker > made.txt && pwd"),
        call("write", '{"file_path": "notes.txt", "content": "written by write"}'),
        call("read", '{"file_path": "made.txt"}'),
    )
    folder = tmp_path / "first"
    with site.official_worker(folder):
        events = site.until_done(session.id)
        assert len(of_type(events, "agent.tool_use")) == len(results(events)) == 3, results(events)
        assert not [event for event in of_type(events, "user.tool_result") if event.is_error], results(events)
        assert str(folder) in results(events)[0]
        assert "from-a-worker" in results(events)[2]
        assert (folder / "notes.txt").read_text() == "written by write"

        # It leaves a session that rests, and comes back when there is more to do.
        work = site.client.beta.environments.work
        deadline = time.monotonic() + PATIENCE_S
        while work.retrieve(session.id, environment_id=site.environment.id).state != "stopped":
            assert time.monotonic() < deadline, "the worker does not leave the session"
            time.sleep(0.05)
        site.client.beta.sessions.events.send(session.id, events=[message(bash("cat notes.txt"))])
        site.until(session.id, lambda events: len(results(events)) == 4, "the worker does not come back")
        assert results(site.until_done(session.id))[3].strip() == "written by write"


def test_the_official_worker_brings_skills_and_memories_and_takes_the_memories_back(site: Site, tmp_path: Path) -> None:
    client, slug = site.client, unique("skill").replace(" ", "-")
    manifest = f"---\nname: {slug}\ndescription: How to greet.\n---\nSay hello.\n".encode()
    skill = client.beta.skills.create(files=[(f"{slug}/SKILL.md", manifest), (f"{slug}/say.sh", b"echo hello from a skill\n")])
    stores = client.beta.memory_stores
    notes, rules = (stores.create(name=unique(name)) for name in ("notes", "rules"))
    for store, path, content in [(notes, "/known.md", "known"), (notes, "/gone.md", "gone"), (rules, "/rule.md", "rule")]:
        stores.memories.create(store.id, path=path, content=content)
    agent = client.beta.agents.create(
        name=unique("agent"), model="playbook", tools=[TOOLSET], skills=[{"type": "custom", "skill_id": skill.id}]
    )
    session = client.beta.sessions.create(
        agent=agent.id,
        environment_id=site.environment.id,
        resources=[
            {"type": "memory_store", "memory_store_id": notes.id, "access": "read_write"},
            {"type": "memory_store", "memory_store_id": rules.id, "access": "read_only"},
        ],
    )
    writable, readable = (resource.mount_path for resource in session.resources)
    sent = message(
        bash(f"cat skills/{slug}/SKILL.md && sh skills/{slug}/say.sh"),
        bash(f"cat {writable}/known.md {readable}/rule.md"),
        bash(f"printf learned > {writable}/new.md && printf changed > {writable}/known.md && rm {writable}/gone.md"),
        call("write", json.dumps({"file_path": f"{readable}/forbidden.md", "content": "no"})),
    )
    client.beta.sessions.events.send(session.id, events=[sent])
    with site.official_worker(tmp_path / "first", *OWN_MNT):
        events = site.until_done(session.id)
        said, errors = results(events), [event.is_error for event in of_type(events, "user.tool_result")]
        assert "Say hello." in said[0] and "hello from a skill" in said[0], said
        assert said[1] == "knownrule", said
        assert [bool(error) for error in errors] == [False, False, False, True], said

        # What the agent wrote is taken back when the worker leaves the session.
        deadline = time.monotonic() + PATIENCE_S
        expected = {"/known.md": "changed", "/new.md": "learned"}
        while (found := contents(client, notes.id)) != expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
    assert contents(client, rules.id) == {"/rule.md": "rule"}
    versions = list(stores.memory_versions.list(notes.id, session_id=session.id))
    assert sorted(version.operation for version in versions) == ["created", "deleted", "modified"]


def contents(client: Client, store_id: str) -> dict[str, str]:
    return {memory.path: memory.content for memory in client.beta.memory_stores.memories.list(store_id, view="full")}


def test_a_token_ends_with_its_work_and_reaches_the_stores_of_its_session_alone(site: Site) -> None:
    stores = site.client.beta.memory_stores
    mine, other = (stores.create(name=unique(name)) for name in ("mine", "other"))
    agent = site.client.beta.agents.create(name=unique("agent"), model="playbook", tools=[TOOLSET])
    session = site.client.beta.sessions.create(
        agent=agent.id,
        environment_id=site.environment.id,
        resources=[{"type": "memory_store", "memory_store_id": mine.id, "access": "read_only"}],
        initial_events=[message(bash("true"))],
    )
    given = site.work.poll(site.environment.id, block_ms=900)
    assert given is not None and given.id == session.id and given.secret
    payload = json.loads(base64.urlsafe_b64decode(given.secret + "=" * (-len(given.secret) % 4)))
    token = Client(api_key=None, auth_token=payload["sessions_token"]).beta.memory_stores.memories
    assert list(token.list(mine.id)) == []
    with pytest.raises(anthropic.PermissionDeniedError, match="to read, not to write"):
        token.create(mine.id, path="/a", content="a")
    with pytest.raises(anthropic.NotFoundError):
        token.list(other.id)
    with pytest.raises(anthropic.PermissionDeniedError, match="reaches no memories"):
        site.worker.beta.memory_stores.memories.list(mine.id)
    site.work.stop(given.id, environment_id=site.environment.id, force=True)
    with pytest.raises(anthropic.PermissionDeniedError, match="has ended"):
        token.list(mine.id)


def test_a_second_worker_takes_over_when_the_first_is_killed(site: Site, tmp_path: Path) -> None:
    session = site.session(bash("[ -e ../may-end ] || { touch ../begun; sleep 600; }; echo done by $(basename $PWD)"))
    with site.official_worker(tmp_path / "first") as first:
        deadline = time.monotonic() + PATIENCE_S
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline, "the first worker does not begin"
            time.sleep(0.05)
        first.kill()
        first.wait()
    (tmp_path / "may-end").touch()
    # Its lease has minutes to go. Nobody has it any more, so an operator may let it run out.
    site.work.heartbeat(session.id, environment_id=site.environment.id, desired_ttl_seconds=1)
    with site.official_worker(tmp_path / "second"):
        events = site.until_done(session.id)
    assert [result.strip() for result in results(events)] == ["done by second"]


def test_a_worker_whose_lease_ran_out_is_fenced_with_412(site: Site) -> None:
    session = site.session(bash("true"))
    given = site.work.poll(site.environment.id)
    assert given is not None and given.id == session.id
    where = {"environment_id": site.environment.id}
    site.work.ack(given.id, **where)
    beat = site.work.heartbeat(given.id, **where, expected_last_heartbeat="NO_HEARTBEAT", desired_ttl_seconds=1)
    assert beat.lease_extended and beat.state == "active"
    deadline = time.monotonic() + PATIENCE_S
    while (again := site.work.poll(site.environment.id, block_ms=500)) is None:
        assert time.monotonic() < deadline, "the work is given to nobody else"
    assert again.id == session.id
    site.work.ack(again.id, **where)
    with pytest.raises(anthropic.PreconditionFailedError) as refused:
        site.work.heartbeat(given.id, **where, expected_last_heartbeat=beat.last_heartbeat)
    assert type(refused.value).__name__ == "BetaHeartbeatPreconditionFailedError"
    assert refused.value.details.current_state.state == "starting"
    stopped = site.work.stop(again.id, **where, force=True)
    assert stopped.state == "stopped"


def test_work_is_handed_to_another_process_that_has_its_secret_alone(site: Site, tmp_path: Path) -> None:
    session = site.session(bash("echo handed on"))

    async def poll() -> list[Any]:
        async with anthropic.AsyncAnthropic(auth_token=site.key, base_url=BASE_URL) as client:
            poller = client.beta.environments.work.poller(
                environment_id=site.environment.id,
                environment_key=site.key,
                drain=True,
                auto_stop=False,
                block_ms=None,
            )
            return [item async for item in poller]

    (item,) = asyncio.run(poll())
    handed = {
        "ANTHROPIC_WORK_ID": item.id,
        "ANTHROPIC_SESSION_ID": item.data.id,
        "ANTHROPIC_WORK_SECRET": item.secret,
    }
    done = subprocess.run(
        [sys.executable, WORKER, "item", tmp_path],
        env=site.variables(**handed),
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr.decode()
    events = site.until_done(session.id)
    assert [result.strip() for result in results(events)] == ["handed on"]
    stopped = site.client.beta.environments.work.retrieve(item.id, environment_id=site.environment.id)
    assert stopped.state == "stopped"


def test_the_queue_is_listed_counted_and_described(site: Site) -> None:
    first, second = site.session(bash("true")), site.session(bash("true"))
    stats = site.client.beta.environments.work.stats(site.environment.id)
    assert (stats.depth, stats.pending) == (2, 0)
    listed = list(site.work.list(site.environment.id, limit=1))
    assert [work.id for work in listed] == [second.id, first.id]
    work = site.client.beta.environments.work
    updated = work.update(first.id, environment_id=site.environment.id, metadata={"host": "bench"})
    assert updated.metadata == {"host": "bench"}
    given = site.work.poll(site.environment.id, block_ms=100, anthropic_worker_id="a-worker")
    assert given is not None and given.id == first.id and given.secret and given.metadata == {"host": "bench"}
    stats = site.work.stats(site.environment.id)
    assert (stats.depth, stats.pending, stats.workers_polling) == (1, 1, 1)


def test_each_side_is_refused_what_is_the_others(site: Site) -> None:
    session = site.session(bash("true"))
    with pytest.raises(anthropic.PermissionDeniedError):
        site.client.beta.environments.work.poll(site.environment.id)
    with pytest.raises(anthropic.PermissionDeniedError):
        site.client.beta.environments.work.list(site.environment.id)
    with pytest.raises(anthropic.PermissionDeniedError):
        site.work.retrieve(session.id, environment_id=site.environment.id)
    with pytest.raises(anthropic.AuthenticationError):
        site.worker.beta.agents.list()
    events = site.until(session.id, lambda events: of_type(events, "agent.tool_use") and events, "no call waits")
    answer = {"type": "user.tool_result", "tool_use_id": only(events, "agent.tool_use").id}
    with pytest.raises(anthropic.PermissionDeniedError, match="may only be sent with environment credentials"):
        site.client.beta.sessions.events.send(session.id, events=[answer])
    site.worker.beta.sessions.events.send(session.id, events=[answer])
