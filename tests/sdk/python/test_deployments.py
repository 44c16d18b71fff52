"""Deployments: all of their operations."""

from datetime import timedelta
from itertools import pairwise
from typing import Any, Callable

import anthropic
import pytest
from play import bash, follow, history, message, only, outputs, unique
from sdk import Client

NIGHTLY = {"type": "cron", "expression": "0 3 * * *", "timezone": "Europe/Oslo"}


def test_a_deployment_comes_back_as_it_was_created(client: Client, agent: Any, environment: Any) -> None:
    name = unique("deployment")
    deployment = client.beta.deployments.create(
        name=name,
        agent=agent.id,
        environment_id=environment.id,
        initial_events=[message("Good morning.")],
        description="every night",
        schedule=NIGHTLY,
        metadata={"team": "night"},
    )
    assert deployment.id.startswith("depl_")
    assert (deployment.name, deployment.description) == (name, "every night")
    assert deployment.agent.to_dict() == {"type": "agent", "id": agent.id, "version": 1}
    assert deployment.environment_id == environment.id
    assert [event.to_dict() for event in deployment.initial_events] == [message("Good morning.")]
    assert deployment.metadata == {"team": "night"}
    assert (deployment.resources, deployment.vault_ids) == ([], [])
    assert (deployment.status, deployment.paused_reason, deployment.archived_at) == ("active", None, None)
    assert client.beta.deployments.retrieve(deployment.id) == deployment


def test_a_schedule_tells_its_next_five_occurrences(make_deployment: Callable[..., Any]) -> None:
    schedule = make_deployment(schedule=NIGHTLY).schedule
    assert (schedule.expression, schedule.timezone) == (NIGHTLY["expression"], NIGHTLY["timezone"])
    assert schedule.last_run_at is None
    upcoming = schedule.upcoming_runs_at
    assert len(upcoming) == 5
    assert all(timedelta(hours=23) <= later - sooner <= timedelta(hours=25) for sooner, later in pairwise(upcoming))


def test_a_deployment_pins_the_latest_version_or_the_one_it_names(
    client: Client, agent: Any, make_deployment: Callable[..., Any]
) -> None:
    client.beta.agents.update(agent.id, version=1, system="two")
    latest = make_deployment()
    named = make_deployment(agent={"type": "agent", "id": agent.id, "version": 1})
    client.beta.agents.update(agent.id, version=2, system="three")
    assert client.beta.deployments.retrieve(latest.id).agent.version == 2
    assert client.beta.deployments.retrieve(named.id).agent.version == 1


def test_an_update_changes_what_it_names(client: Client, make_deployment: Callable[..., Any]) -> None:
    deployment = make_deployment(schedule=NIGHTLY, description="old", metadata={"kept": "yes", "dropped": "yes"})
    updated = client.beta.deployments.update(
        deployment.id,
        description=None,
        schedule=None,
        metadata={"dropped": None},
        initial_events=[message("Good evening.")],
    )
    assert (updated.name, updated.description, updated.schedule) == (deployment.name, None, None)
    assert updated.metadata == {"kept": "yes"}
    assert [event.to_dict() for event in updated.initial_events] == [message("Good evening.")]
    assert client.beta.deployments.retrieve(deployment.id) == updated


def test_a_paused_deployment_keeps_its_schedule_until_it_goes_on(
    client: Client, make_deployment: Callable[..., Any]
) -> None:
    deployment = make_deployment(schedule=NIGHTLY)
    for _ in range(2):
        paused = client.beta.deployments.pause(deployment.id)
        assert (paused.status, paused.paused_reason.type) == ("paused", "manual")
        assert len(paused.schedule.upcoming_runs_at) == 5
    active = client.beta.deployments.unpause(deployment.id)
    assert (active.status, active.paused_reason) == ("active", None)


def test_an_archived_deployment_is_read_and_not_changed(client: Client, make_deployment: Callable[..., Any]) -> None:
    deployment = make_deployment(schedule=NIGHTLY)
    archived = client.beta.deployments.archive(deployment.id)
    assert archived.archived_at is not None
    assert (archived.status, archived.schedule.upcoming_runs_at) == ("active", [])
    assert client.beta.deployments.retrieve(deployment.id) == archived
    changes: list[Callable[[], Any]] = [
        lambda: client.beta.deployments.update(deployment.id, name="renamed"),
        lambda: client.beta.deployments.pause(deployment.id),
        lambda: client.beta.deployments.unpause(deployment.id),
        lambda: client.beta.deployments.run(deployment.id),
    ]
    for change in changes:
        with pytest.raises(anthropic.BadRequestError, match="Cannot modify archived deployment"):
            change()
    assert list(client.beta.deployment_runs.list(deployment_id=deployment.id)) == []


def test_archiving_an_agent_archives_its_deployments(client: Client, agent: Any, deployment: Any) -> None:
    archived = client.beta.agents.archive(agent.id)
    assert client.beta.deployments.retrieve(deployment.id).archived_at == archived.archived_at


