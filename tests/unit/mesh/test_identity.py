"""Who may call, as whom, in every mode."""

import hashlib
from typing import Any

import pytest

from mesh.errors import PermissionDenied, PlexusError, Reason, Unauthenticated
from mesh.identity import Authenticator
from mesh.settings import KeySettings, MeshSettings, Secret

KEY, OTHER = "sk-acme", "sk-globex"
KEYS = {
    "laptop": KeySettings(sha256=hashlib.sha256(KEY.encode()).hexdigest(), tenant="acme"),
    "server": KeySettings(sha256=hashlib.sha256(OTHER.encode()).hexdigest().upper(), tenant="glx"),
}
OPEN = MeshSettings(tenants=("default", "second"))
KEYED = MeshSettings(auth="keys", keys=KEYS, mesh_token=Secret("token"), tenants=())


def who(settings: MeshSettings, *, trusted: bool = False, **metadata: Any) -> tuple[str, str]:
    sent = {key.replace("_", "-"): value for key, value in metadata.items()}
    identity = Authenticator(settings).authenticate(sent, trusted_peer=trusted)
    return identity.tenant, identity.principal


def refusal(settings: MeshSettings, *, trusted: bool = False, **metadata: Any) -> PlexusError:
    with pytest.raises(PlexusError) as caught:
        who(settings, trusted=trusted, **metadata)
    return caught.value


def test_an_open_mesh_takes_the_first_tenant_or_the_one_named() -> None:
    assert who(OPEN) == ("default", "open")
    assert who(OPEN, plexus_tenant="second") == ("second", "open")


def test_an_open_mesh_does_not_mind_a_key() -> None:
    assert who(OPEN, authorization="Bearer anything") == ("default", "open")


def test_an_open_mesh_knows_its_tenants_only() -> None:
    error = refusal(OPEN, plexus_tenant="nobody")
    assert isinstance(error, PermissionDenied)
    assert error.reason == Reason.UNKNOWN_TENANT
    assert "nobody" not in error.message


def test_an_open_mesh_honours_a_key_it_knows() -> None:
    settings = MeshSettings(keys=KEYS)
    assert who(settings, authorization=f"Bearer {OTHER}") == ("glx", "key:server")


@pytest.mark.parametrize(
    "header",
    [{"authorization": f"bearer  {KEY} "}, {"x_api_key": KEY}],
    ids=["bearer", "x-api-key"],
)
def test_a_key_speaks_for_its_tenant(header: dict[str, Any]) -> None:
    assert who(KEYED, **header) == ("acme", "key:laptop")
    assert who(KEYED, plexus_tenant="acme", **header) == ("acme", "key:laptop")


def test_a_key_does_not_speak_for_another_tenant() -> None:
    error = refusal(KEYED, authorization=f"Bearer {KEY}", plexus_tenant="glx")
    assert isinstance(error, PermissionDenied)
    assert error.reason == Reason.TENANT_MISMATCH


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, Reason.MISSING_KEY),
        ({"authorization": "Bearer "}, Reason.MISSING_KEY),
        ({"authorization": f"Basic {KEY}"}, Reason.MISSING_KEY),
        ({"authorization": "Bearer wrong"}, Reason.INVALID_KEY),
        ({"x_api_key": "wrong"}, Reason.INVALID_KEY),
        ({"plexus_tenant": "acme", "plexus_principal": "key:laptop"}, Reason.MISSING_KEY),
    ],
)
def test_without_a_right_key_nobody_gets_in(metadata: dict[str, Any], reason: Reason) -> None:
    error = refusal(KEYED, **metadata)
    assert isinstance(error, Unauthenticated)
    assert error.reason == reason
    assert "wrong" not in error.message


def test_the_mesh_token_speaks_for_any_tenant() -> None:
    sent: dict[str, Any] = {
        "plexus_mesh_token": "token",
        "plexus_tenant": "any",
        "plexus_principal": "key:ana",
    }
    assert who(KEYED, **sent) == ("any", "key:ana")


@pytest.mark.parametrize("token", ["", "tok", "tokens", "t\u00f6ken"])
def test_another_token_is_no_token(token: str) -> None:
    error = refusal(KEYED, plexus_mesh_token=token, plexus_tenant="acme")
    assert error.reason == Reason.MISSING_KEY


def test_an_unset_mesh_token_opens_nothing() -> None:
    settings = MeshSettings(auth="keys", keys=KEYS)
    assert (
        refusal(settings, plexus_mesh_token="", plexus_tenant="acme").reason == Reason.MISSING_KEY
    )


def test_a_peer_in_this_process_names_the_tenant() -> None:
    assert who(KEYED, trusted=True, plexus_tenant="acme") == ("acme", "mesh")


def test_even_a_trusted_peer_must_name_a_tenant() -> None:
    for settings, trusted, sent in (
        (KEYED, True, {}),
        (OPEN, True, {}),
        (KEYED, False, {"plexus_mesh_token": "token"}),
    ):
        assert refusal(settings, trusted=trusted, **sent).reason == Reason.TENANT_REQUIRED
