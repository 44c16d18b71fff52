"""The organization, its workspaces and API keys, with an administrator's key."""

from typing import Any

import anthropic
import pytest
from play import bash, message, unique
from sdk import SPARE_KEY, Client, needs

pytestmark = needs("organization")


@pytest.fixture
def workspace(administrator: Client) -> Any:
    return administrator.beta.organization.workspaces.create(name=unique("workspace"))


def inside(administrator: Client, workspace: Any) -> Client:
    """The administrator's client, acting in this workspace."""
    return administrator.with_options(default_headers={"anthropic-workspace-id": workspace.id})


def spare_key(administrator: Client) -> Any:
    keys = administrator.beta.organization.api_keys.list(limit=2)
    return next(key for key in keys if key.partial_key_hint.endswith(SPARE_KEY[-4:]))


def test_the_organization_is_named_in_every_response(administrator: Client) -> None:
    answer = administrator.beta.organization.with_raw_response.retrieve()
    assert answer.parse().id == answer.headers["anthropic-organization-id"]
    assert answer.parse().type == "organization"


def test_a_workspace_comes_back_as_it_was_created(administrator: Client) -> None:
    workspaces = administrator.beta.organization.workspaces
    name = unique("workspace")
    made = workspaces.create(
        name=name,
        display_color="#00FF7F",
        tags={"team": "night"},
        data_residency={"allowed_inference_geos": ["us"], "default_inference_geo": "us"},
    )
    assert made.id.startswith("wrkspc_")
    assert (made.name, made.display_color, made.tags) == (name, "#00FF7F", {"team": "night"})
    assert made.data_residency.allowed_inference_geos == ["us"]
    assert (made.archived_at, made.external_key_id, made.user_profile_id) == (None, None, None)
    assert workspaces.retrieve(made.id) == made


def test_an_update_keeps_what_it_leaves_out(administrator: Client, workspace: Any) -> None:
    workspaces = administrator.beta.organization.workspaces
    renamed = workspaces.update(workspace.id, name=unique("renamed"), tags={"a": "1", "b": "2"})
    updated = workspaces.update(workspace.id, tags={"a": None})
    assert (updated.name, updated.tags, updated.display_color) == (renamed.name, {"b": "2"}, workspace.display_color)


def test_workspaces_are_listed_page_by_page(administrator: Client, workspace: Any) -> None:
    workspaces = administrator.beta.organization.workspaces
    listed = [found.id for found in workspaces.list(limit=1)]
    assert listed[0] == workspace.id
    assert len(listed) == len(set(listed)) >= 3
    assert [found.id for found in workspaces.list(ids=[workspace.id, "wrkspc_x"])] == [workspace.id]
    with_default = [found.id for found in workspaces.list(include_default=True, limit=1000)]
    assert set(listed) < set(with_default)


def test_in_an_archived_workspace_everything_can_be_read_and_nothing_starts(
    administrator: Client, workspace: Any
) -> None:
    client = inside(administrator, workspace)
    agent = client.beta.agents.create(name="agent", model="playbook")
    deployment = client.beta.deployments.create(
        name="nightly",
        agent=agent.id,
        environment_id=client.beta.environments.create(name="environment").id,
        initial_events=[message(bash("echo hello"))],
    )
    workspaces = administrator.beta.organization.workspaces
    archived = workspaces.archive(workspace.id)
    assert archived.archived_at is not None
    assert workspace.id not in [found.id for found in workspaces.list()]
    assert workspace.id in [found.id for found in workspaces.list(include_archived=True)]
    assert client.beta.agents.retrieve(agent.id) == agent
    run = client.beta.deployments.run(deployment.id)
    assert (run.session_id, run.error.type) == (None, "workspace_archived_error")
    with pytest.raises(anthropic.PermissionDeniedError):
        client.beta.agents.create(name="another", model="playbook")


def test_a_key_that_is_switched_off_is_refused_until_it_is_switched_on(administrator: Client, spare: Client) -> None:
    keys = administrator.beta.organization.api_keys
    key = spare_key(administrator)
    assert (key.status, key.scope.type, key.created_by, key.expires_at) == ("active", "workspace", None, None)
    assert keys.retrieve(key.id) == key
    assert [found.id for found in keys.list(workspace_id=key.scope.workspace_id)] == [key.id]
    assert keys.update(key.id, status="inactive").status == "inactive"
    try:
        with pytest.raises(anthropic.AuthenticationError):
            spare.beta.agents.list()
        assert key.id in [found.id for found in keys.list(status="inactive")]
    finally:
        keys.update(key.id, name="spare", status="active")
    spare.beta.agents.list()


def test_the_organization_is_for_administrators(client: Client, workspace: Any) -> None:
    organization = client.beta.organization
    for call in (
        organization.retrieve,
        organization.workspaces.list,
        organization.api_keys.list,
        lambda: organization.workspaces.retrieve(workspace.id),
        lambda: organization.workspaces.create(name="mine"),
        lambda: organization.workspaces.archive(workspace.id),
    ):
        with pytest.raises(anthropic.PermissionDeniedError):
            call()


def test_an_administrator_names_the_workspace_to_act_in(administrator: Client) -> None:
    with pytest.raises(anthropic.PermissionDeniedError):
        administrator.beta.agents.list()
