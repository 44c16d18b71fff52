"""The record of runs."""

from typing import Any

import anthropic
import pytest
from play import follow
from sdk import Client


def test_runs_come_newest_first_over_pages(client: Client, deployment: Any) -> None:
    made = [client.beta.deployments.run(deployment.id).id for _ in range(5)]
    page = client.beta.deployment_runs.list(deployment_id=deployment.id, limit=2)
    assert [run.id for run in page.data] == [made[4], made[3]]
    assert [run.id for run in page] == list(reversed(made))


def test_runs_are_filtered(client: Client, environment: Any, deployment: Any) -> None:
    good = client.beta.deployments.run(deployment.id)
    client.beta.environments.archive(environment.id)
    failed = client.beta.deployments.run(deployment.id)

    def listed(**filters: Any) -> list[str]:
        return [run.id for run in client.beta.deployment_runs.list(deployment_id=deployment.id, **filters)]

    assert listed() == [failed.id, good.id]
    assert listed(has_error=True) == [failed.id]
    assert listed(has_error=False) == [good.id]
    assert listed(trigger_type="manual") == [failed.id, good.id]
    assert listed(trigger_type="schedule") == []
    both = (failed, good)
    for at in (good.created_at, failed.created_at):
        assert listed(created_at_gt=at) == [run.id for run in both if run.created_at > at]
        assert listed(created_at_gte=at) == [run.id for run in both if run.created_at >= at]
        assert listed(created_at_lt=at) == [run.id for run in both if run.created_at < at]
        assert listed(created_at_lte=at) == [run.id for run in both if run.created_at <= at]


def test_runs_of_all_deployments_are_listed_together(client: Client, deployment: Any) -> None:
    run = client.beta.deployments.run(deployment.id)
    assert run.id in {found.id for found in client.beta.deployment_runs.list(created_at_gte=run.created_at)}


def test_a_well_formed_unknown_deployment_has_no_runs(client: Client, deployment: Any) -> None:
    unknown = deployment.id[:-4] + ("1111" if deployment.id[-4:] != "1111" else "2222")
    assert list(client.beta.deployment_runs.list(deployment_id=unknown)) == []


def test_a_malformed_deployment_id_is_refused(client: Client) -> None:
    with pytest.raises(anthropic.BadRequestError, match="Invalid deployment ID."):
        client.beta.deployment_runs.list(deployment_id="nonsense")


def test_a_run_outlives_its_session(client: Client, deployment: Any) -> None:
    run = client.beta.deployments.run(deployment.id)
    follow(client, run.session_id)
    client.beta.sessions.delete(run.session_id)
    assert client.beta.deployment_runs.retrieve(run.id).session_id == run.session_id
