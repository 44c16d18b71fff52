"""Agents and their versions."""

from datetime import timedelta
from typing import Any, Callable

from play import unique
from sdk import Client, needs

ASKING_TOOLS = {
    "type": "agent_toolset_20260401",
    "default_config": {"enabled": True, "permission_policy": {"type": "always_allow"}},
    "configs": [{"name": "bash", "enabled": True, "permission_policy": {"type": "always_ask"}}],
}


def test_an_agent_comes_back_as_it_was_created(client: Client) -> None:
    name = unique("agent")
    agent = client.beta.agents.create(
        name=name,
        model="playbook",
        description="answers from its playbook",
        system="Be brief.",
        tools=[ASKING_TOOLS],
        metadata={"team": "night"},
    )
    assert agent.id.startswith("agent_")
    assert (agent.name, agent.description, agent.system) == (name, "answers from its playbook", "Be brief.")
    assert agent.model.id == "playbook"
    assert agent.metadata == {"team": "night"}
    assert (agent.version, agent.archived_at) == (1, None)
    assert (agent.mcp_servers, agent.skills) == ([], [])
    toolset = agent.tools[0]
    assert toolset.type == "agent_toolset_20260401"
    assert toolset.default_config.permission_policy.type == "always_allow"
    assert [(tool.name, tool.permission_policy.type) for tool in toolset.configs] == [("bash", "always_ask")]
    assert client.beta.agents.retrieve(agent.id) == agent


@needs("execution identity")
def test_an_agent_runs_as_the_service_account_unless_told_otherwise(agent: Any) -> None:
    assert agent.execution_identity.type == "service_account"


def test_an_update_makes_a_version_and_keeps_the_older_one(client: Client, make_agent: Callable[..., Any]) -> None:
    first = make_agent(system="one", metadata={"kept": "yes", "dropped": "yes"})
    second = client.beta.agents.update(first.id, version=1, system="two", metadata={"dropped": None, "added": "yes"})
    assert (second.version, second.system, second.name) == (2, "two", first.name)
    assert second.metadata == {"kept": "yes", "added": "yes"}
    assert client.beta.agents.retrieve(first.id) == second
    assert client.beta.agents.retrieve(first.id, version=1).system == "one"


def test_an_update_that_changes_nothing_makes_no_version(client: Client, make_agent: Callable[..., Any]) -> None:
    agent = make_agent(system="same")
    assert client.beta.agents.update(agent.id, version=1, system="same") == agent


def test_null_clears_what_may_be_cleared(client: Client, make_agent: Callable[..., Any]) -> None:
    agent = make_agent(system="gone", description="gone")
    cleared = client.beta.agents.update(agent.id, version=1, system=None, description=None, tools=[])
    assert (cleared.system, cleared.description, cleared.tools) == (None, None, [])


@needs("agent update without a version")
def test_an_update_without_a_version_is_unconditional(client: Client, agent: Any) -> None:
    client.beta.agents.update(agent.id, system="two")
    assert client.beta.agents.update(agent.id, system="three").version == 3


def test_versions_come_newest_first_over_pages(client: Client, agent: Any) -> None:
    for version in range(1, 5):
        client.beta.agents.update(agent.id, version=version, system=f"after {version}")
    page = client.beta.agents.versions.list(agent.id, limit=2)
    assert [version.version for version in page.data] == [5, 4]
    assert [version.version for version in page] == [5, 4, 3, 2, 1]


def test_agents_come_newest_first_over_pages(client: Client, make_agent: Callable[..., Any]) -> None:
    made = [make_agent() for _ in range(5)]
    since = made[0].created_at
    page = client.beta.agents.list(limit=2, created_at_gte=since)
    assert len(page.data) == 2 and page.has_next_page()
    listed = [agent.id for agent in page]
    assert [id for id in listed if id in {agent.id for agent in made}] == [agent.id for agent in reversed(made)]
    assert len(listed) == len(set(listed))


def test_agents_are_filtered_by_the_time_of_creation(client: Client, make_agent: Callable[..., Any]) -> None:
    made = [make_agent() for _ in range(3)]
    middle = made[1].created_at
    ids = {agent.id for agent in made}

    def listed(**filters: Any) -> set[str]:
        return {agent.id for agent in client.beta.agents.list(**filters)} & ids

    assert listed(created_at_gte=middle) == {agent.id for agent in made if agent.created_at >= middle}
    assert listed(created_at_lte=middle) == {agent.id for agent in made if agent.created_at <= middle}
    assert listed(created_at_gte=made[2].created_at + timedelta(days=1)) == set()
    assert listed(created_at_lte=made[0].created_at - timedelta(days=1)) == set()


def test_an_archived_agent_is_listed_only_when_asked_for(client: Client, agent: Any) -> None:
    archived = client.beta.agents.archive(agent.id)
    assert archived.archived_at is not None
    assert client.beta.agents.retrieve(agent.id).archived_at == archived.archived_at

    def listed(**filters: Any) -> bool:
        return agent.id in {found.id for found in client.beta.agents.list(created_at_gte=agent.created_at, **filters)}

    assert not listed()
    assert listed(include_archived=True)


def test_an_agent_may_carry_custom_tools(make_agent: Callable[..., Any]) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "custom", "name": "weather", "description": "Tells the weather.", "input_schema": schema}
    agent = make_agent(tools=[tool])
    assert [found.to_dict() for found in agent.tools] == [tool]
