"""Environments."""

from typing import Any, Callable

import anthropic
import pytest
from play import unique
from sdk import Client, needs

LIMITED = {
    "type": "limited",
    "allowed_hosts": ["example.org"],
    "allow_mcp_servers": False,
    "allow_package_managers": True,
}


def test_a_cloud_environment_comes_back_as_it_was_created(client: Client) -> None:
    name = unique("environment")
    environment = client.beta.environments.create(
        name=name,
        description="limited",
        config={"type": "cloud", "networking": LIMITED, "packages": {"type": "packages", "pip": ["tomli"]}},
        metadata={"team": "night"},
    )
    assert environment.id.startswith("env_")
    assert (environment.name, environment.description) == (name, "limited")
    assert environment.metadata == {"team": "night"}
    assert environment.config.type == "cloud"
    assert environment.config.networking.to_dict() == LIMITED
    assert environment.config.packages.pip == ["tomli"]
    assert environment.config.packages.apt == []
    assert client.beta.environments.retrieve(environment.id) == environment


def test_an_environment_is_a_cloud_with_an_unrestricted_network_by_default(environment: Any) -> None:
    assert environment.config.type == "cloud"
    assert environment.config.networking.type == "unrestricted"


def test_an_environment_may_be_self_hosted(make_environment: Callable[..., Any]) -> None:
    assert make_environment(config={"type": "self_hosted"}).config.type == "self_hosted"


@needs("environments without a description")
def test_a_description_may_be_absent(client: Client) -> None:
    assert client.beta.environments.create(name=unique("environment")).description is None


def test_an_update_changes_what_it_names(client: Client, make_environment: Callable[..., Any]) -> None:
    environment = make_environment(metadata={"kept": "yes", "dropped": "yes"})
    renamed = unique("renamed")
    updated = client.beta.environments.update(
        environment.id, name=renamed, metadata={"dropped": None}, config={"type": "cloud", "networking": LIMITED}
    )
    assert (updated.name, updated.description) == (renamed, environment.description)
    assert updated.metadata == {"kept": "yes"}
    assert updated.config.type == "cloud" and updated.config.networking.type == "limited"


def test_environments_come_newest_first_over_pages(client: Client, make_environment: Callable[..., Any]) -> None:
    made = [make_environment().id for _ in range(5)]
    page = client.beta.environments.list(limit=2)
    assert [environment.id for environment in page.data] == [made[4], made[3]]
    listed = [environment.id for environment in page]
    assert listed[:5] == list(reversed(made))
    assert len(listed) == len(set(listed))


def test_an_archived_environment_is_listed_only_when_asked_for(client: Client, environment: Any) -> None:
    assert client.beta.environments.archive(environment.id).archived_at is not None

    def listed(**filters: Any) -> bool:
        return environment.id in {found.id for found in client.beta.environments.list(**filters)}

    assert not listed()
    assert listed(include_archived=True)


def test_a_deleted_environment_is_gone(client: Client, environment: Any) -> None:
    deleted = client.beta.environments.delete(environment.id)
    assert (deleted.id, deleted.type) == (environment.id, "environment_deleted")
    with pytest.raises(anthropic.NotFoundError):
        client.beta.environments.retrieve(environment.id)


def test_two_environments_may_not_have_one_name(client: Client, environment: Any) -> None:
    with pytest.raises(anthropic.ConflictError) as failure:
        client.beta.environments.create(name=environment.name, description="the second")
    assert failure.value.type == "invalid_request_error"
    assert failure.value.response.headers["x-should-retry"] == "false"
