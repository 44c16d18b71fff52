"""Vaults and credentials."""

from datetime import datetime, timedelta, timezone
from typing import Any, Callable

import anthropic
import pytest
from play import unique
from sdk import Client


@pytest.fixture
def vault(client: Client) -> Any:
    return client.beta.vaults.create(display_name=unique("vault"), metadata={"user": "1"})


def bearer(url: str = "https://mcp.example.com") -> dict[str, Any]:
    return {"type": "static_bearer", "mcp_server_url": url, "token": "hush"}


def oauth(url: str = "https://oauth.example.com") -> dict[str, Any]:
    return {
        "type": "mcp_oauth",
        "mcp_server_url": url,
        "access_token": "hush",
        "expires_at": datetime.now(timezone.utc) + timedelta(days=1),
        "refresh": {
            "client_id": "client",
            "refresh_token": "hush",
            "token_endpoint": "https://id.example.com/token",
            "token_endpoint_auth": {"type": "client_secret_basic", "client_secret": "hush"},
            "scope": "read",
        },
    }


def variable(name: str = "API_KEY") -> dict[str, Any]:
    return {
        "type": "environment_variable",
        "secret_name": name,
        "secret_value": "hush",
        "networking": {"type": "limited", "allowed_hosts": ["api.example.com", "*.example.org"]},
    }


def test_a_vault_is_created_read_changed_archived_and_deleted(client: Client, vault: Any) -> None:
    vaults = client.beta.vaults
    assert vault.id.startswith("vlt_") and vault.type == "vault" and vault.archived_at is None
    assert vaults.retrieve(vault.id) == vault
    changed = vaults.update(vault.id, display_name="other", metadata={"user": None, "team": "a"})
    assert (changed.display_name, changed.metadata) == ("other", {"team": "a"})
    assert vault.id in [listed.id for listed in vaults.list(limit=5)]
    assert vaults.archive(vault.id).archived_at is not None
    assert vault.id not in [listed.id for listed in vaults.list(limit=5)]
    assert vault.id in [listed.id for listed in vaults.list(limit=5, include_archived=True)]
    assert vaults.delete(vault.id).type == "vault_deleted"
    with pytest.raises(anthropic.NotFoundError):
        vaults.retrieve(vault.id)


def test_each_kind_of_credential_is_shown_without_its_secrets(client: Client, vault: Any) -> None:
    credentials = client.beta.vaults.credentials
    made = [
        credentials.create(vault.id, auth=auth, display_name="name", metadata={"a": "b"})
        for auth in (bearer(), oauth(), variable())
    ]
    for credential in made:
        assert credential.id.startswith("vcrd_") and credential.vault_id == vault.id
        assert credentials.retrieve(credential.id, vault_id=vault.id) == credential
        assert "hush" not in credential.to_json()
    assert [credential.auth.type for credential in made] == ["static_bearer", "mcp_oauth", "environment_variable"]
    refresh = made[1].auth.refresh
    assert (refresh.client_id, refresh.scope, refresh.token_endpoint_auth.type) == ("client", "read", "client_secret_basic")
    # As a dictionary: the oldest SDK knows no injection location.
    assert made[2].auth.to_dict()["injection_location"] == {"header": True, "body": False}
    listed = list(credentials.list(vault.id, limit=2))
    assert [credential.id for credential in listed] == [credential.id for credential in reversed(made)]


def test_credentials_are_updated_archived_and_deleted(client: Client, vault: Any) -> None:
    credentials = client.beta.vaults.credentials
    credential = credentials.create(vault.id, auth=oauth())
    updated = credentials.update(
        credential.id,
        vault_id=vault.id,
        display_name="renamed",
        metadata={"a": "b"},
        auth={"type": "mcp_oauth", "access_token": "hush-2", "refresh": {"refresh_token": "hush-3", "scope": ""}},
    )
    assert (updated.display_name, updated.metadata, updated.auth.refresh.scope) == ("renamed", {"a": "b"}, None)
    with pytest.raises(anthropic.BadRequestError, match="does not match this credential's stored type"):
        credentials.update(credential.id, vault_id=vault.id, auth={"type": "static_bearer", "token": "t"})
    assert credentials.archive(credential.id, vault_id=vault.id).archived_at is not None
    assert credentials.delete(credential.id, vault_id=vault.id).type == "vault_credential_deleted"


def test_one_credential_has_a_server(client: Client, vault: Any) -> None:
    credentials = client.beta.vaults.credentials
    credentials.create(vault.id, auth=bearer())
    with pytest.raises(anthropic.ConflictError, match="A credential already exists for this MCP server URL."):
        credentials.create(vault.id, auth=oauth("https://MCP.example.com/"))


def test_a_probe_of_a_server_that_is_not_there_is_unknown(client: Client, vault: Any) -> None:
    credentials = client.beta.vaults.credentials
    credential = credentials.create(vault.id, auth=oauth("https://mcp.invalid"))
    validation = credentials.mcp_oauth_validate(credential.id, vault_id=vault.id)
    assert (validation.status, validation.has_refresh_token) == ("unknown", True)
    assert validation.mcp_probe.method == "initialize" and validation.mcp_probe.http_response is None
    assert validation.refresh is None


def test_bounds_are_kept_at_and_refused_above(client: Client, vault: Any) -> None:
    vaults = client.beta.vaults
    assert vaults.create(display_name="v" * 255).display_name == "v" * 255
    for name in ("", "v" * 256):
        with pytest.raises(anthropic.BadRequestError, match="display_name"):
            vaults.create(display_name=name)
    limited = variable()
    limited["networking"]["allowed_hosts"] = ["a.example"] * 16
    vaults.credentials.create(vault.id, auth=limited)
    limited["networking"]["allowed_hosts"].append("b.example")
    with pytest.raises(anthropic.BadRequestError, match="allowed_hosts"):
        vaults.credentials.create(vault.id, auth=limited)
    for i in range(19):
        vaults.credentials.create(vault.id, auth=variable(f"KEY_{i}"))
    with pytest.raises(anthropic.BadRequestError, match="20 credentials"):
        vaults.credentials.create(vault.id, auth=variable("ONE_MORE"))


def test_sessions_and_deployments_name_vaults(
    client: Client, vault: Any, agent: Any, make_session: Callable[..., Any], make_deployment: Callable[..., Any]
) -> None:
    assert make_session(agent, vault_ids=[vault.id]).vault_ids == [vault.id]
    deployment = make_deployment(vault_ids=[vault.id])
    assert deployment.vault_ids == [vault.id]
    client.beta.vaults.delete(vault.id)
    run = client.beta.deployments.run(deployment.id)
    assert run.session_id is None and run.error.type == "vault_not_found_error"
    with pytest.raises(anthropic.NotFoundError, match="Referenced vault not found or not accessible."):
        make_session(agent, vault_ids=[vault.id])
