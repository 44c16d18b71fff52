"""The server under test, and what the clients need that they cannot create themselves."""

import os
import uuid
from typing import Any, Callable

import anthropic
import pytest

URL = os.environ["ROTA_BASE_URL"]
KEY = os.environ["ROTA_KEY"]


@pytest.fixture
def client() -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=URL, api_key=KEY)


@pytest.fixture(scope="session")
def make_agent() -> Callable[..., str]:
    """Makes an agent with all tools, under this permission policy."""
    official = anthropic.Anthropic(base_url=URL, api_key=KEY)

    def make(policy: str = "always_allow") -> str:
        toolset: Any = {"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": policy}}}
        return official.beta.agents.create(name=f"agent {uuid.uuid4()}", model="playbook", tools=[toolset]).id

    return make


@pytest.fixture(scope="session")
def environment() -> str:
    official = anthropic.Anthropic(base_url=URL, api_key=KEY)
    return official.beta.environments.create(name=f"environment {uuid.uuid4()}").id
