"""Tunnels, their tokens and their certificates."""

from pathlib import Path

import anthropic
import pytest
from play import unique
from sdk import CURRENT, Client

pytestmark = pytest.mark.skipif(anthropic.__version__ != CURRENT, reason="tunnels are those of the current SDK")

TLS = Path(__file__).resolve().parents[3] / "crates" / "rota" / "tests" / "it" / "tls"


def authority(name: str) -> str:
    return (TLS / f"authority_{name}.pem").read_text()


def test_a_tunnel_and_its_token(client: Client) -> None:
    tunnels = client.beta.tunnels
    made = tunnels.create(display_name=unique("tunnel"))
    assert tunnels.retrieve(made.id) == made
    assert made.id in {tunnel.id for tunnel in tunnels.list(limit=1)}
    first = tunnels.reveal_token(made.id)
    assert tunnels.reveal_token(made.id) == first
    second = tunnels.rotate_token(made.id, reason="a test")
    assert second.tunnel_token != first.tunnel_token and tunnels.reveal_token(made.id) == second
    archived = tunnels.archive(made.id)
    assert archived.archived_at is not None and tunnels.archive(made.id) == archived
    assert made.id not in {tunnel.id for tunnel in tunnels.list()}
    assert made.id in {tunnel.id for tunnel in tunnels.list(include_archived=True)}
    with pytest.raises(anthropic.BadRequestError, match="is archived"):
        tunnels.reveal_token(made.id)


def test_a_tunnel_has_two_live_certificates_at_most(client: Client) -> None:
    made = client.beta.tunnels.create()
    certificates = client.beta.tunnels.certificates
    one = certificates.create(made.id, ca_certificate_pem=authority("one"))
    assert certificates.retrieve(one.id, tunnel_id=made.id) == one
    endless = certificates.create(made.id, ca_certificate_pem=authority("endless"))
    assert endless.expires_at is None and one.expires_at is not None
    with pytest.raises(anthropic.BadRequestError, match="has 2 certificates"):
        certificates.create(made.id, ca_certificate_pem=authority("two"))
    assert certificates.archive(one.id, tunnel_id=made.id).archived_at is not None
    certificates.create(made.id, ca_certificate_pem=authority("two"))
    assert len(list(certificates.list(made.id))) == 2
    assert len(list(certificates.list(made.id, include_archived=True, limit=1))) == 3
    with pytest.raises(anthropic.BadRequestError, match="not of a server"):
        certificates.create(made.id, ca_certificate_pem=(TLS / "not_an_authority.pem").read_text())
