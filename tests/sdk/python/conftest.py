"""Fixtures: one client for each of two workspaces, and the objects that most tests start from."""

from typing import Any, Callable

import pytest
from play import TOOLSET, bash, message, unique
from sdk import ADMIN_KEY, KEY, OTHER_KEY, SPARE_KEY, Client


@pytest.fixture(scope="session")
def client() -> Client:
    return Client(api_key=KEY)


@pytest.fixture(scope="session")
def stranger() -> Client:
    """A client of another workspace."""
    return Client(api_key=OTHER_KEY)


@pytest.fixture(scope="session")
def spare() -> Client:
    """A client whose key a test may switch off, if it switches it on again."""
    return Client(api_key=SPARE_KEY)


@pytest.fixture(scope="session")
def administrator() -> Client:
    return Client(api_key=ADMIN_KEY)


@pytest.fixture
def make_agent(client: Client) -> Callable[..., Any]:
    def make(**fields: Any) -> Any:
        return client.beta.agents.create(**{"name": unique("agent"), "model": "playbook", "tools": [TOOLSET], **fields})

    return make


@pytest.fixture
def make_environment(client: Client) -> Callable[..., Any]:
    def make(**fields: Any) -> Any:
        return client.beta.environments.create(**{"name": unique("environment"), "description": "for a test", **fields})

    return make


@pytest.fixture
def agent(make_agent: Callable[..., Any]) -> Any:
    return make_agent()


@pytest.fixture
def environment(make_environment: Callable[..., Any]) -> Any:
    return make_environment()


@pytest.fixture
def make_session(client: Client, environment: Any) -> Callable[..., Any]:
    def make(agent: Any, **fields: Any) -> Any:
        return client.beta.sessions.create(**{"agent": agent.id, "environment_id": environment.id, **fields})

    return make


@pytest.fixture
def make_deployment(client: Client, agent: Any, environment: Any) -> Callable[..., Any]:
    def make(**fields: Any) -> Any:
        return client.beta.deployments.create(
            **{
                "name": unique("deployment"),
                "agent": agent.id,
                "environment_id": environment.id,
                "initial_events": [message(bash("echo hello"))],
                **fields,
            }
        )

    return make


@pytest.fixture
def deployment(make_deployment: Callable[..., Any]) -> Any:
    return make_deployment()
