"""Schemathesis plays the contract against a running server: whatever is asked, no fault of the server, and no answer that the contract
does not allow."""

from typing import Any

import schemathesis
from documents import load
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from world import BASE_URL, World, betas

EXAMPLES = 4
"""How often each operation is called with bodies and queries that the contract allows, and as often with others."""

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
KEPT, SPARE = World(), World()
"""Resources that stay, and others for what ends them."""
MET: dict[str, set[int]] = {}
"""The statuses that each operation has answered with."""
PLAYED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    # The same each time: what fails here fails on every machine.
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def schema(name: str, *, tame: bool = False) -> Any:
    loaded = schemathesis.openapi.from_dict(load(name, KEPT.ids, SPARE.ids, tame=tame))
    loaded.config.update(base_url=BASE_URL)
    # A stream has no end.
    return loaded.exclude(path_regex=r"/stream$")


TAME = schema("openapi.json", tame=True)
MANAGED_AGENTS = schema("openapi.json")
GENERAL = schema("general.json")
ADMINISTRATION = schema("administration.json")
OWN = schema("rota.json", tame=True)


def play(case: Any, *, beta: bool = True) -> None:
    path = case.operation.path
    headers = {"x-api-key": KEPT.key_for(path)}
    if beta:
        headers["anthropic-beta"] = betas(path)
    response = case.call_and_validate(headers=headers, checks=CHECKS, timeout=30)
    MET.setdefault(f"{case.method} {path}", set()).add(response.status_code)


@TAME.parametrize()
@PLAYED
def test_as_clients_send_it(case: Any) -> None:
    play(case)


@MANAGED_AGENTS.parametrize()
@PLAYED
def test_with_a_beta_header(case: Any) -> None:
    play(case)


@GENERAL.parametrize()
@PLAYED
def test_without_a_beta_header(case: Any) -> None:
    play(case, beta=False)


@ADMINISTRATION.parametrize()
@PLAYED
def test_administration(case: Any) -> None:
    play(case)


@OWN.parametrize()
@PLAYED
def test_what_is_the_servers_own(case: Any) -> None:
    play(case)


def test_what_was_played_was_done_too() -> None:
    """Who meets nothing but refusals has not seen the answers."""
    refused = sorted(operation for operation, statuses in MET.items() if 200 not in statuses)
    assert len(refused) < len(MET) / 2, refused
