"""Models, with the managed agents header and without it."""

from typing import Any

import anthropic
import pytest
from sdk import BETA, Client, needs


@pytest.fixture(params=["beta with header", "beta", "general"])
def models(request: pytest.FixtureRequest, client: Client) -> Any:
    if request.param == "beta with header":
        return client.with_options(default_headers={"anthropic-beta": BETA}).beta.models
    return client.beta.models if request.param == "beta" else client.models


def test_the_playbook_is_offered(models: Any) -> None:
    listed = [model.id for model in models.list()]
    assert "playbook" in listed
    assert len(listed) == len(set(listed))


def test_a_listed_model_is_retrieved_as_it_was_listed(models: Any) -> None:
    for model in models.list():
        assert models.retrieve(model.id) == model
        assert model.type == "model"


def test_pages_of_models_hold_what_one_page_holds(models: Any) -> None:
    assert [model.id for model in models.list(limit=1)] == [model.id for model in models.list(limit=1000)]


@needs("model lifecycle")
def test_an_offered_model_is_active(models: Any) -> None:
    assert models.retrieve("playbook").lifecycle == "active"
    assert "playbook" in {model.id for model in models.list(lifecycle=["active"])}
    assert "playbook" not in {model.id for model in models.list(lifecycle=["retired"])}


@needs("model lifecycle")
def test_a_retired_model_is_listed_when_it_is_asked_for(models: Any) -> None:
    assert "claude-opus-4-5" not in {model.id for model in models.list()}
    retired = {model.id: model for model in models.list(lifecycle=["retired", "deprecated"])}["claude-opus-4-5"]
    assert (retired.lifecycle, getattr(retired, "line", "opus")) == ("retired", "opus")
    assert retired.deprecated_at is not None and retired.retires_at is not None
    assert models.retrieve("claude-opus-4-5") == retired


def test_an_unknown_model_is_not_found(models: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as failure:
        models.retrieve("no-such-model")
    assert failure.value.type == "not_found_error"
