"""Repositories as resources: what is shown of them, and their tokens, which are not. Clones are in crates/rota/tests/it."""

from typing import Any, Callable

import anthropic
import pytest
from sdk import Client, needs

URL = "https://github.com/acme/app"


def wanted(**fields: Any) -> dict[str, Any]:
    return {"type": "github_repository", "url": URL, "authorization_token": "hush", **fields}


@needs("execution identity")
def test_a_repository_is_shown_its_token_is_replaced_and_it_is_taken_away(
    client: Client, agent: Any, make_session: Callable[..., Any]
) -> None:
    checkout = {"type": "commit", "sha": "a" * 40}
    session = make_session(agent, resources=[wanted(), wanted(mount_path="/workspace/old", checkout=checkout)])
    first, second = session.resources
    assert (first.type, first.url, first.mount_path, first.checkout) == ("github_repository", URL, "/workspace/app", None)
    assert (second.mount_path, second.checkout.type, second.checkout.sha) == ("/workspace/old", "commit", "a" * 40)
    resources = client.beta.sessions.resources
    assert list(resources.list(session.id)) == [first, second]
    replaced = resources.update(first.id, session_id=session.id, authorization_token="another")
    assert replaced.id == first.id and replaced.updated_at > first.updated_at
    assert resources.retrieve(first.id, session_id=session.id) == replaced
    assert "hush" not in session.to_json() and "another" not in replaced.to_json()
    assert resources.delete(second.id, session_id=session.id).type == "session_resource_deleted"
    assert list(resources.list(session.id)) == [replaced]


@needs("execution identity")
def test_a_deployment_shows_a_repository_as_it_was_sent(client: Client, make_deployment: Callable[..., Any]) -> None:
    deployment = make_deployment(resources=[wanted(checkout={"type": "branch", "name": "main"})])
    shown = deployment.resources[0]
    assert (shown.url, shown.mount_path, shown.checkout.name) == (URL, None, "main")
    assert "hush" not in deployment.to_json()


@needs("execution identity")
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"url": URL + ".git"}, "with no .git suffix"),
        ({"url": "https://git.example/acme/app"}, "must be https://github.com/{owner}/{repo}"),
        ({"authorization_token": ""}, "authorization_token: value is required"),
        ({"mount_path": "/etc"}, "must be a folder below `/workspace/`"),
    ],
)
def test_what_cannot_be_mounted_is_refused(
    agent: Any, make_session: Callable[..., Any], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        make_session(agent, resources=[wanted(**fields)])
    assert words in str(refused.value)
