"""Files: uploads, what sessions have mounted of them, and what agents hand over."""

import time
from typing import Any, Callable

import anthropic
import pytest
from play import bash, follow, message, outputs
from sdk import BETA, Client, needs


def of_session(client: Client, session_id: str, count: int) -> list[Any]:
    """The files of a session, once there are so many: outputs are there a moment after the session came to rest."""
    patience = time.monotonic() + 20
    while True:
        files = list(client.beta.files.list(scope_id=session_id, betas=[BETA]))
        if len(files) >= count:
            return files
        assert time.monotonic() < patience, f"{session_id} has {len(files)} files and not {count}"
        time.sleep(0.05)


@needs("execution identity")
def test_an_upload_is_told_listed_and_deleted(client: Client) -> None:
    uploaded = client.beta.files.upload(file=("a b.csv", b"1,2\n", "text/csv"), expires_in_seconds=3600, betas=[BETA])
    assert uploaded.id.startswith("file_")
    assert (uploaded.filename, uploaded.mime_type, uploaded.size_bytes) == ("a b.csv", "text/csv", 4)
    assert (uploaded.downloadable, uploaded.scope) == (False, None)
    assert uploaded.expires_at is not None and (uploaded.expires_at - uploaded.created_at).total_seconds() == 3600
    assert client.beta.files.retrieve_metadata(uploaded.id) == uploaded
    assert uploaded in list(client.beta.files.list(limit=1))
    assert [file.id for file in client.beta.files.list(ids=[uploaded.id, "file_gone"])] == [uploaded.id]
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.files.download(uploaded.id)
    assert "is not downloadable" in str(refused.value)
    deleted = client.beta.files.delete(uploaded.id)
    assert (deleted.id, deleted.type) == (uploaded.id, "file_deleted")
    with pytest.raises(anthropic.NotFoundError):
        client.beta.files.retrieve_metadata(uploaded.id)


@needs("execution identity")
def test_the_general_shape_is_the_same_without_a_scope(client: Client) -> None:
    uploaded = client.files.upload(file=("large", b"x" * 3_000_000))
    assert uploaded.size_bytes == 3_000_000
    assert client.files.retrieve_metadata(uploaded.id) == uploaded
    client.files.delete(uploaded.id)


@needs("execution identity")
def test_a_deployment_mounts_a_file_and_its_agent_hands_over_a_report(
    client: Client, make_deployment: Callable[..., Any]
) -> None:
    uploaded = client.beta.files.upload(file=("numbers.csv", b"3\n1\n2\n"))
    work = bash("sort /mnt/session/uploads/data/numbers.csv | tee /mnt/session/outputs/sorted.txt")
    deployment = make_deployment(
        resources=[{"type": "file", "file_id": uploaded.id, "mount_path": "/data/numbers.csv"}],
        initial_events=[message(work)],
    )
    run = client.beta.deployments.run(deployment.id)
    client.beta.files.delete(uploaded.id)
    assert "1\n2\n3" in outputs(follow(client, run.session_id))[0]
    mounted, sorted_ = sorted(of_session(client, run.session_id, 2), key=lambda file: file.filename)
    assert mounted.scope.id == run.session_id and not mounted.downloadable
    assert client.beta.files.download(sorted_.id).read() == b"1\n2\n3\n"
    failed = client.beta.deployments.run(deployment.id)
    assert failed.error.type == "file_not_found_error" and failed.session_id is None


@needs("execution identity")
def test_resources_of_a_session_are_added_listed_and_deleted(
    client: Client, agent: Any, make_session: Callable[..., Any]
) -> None:
    first, second = (client.beta.files.upload(file=(name, name.encode())) for name in ("a", "b"))
    session = make_session(agent, resources=[{"type": "file", "file_id": first.id}])
    resources = client.beta.sessions.resources
    added = resources.add(session.id, type="file", file_id=second.id, mount_path="b.txt")
    assert added.mount_path == "/mnt/session/uploads/b.txt"
    assert [found.id for found in resources.list(session.id, limit=1)] == [session.resources[0].id, added.id]
    assert resources.retrieve(added.id, session_id=session.id) == added
    gone = resources.delete(added.id, session_id=session.id)
    assert (gone.id, gone.type) == (added.id, "session_resource_deleted")
    with pytest.raises(anthropic.NotFoundError):
        resources.retrieve(added.id, session_id=session.id)