def test_deployments_come_newest_first_over_pages(
    client: Client, agent: Any, make_deployment: Callable[..., Any]
) -> None:
    made = [make_deployment().id for _ in range(5)]
    page = client.beta.deployments.list(agent_id=agent.id, limit=2)
    assert [deployment.id for deployment in page.data] == [made[4], made[3]]
    assert [deployment.id for deployment in page] == list(reversed(made))


def test_deployments_are_filtered(client: Client, agent: Any, make_deployment: Callable[..., Any]) -> None:
    active, paused, archived = (make_deployment() for _ in range(3))
    client.beta.deployments.pause(paused.id)
    client.beta.deployments.archive(archived.id)

    def listed(**filters: Any) -> set[str]:
        return {deployment.id for deployment in client.beta.deployments.list(agent_id=agent.id, **filters)}

    assert listed() == {active.id, paused.id}
    assert listed(status="active") == {active.id}
    assert listed(status="paused") == {paused.id}
    assert listed(include_archived=True) == {active.id, paused.id, archived.id}
    made = (active, paused, archived)
    middle = paused.created_at
    assert listed(include_archived=True, created_at_gte=middle) == {d.id for d in made if d.created_at >= middle}
    assert listed(include_archived=True, created_at_lte=middle) == {d.id for d in made if d.created_at <= middle}
    with pytest.raises(anthropic.BadRequestError):
        listed(include_archived=True, status="active")


def test_a_run_starts_a_session_that_works_and_rests(
    client: Client, agent: Any, environment: Any, make_deployment: Callable[..., Any]
) -> None:
    deployment = make_deployment(initial_events=[message(bash("echo run number $((40 + 2))"))])
    run = client.beta.deployments.run(deployment.id)
    assert run.id.startswith("drun_")
    assert (run.deployment_id, run.error, run.trigger_context.type) == (deployment.id, None, "manual")
    assert run.agent == deployment.agent
    events = follow(client, run.session_id)
    assert "run number 42" in outputs(events)[0]
    session = client.beta.sessions.retrieve(run.session_id)
    assert (session.status, session.title, session.metadata) == ("idle", deployment.name, {})
    assert (session.deployment_id, session.environment_id) == (deployment.id, environment.id)
    assert only(history(client, run.session_id), "user.message").content[0].type == "text"
    assert client.beta.deployment_runs.retrieve(run.id) == run
    assert [s.id for s in client.beta.sessions.list(deployment_id=deployment.id)] == [run.session_id]


def test_a_paused_deployment_runs_by_hand_and_stays_as_it_was(
    client: Client, make_deployment: Callable[..., Any]
) -> None:
    deployment = make_deployment(schedule=NIGHTLY)
    paused = client.beta.deployments.pause(deployment.id)
    assert client.beta.deployments.run(deployment.id).session_id is not None
    assert client.beta.deployments.retrieve(deployment.id) == paused


def test_one_idempotency_key_makes_one_run(client: Client, deployment: Any) -> None:
    key = {"Idempotency-Key": unique("key")}
    first = client.beta.deployments.run(deployment.id, extra_headers=key)
    assert client.beta.deployments.run(deployment.id, extra_headers=key) == first
    assert client.beta.deployments.run(deployment.id).id != first.id
    assert len(list(client.beta.deployment_runs.list(deployment_id=deployment.id))) == 2


@pytest.mark.parametrize(
    "end, error", [("archive", "environment_archived_error"), ("delete", "environment_not_found_error")]
)
def test_a_run_without_its_environment_is_recorded_as_failed(
    client: Client, environment: Any, deployment: Any, end: str, error: str
) -> None:
    getattr(client.beta.environments, end)(environment.id)
    response = client.beta.deployments.with_raw_response.run(deployment.id)
    assert response.status_code == 200
    run = response.parse()
    assert (run.session_id, run.error.type) == (None, error)
    assert run.error.message
    assert client.beta.deployment_runs.retrieve(run.id) == run
    assert client.beta.deployments.retrieve(deployment.id).status == "active"


def test_a_run_without_an_agent_of_its_roster_is_recorded_as_failed(
    client: Client, make_agent: Callable[..., Any], make_deployment: Callable[..., Any]
) -> None:
    member = make_agent()
    leader = make_agent(multiagent={"type": "coordinator", "agents": [member.id]})
    assert [(agent.id, agent.version) for agent in leader.multiagent.agents] == [(member.id, 1)]
    deployment = make_deployment(agent=leader.id)
    good = client.beta.deployments.run(deployment.id)
    assert [agent.id for agent in client.beta.sessions.retrieve(good.session_id).agent.multiagent.agents] == [member.id]
    client.beta.agents.archive(member.id)
    failed = client.beta.deployments.run(deployment.id)
    assert (failed.session_id, failed.error.type) == (None, "agent_archived_error")
    assert client.beta.deployments.retrieve(deployment.id).archived_at is None
