"""What the installed SDK is, and that the documented example of a run passes its validation."""

import json
from pathlib import Path

import anthropic
import pytest
from anthropic._models import validate_type
from anthropic.types.beta import BetaManagedAgentsDeploymentRun
from pydantic import ValidationError
from sdk import FEATURES, KNOWN_LACKS

EXAMPLE = json.loads((Path(__file__).parent.parent / "fixtures" / "deployment_run.json").read_text())


def test_the_sdk_lacks_exactly_what_it_is_known_to_lack() -> None:
    lacks = {feature for feature, present in FEATURES.items() if not present}
    assert lacks == KNOWN_LACKS[anthropic.__version__]


def test_the_documented_run_is_valid() -> None:
    run = validate_type(type_=BetaManagedAgentsDeploymentRun, value=EXAMPLE)
    assert run.error is not None and run.error.type == "environment_archived_error"
    assert run.trigger_context.type == "schedule"
    assert run.agent.version == 1


@pytest.mark.parametrize("field", ["id", "agent", "created_at", "deployment_id", "trigger_context", "type"])
def test_a_run_without_a_required_field_is_not_valid(field: str) -> None:
    with pytest.raises(ValidationError):
        validate_type(
            type_=BetaManagedAgentsDeploymentRun,
            value={name: value for name, value in EXAMPLE.items() if name != field},
        )
