"""Sessions as resources; what happens inside them is in test_events."""

from datetime import timedelta
from typing import Any, Callable

import anthropic
import pytest
from play import bash, follow, message, outputs
from sdk import Client, needs


def test_a_session_starts_idle_with_its_agent_as_it_was(
    client: Client, agent: Any, environment: Any, make_session: Callable[..., Any]
) -> None:
    session = make_session(agent, title="by hand", metadata={"team": "night"})
    assert session.id.startswith("sesn_")
    assert (session.status, session.title, session.metadata) == ("idle", "by hand", {"team": "night"})
    assert (session.environment_id, session.deployment_id) == (environment.id, None)
    assert (session.vault_ids, session.resources, session.outcome_evaluations) == ([], [], [])
    client.beta.agents.update(agent.id, version=1, system="changed later")
    snapshot = client.beta.sessions.retrieve(session.id).agent
    assert (snapshot.id, snapshot.version, snapshot.system) == (agent.id, 1, None)


def test_a_session_may_pin_an_older_version(client: Client, agent: Any, environment: Any) -> None:
    client.beta.agents.update(agent.id, version=1, system="two")
    latest = client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    pinned = client.beta.sessions.create(
        agent={"type": "agent", "id": agent.id, "version": 1}, environment_id=environment.id
    )
    assert (latest.agent.version, latest.agent.system) == (2, "two")
    assert (pinned.agent.version, pinned.agent.system) == (1, None)


@needs("sessions with overrides")
def test_an_override_changes_the_session_and_not_the_agent(
    client: Client, make_agent: Callable[..., Any], environment: Any
) -> None:
    agent = make_agent(system="the agent's own")
    session = client.beta.sessions.create(
        agent={"type": "agent_with_overrides", "id": agent.id, "system": "for this once"},
        environment_id=environment.id,
    )
    assert session.agent.system == "for this once"
    assert len(session.agent.tools) == 1
    assert client.beta.agents.retrieve(agent.id).system == "the agent's own"


@needs("initial events of sessions")
def test_initial_events_start_the_session(client: Client, agent: Any, make_session: Callable[..., Any]) -> None:
    session = make_session(agent, initial_events=[message(bash("echo first"))])
    assert session.status == "running"
    assert "first" in outputs(follow(client, session.id))[0]
    assert client.beta.sessions.retrieve(session.id).status == "idle"


def test_an_update_merges_metadata(client: Client, agent: Any, make_session: Callable[..., Any]) -> None:
    session = make_session(agent, title="before", metadata={"kept": "yes", "dropped": "yes"})
    updated = client.beta.sessions.update(session.id, title="after", metadata={"dropped": None, "added": "yes"})
    assert (updated.title, updated.metadata) == ("after", {"kept": "yes", "added": "yes"})
    assert client.beta.sessions.retrieve(session.id).metadata == updated.metadata


def test_tools_of_an_idle_session_may_be_replaced(client: Client, agent: Any, make_session: Callable[..., Any]) -> None:
    session = make_session(agent)
    assert client.beta.sessions.update(session.id, agent={"tools": []}).agent.tools == []
    assert len(client.beta.agents.retrieve(agent.id).tools) == 1


def test_sessions_come_in_either_order_over_pages(client: Client, agent: Any, make_session: Callable[..., Any]) -> None:
    made = [make_session(agent).id for _ in range(5)]
    newest_first = client.beta.sessions.list(agent_id=agent.id, limit=2)
    assert [session.id for session in newest_first.data] == [made[4], made[3]]
    assert [session.id for session in newest_first] == list(reversed(made))
    oldest_first = client.beta.sessions.list(agent_id=agent.id, limit=2, order="asc")
    assert [session.id for session in oldest_first] == made


@needs("backward pages of sessions")
def test_pages_of_sessions_lead_back(client: Client, agent: Any, make_session: Callable[..., Any]) -> None:
    made = [make_session(agent).id for _ in range(4)]
    first = client.beta.sessions.list(agent_id=agent.id, limit=2)
    assert first.prev_page is None
    second = first.get_next_page()
    assert [session.id for session in second.data] == [made[1], made[0]]
    assert "next_page" not in second.model_fields_set
    back = client.beta.sessions.list(agent_id=agent.id, limit=2, page=second.prev_page)
    assert [session.id for session in back.data] == [session.id for session in first.data]


def test_sessions_are_filtered(client: Client, agent: Any, environment: Any) -> None:
    one = client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    client.beta.agents.update(agent.id, version=1, system="two")
    two = client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    client.beta.sessions.archive(two.id)

    def listed(**filters: Any) -> set[str]:
        return {session.id for session in client.beta.sessions.list(agent_id=agent.id, **filters)}

    assert listed() == {one.id}
    assert listed(include_archived=True) == {one.id, two.id}
    assert listed(include_archived=True, agent_version=2) == {two.id}
    assert listed(include_archived=True, statuses=["terminated"]) == {two.id}
    assert listed(include_archived=True, statuses=["idle", "terminated"]) == {one.id, two.id}
    assert listed(statuses=["running"]) == set()


def test_sessions_are_filtered_by_the_time_of_creation(
    client: Client, agent: Any, make_session: Callable[..., Any]
) -> None:
    made = [make_session(agent) for _ in range(3)]
    middle = made[1].created_at

    def listed(**filters: Any) -> set[str]:
        return {session.id for session in client.beta.sessions.list(agent_id=agent.id, **filters)}

    assert listed(created_at_gt=middle) == {session.id for session in made if session.created_at > middle}
    assert listed(created_at_gte=middle) == {session.id for session in made if session.created_at >= middle}
    assert listed(created_at_lt=middle) == {session.id for session in made if session.created_at < middle}
    assert listed(created_at_lte=middle) == {session.id for session in made if session.created_at <= middle}
    assert listed(created_at_gt=made[2].created_at + timedelta(days=1)) == set()


def test_an_archived_session_is_terminated_and_readable(
    client: Client, agent: Any, make_session: Callable[..., Any]
) -> None:
    session = make_session(agent)
    archived = client.beta.sessions.archive(session.id)
    assert archived.archived_at is not None
    assert client.beta.sessions.retrieve(session.id).status == "terminated"
    events = list(client.beta.sessions.events.list(session.id))
    assert events[-1].type == "session.status_terminated"


def test_a_deleted_session_is_gone(client: Client, agent: Any, make_session: Callable[..., Any]) -> None:
    session = make_session(agent)
    deleted = client.beta.sessions.delete(session.id)
    assert (deleted.id, deleted.type) == (session.id, "session_deleted")
    with pytest.raises(anthropic.NotFoundError):
        client.beta.sessions.retrieve(session.id)
