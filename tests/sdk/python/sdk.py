"""The official client in its strictest form, and what the SDK of this environment is known to lack."""

import inspect
import os
from typing import Any, Iterator, get_args

import anthropic
import pytest
from anthropic import pagination, types
from anthropic._models import construct_type
from anthropic.types import beta
from anthropic.types.beta import sessions
from pydantic import BaseModel

CURRENT = "2.14.0"
EARLIER = "2.12.0"
SEED = "0.111.0"

BASE_URL = os.environ["ROTA_BASE_URL"]
KEY = os.environ["ROTA_KEY"]
OTHER_KEY = os.environ["ROTA_OTHER_KEY"]
SPARE_KEY = os.environ["ROTA_SPARE_KEY"]
ADMIN_KEY = os.environ["ROTA_ADMIN_KEY"]
LIMITED_BASE_URL = os.environ["ROTA_LIMITED_BASE_URL"]
LIMITED_KEY = os.environ["ROTA_LIMITED_KEY"]

BETA = "managed-agents-2026-04-01"

# A list of memories has it in each recorded answer of the hosted service; the SDK does not type it.
RECORDED_FIELDS = (".prefixes",)

# The SDK types these with whatever further properties a JSON schema may carry.
OPEN_TYPES = ("BetaManagedAgentsCustomToolInputSchema",)
# The hosted service was recorded to send these, and the SDK's types do not name them.
RECORDED = {"BetaSelfHostedWork": ("actor",)}


class Client(anthropic.Anthropic):
    """Validates each response strictly and, in the current SDK, refuses fields that its types do not name.

    All frames of a stream are named `message`, so an SDK cannot skip an event from after its time: it reads that one
    unvalidated, as a client does by default.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("base_url", BASE_URL)
        options.setdefault("max_retries", 0)
        options.setdefault("timeout", 30.0)
        options["_strict_response_validation"] = True
        super().__init__(**options)

    def _process_response_data(self, *, data: object, cast_to: Any, response: Any) -> Any:
        if isinstance(data, dict) and data.get("type") in LATER_EVENTS[anthropic.__version__]:
            return construct_type(value=data, type_=cast_to)
        parsed = super()._process_response_data(data=data, cast_to=cast_to, response=response)
        if anthropic.__version__ == CURRENT:
            unknown = [path for path in undocumented(parsed) if path not in RECORDED_FIELDS]
            assert not unknown, f"{response.request.method} {response.request.url}: undocumented fields {unknown}"
        return parsed


def undocumented(value: object, path: str = "") -> Iterator[str]:
    """Yields the path of each field that the SDK's types do not name."""
    if isinstance(value, BaseModel):
        if type(value).__name__ not in OPEN_TYPES:
            recorded = RECORDED.get(type(value).__name__, ())
            yield from (f"{path}.{name}" for name in value.model_extra or {} if name not in recorded)
        for name in type(value).model_fields:
            yield from undocumented(getattr(value, name, None), f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from undocumented(item, f"{path}[{index}]")


def takes(method: Any, parameter: str) -> bool:
    """Whether a method of the SDK has this parameter."""
    return parameter in inspect.signature(method).parameters


def optional(method: Any, parameter: str) -> bool:
    """Whether a method of the SDK can be called without this parameter."""
    return inspect.signature(method).parameters[parameter].default is not inspect.Parameter.empty


def event_types() -> list[str]:
    """The event types that this SDK can read from a session's history, which is gone when `session.deleted` comes."""
    events = get_args(get_args(sessions.BetaManagedAgentsSessionEvent)[0])
    types = [get_args(event.model_fields["type"].annotation)[0] for event in events]
    return [type for type in types if type != "session.deleted"]


def features() -> dict[str, bool]:
    """What of the API the installed SDK speaks, read from the SDK itself."""
    api = anthropic.Anthropic(api_key="unused").beta
    return {
        "agent update without a version": optional(api.agents.update, "version"),
        "backward pages of sessions": hasattr(pagination, "SyncBidirectionalPageCursor"),
        "budgets": takes(api.deployments.create, "budget"),
        "environments without a description": not beta.BetaEnvironment.model_fields["description"].is_required(),
        "event deltas": takes(api.sessions.events.stream, "event_deltas"),
        "execution identity": takes(api.agents.create, "execution_identity"),
        "initial events of sessions": takes(api.sessions.create, "initial_events"),
        "model lifecycle": "lifecycle" in types.ModelInfo.model_fields,
        "organization": hasattr(api, "organization"),
        "session usage events": "session.usage" in event_types(),
        "sessions with overrides": hasattr(beta, "BetaManagedAgentsAgentWithOverridesParams"),
        "skills of today": hasattr(beta, "BetaSkillSource"),
        "webhooks of agents": hasattr(beta, "BetaWebhookAgentCreatedEventData"),
    }


FEATURES = features()

# Kept by hand, so that a test is never skipped without a reason written here.
KNOWN_LACKS = {CURRENT: set(), EARLIER: set(), SEED: set(FEATURES)}
LATER_EVENTS = {CURRENT: set(), EARLIER: set(), SEED: {"session.usage"}}


def needs(feature: str) -> pytest.MarkDecorator:
    """Skips a test on an SDK that is known to lack the feature."""
    return pytest.mark.skipif(
        feature in KNOWN_LACKS[anthropic.__version__],
        reason=f"anthropic {anthropic.__version__} has no {feature}",
    )
