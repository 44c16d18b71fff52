"""User profiles in the shapes that the SDK sends and without a beta header, and what needs the vendor."""

import datetime
from typing import Any

import anthropic
import pytest
from play import unique
from sdk import CURRENT, Client

pytestmark = pytest.mark.skipif(anthropic.__version__ != CURRENT, reason="the shapes are those of the current SDK")

ONBOARDED = datetime.datetime(2025, 5, 1, tzinfo=datetime.timezone.utc)


def test_a_profile_lives_and_is_deleted_without_a_beta_header(client: Client) -> None:
    name = unique("customer")
    details = {"reference_id": "row 7", "country": "AT", "entity_type": "business", "onboarded_at": ONBOARDED}
    made = client.user_profiles.create(name=name, external_user_details=details, metadata={"a": "b"})
    assert made.external_user_details.onboarded_at == ONBOARDED
    assert (made.access_type, made.enforcement_status, made.enforcement_actions) == ("application", "unrestricted", [])
    assert client.user_profiles.retrieve(made.id) == made
    changed = client.user_profiles.update(made.id, access_type="passthrough", metadata={"a": "", "c": "d"})
    assert (changed.access_type, changed.metadata, changed.name) == ("passthrough", {"c": "d"}, name)
    assert made.id in {profile.id for profile in client.user_profiles.list(order_by="name", limit=2)}
    assert made.id not in {profile.id for profile in client.user_profiles.list(enforcement_status=["banned"])}
    assert client.user_profiles.delete(made.id).type == "user_profile_deleted"
    with pytest.raises(anthropic.NotFoundError):
        client.user_profiles.retrieve(made.id)


def test_the_beta_resource_has_the_legacy_fields(client: Client) -> None:
    profiles = client.beta.user_profiles
    made = profiles.create(name=unique("customer"), external_id="row 8", external_user_onboarded_at=ONBOARDED)
    assert (made.external_id, made.external_user_onboarded_at, made.trust_grants) == ("row 8", ONBOARDED, {})
    assert client.user_profiles.retrieve(made.id).external_user_details.reference_id == "row 8"
    newer = profiles.retrieve(made.id, betas=["user-profiles-2026-09-04"])
    assert newer.external_user_details is not None and newer.external_user_details.reference_id == "row 8"
    assert profiles.update(made.id, name="renamed").name == "renamed"
    assert made.id in {profile.id for profile in profiles.list()}
    assert profiles.delete(made.id).id == made.id


def test_what_needs_the_vendor_is_refused_or_off(client: Client) -> None:
    profiles = client.beta.user_profiles
    made = profiles.create()
    action: Any = {"type": "enroll_end_user"}
    for ask in (
        lambda: profiles.create_enrollment_url(made.id),
        lambda: profiles.action_urls.create(made.id, action=action),
        lambda: client.user_profiles.action_urls.create(made.id, action=action),
    ):
        with pytest.raises(anthropic.BadRequestError, match="no Verification Portal"):
            ask()
    controls = profiles.providers.google.data_controls
    shown = controls.retrieve(made.id)
    assert (shown.cmek.type, shown.storage.type) == ("disabled", "disabled")
    assert controls.update(made.id, cmek={"type": "disabled"}) == shown
    with pytest.raises(anthropic.BadRequestError, match="cannot be turned on"):
        controls.update(made.id, cmek={"type": "enabled", "external_key_ids": {"eu": "ekey_1"}})


def test_another_workspace_has_none_of_them(client: Client, stranger: Client) -> None:
    made = client.user_profiles.create()
    with pytest.raises(anthropic.NotFoundError):
        stranger.user_profiles.retrieve(made.id)
