"""Skills and their versions, in the beta resource and outside it."""

import io
import zipfile
from pathlib import Path
from typing import Any, Callable

import anthropic
import pytest
from play import bash, message, turn, unique
from sdk import Client, needs

pytestmark = needs("skills of today")

LIMIT = 30 * 1024 * 1024


def manifest(name: str, description: str = "What it is for.") -> bytes:
    return f"---\nname: {name}\ndescription: {description}\n---\nHow to do it.\n".encode()


def files(name: str, **more: bytes) -> list[tuple[str, bytes]]:
    return [(f"{name}/SKILL.md", manifest(name)), *((f"{name}/{file}", content) for file, content in more.items())]


def archive(entries: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as writing:
        for name, content in entries.items():
            writing.writestr(name, content)
    return packed.getvalue()


def name() -> str:
    return unique("skill").replace(" ", "-")


def test_a_folder_becomes_a_skill(client: Client, tmp_path: Path) -> None:
    from anthropic.lib import files_from_dir

    slug = name()
    folder = tmp_path / slug
    (folder / "scripts").mkdir(parents=True)
    (folder / "SKILL.md").write_bytes(manifest(slug))
    (folder / "scripts" / "run.sh").write_text("echo ran\n")
    skill = client.beta.skills.create(files=files_from_dir(folder), display_name="Reports")
    assert skill.id.startswith("skill_") and skill.latest_version_id.startswith("skver_")
    assert (skill.display_name, skill.source.type, skill.type) == ("Reports", "custom", "skill")
    assert client.beta.skills.retrieve(skill.id) == skill
    assert client.skills.retrieve(skill.id).to_dict() == skill.to_dict()
    version = client.beta.skills.versions.retrieve("latest", skill_id=skill.id)
    assert (version.id, version.name, version.description) == (skill.latest_version_id, slug, "What it is for.")
    content = client.beta.skills.versions.download(version.id, skill_id=skill.id)
    with zipfile.ZipFile(io.BytesIO(content.read())) as downloaded:
        assert downloaded.namelist() == [f"{slug}/SKILL.md", f"{slug}/scripts/run.sh"]


def test_versions_are_listed_pinned_and_deleted(client: Client) -> None:
    slug = name()
    skill = client.beta.skills.create(files=files(slug))
    second = client.beta.skills.versions.create(
        skill.id, files=[("again.zip", archive({f"{slug}/SKILL.md": manifest(slug, "Better.")}))]
    )
    assert [version.id for version in client.beta.skills.versions.list(skill.id, limit=1)] == [
        second.id,
        skill.latest_version_id,
    ]
    assert client.skills.versions.retrieve("latest", skill_id=skill.id).description == "Better."
    assert client.beta.skills.versions.delete(second.id, skill_id=skill.id).type == "skill_version_deleted"
    with pytest.raises(anthropic.BadRequestError):
        client.beta.skills.versions.delete(skill.latest_version_id, skill_id=skill.id)
    assert skill.id in [listed.id for listed in client.beta.skills.list(source="custom")]
    assert client.beta.skills.delete(skill.id).type == "skill_deleted"
    with pytest.raises(anthropic.NotFoundError):
        client.beta.skills.retrieve(skill.id)


@pytest.mark.parametrize(
    ("size", "taken"), [(LIMIT - 1, True), (LIMIT, True), (LIMIT + 1, False)], ids=["below", "at", "above"]
)
def test_a_skill_has_thirty_megabytes_at_most(client: Client, size: int, taken: bool) -> None:
    slug = name()
    text = manifest(slug)
    # No archive of random bytes is much smaller than they are.
    noise = bytes(bytearray((i * 2654435761 >> 13) & 255 for i in range(4096)))
    body = (noise * (size // len(noise) + 1))[: size - len(text)]
    upload = [(f"{slug}/SKILL.md", text), (f"{slug}/data.bin", body)]
    if taken:
        skill = client.beta.skills.create(files=upload, timeout=120)
        client.beta.skills.delete(skill.id)
    else:
        with pytest.raises(anthropic.BadRequestError, match="30 MB"):
            client.beta.skills.create(files=upload, timeout=120)


@pytest.mark.parametrize(
    ("field", "length", "taken"),
    [
        ("name", 63, True),
        ("name", 64, True),
        ("name", 65, False),
        ("description", 1023, True),
        ("description", 1024, True),
        ("description", 1025, False),
        ("display_name", 254, True),
        ("display_name", 255, True),
        ("display_name", 256, False),
    ],
)
def test_texts_are_held_to_their_limits(client: Client, field: str, length: int, taken: bool) -> None:
    texts = {"name": "limits", "description": "d", "display_name": "shown", field: "a" * length}
    text = manifest(texts["name"], texts["description"])
    create = lambda: client.beta.skills.create(  # noqa: E731
        files=[("limits/SKILL.md", text)], display_name=texts["display_name"]
    )
    if taken:
        client.beta.skills.delete(create().id)
    else:
        with pytest.raises(anthropic.BadRequestError):
            create()


def test_a_session_uses_the_skill_of_its_agent(
    client: Client, make_agent: Callable[..., Any], make_session: Callable[..., Any]
) -> None:
    slug = name()
    skill = client.beta.skills.create(files=files(slug, **{"run.sh": b"echo from the skill\n"}))
    agent = make_agent(skills=[{"type": "custom", "skill_id": skill.id}])
    assert agent.skills[0].to_dict() == {"type": "custom", "skill_id": skill.id, "version": "latest"}
    session = make_session(agent)
    events = turn(client, session.id, message(bash(f"sh /workspace/skills/{slug}/run.sh")))
    results = [event for event in events if event.type == "agent.tool_result"]
    assert results[0].content[0].text.strip() == "from the skill"


def test_the_vendors_skills_are_not_here(make_agent: Callable[..., Any]) -> None:
    with pytest.raises(anthropic.BadRequestError, match="`skill_id` `xlsx` not found"):
        make_agent(skills=[{"type": "anthropic", "skill_id": "xlsx"}])
