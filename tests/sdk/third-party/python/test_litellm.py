"""LiteLLM's files and skills, with the base URL and the key of the server."""

import uuid
from typing import Any

import litellm
import pytest
from conftest import KEY, URL

TO = {"custom_llm_provider": "anthropic", "api_base": URL, "api_key": KEY}
SKILL = b"---\nname: adding\ndescription: Adds numbers.\n---\nAdd them.\n"


def test_files() -> None:
    made = litellm.create_file(file=("notes.txt", b"hello"), purpose="messages", **TO)
    assert (made.filename, made.bytes) == ("notes.txt", 5)
    got = litellm.file_retrieve(file_id=made.id, **TO)
    assert (got.id, got.filename) == (made.id, "notes.txt")
    assert made.id in ids(litellm.file_list(**TO))
    with pytest.raises(Exception, match="400 Bad Request|is not downloadable"):
        litellm.file_content(file_id=made.id, **TO)
    assert litellm.file_delete(file_id=made.id, **TO).deleted
    assert made.id not in ids(litellm.file_list(**TO))


def test_skills() -> None:
    title = f"adding {uuid.uuid4()}"
    made = litellm.create_skill(display_title=title, files=[("adding/SKILL.md", SKILL, "text/markdown")], **TO)
    got = litellm.get_skill(skill_id=made.id, **TO)
    assert (got.display_title, got.source) == (title, "custom")
    assert made.id in ids(litellm.list_skills(limit=20, **TO).data)
    # It has no call that deletes the version first, which the API asks for.
    with pytest.raises(litellm.BadRequestError, match="Delete all versions first"):
        litellm.delete_skill(skill_id=made.id, **TO)


def ids(listed: Any) -> list[str]:
    return [one.id for one in listed]
