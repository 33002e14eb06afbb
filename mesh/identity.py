"""Who is calling: certificate, API key, mesh token, or an open loopback mesh; from that follows
the tenant.
"""

import hmac
from collections.abc import Mapping
from contextvars import ContextVar

from mesh.call import Identity
from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import PermissionDenied, Reason, ResourceExhausted, Unauthenticated
from mesh.keys import ApiKey, KeyRing
from mesh.outgoing import MESH_TOKEN_KEY, PRINCIPAL_KEY, TENANT_KEY
from mesh.settings import SECTIONS, MeshSettings, check_name

AUTHORIZATION_KEY = "authorization"
API_KEY_KEY = "x-api-key"


MAX_METADATA_BYTES = 8 * 1024
"""What a call's metadata, or an HTTP request's headers, may have in names and values."""


def check_metadata_size(size: int) -> None:
    """Raise ResourceExhausted(METADATA_TOO_LARGE) above `MAX_METADATA_BYTES`."""
    if size > MAX_METADATA_BYTES:
        raise ResourceExhausted(
            f"the metadata has {size} bytes; at most {MAX_METADATA_BYTES} are accepted",
            reason=Reason.METADATA_TOO_LARGE,
        )


peer_spiffe_id: ContextVar[str] = ContextVar("plexus_peer_spiffe_id", default="")
"""The SPIFFE id of the certificate that the transport has verified for this call; else empty.
Both edges set it, once for each call, before anybody authenticates."""


class Authenticator:
    """Decides the identity behind a call; safe to share. Needs no more than the keys file."""

    def __init__(self, settings: MeshSettings, *, clock: Clock = SYSTEM_CLOCK) -> None:
        # Where certificates are required a caller without a name in one is not anybody.
        self._open = settings.auth == "open" and settings.tls_client_auth == "none"
        self._mesh_token = settings.mesh_token.encode()
        self._keys = KeyRing(settings, clock=clock)
        self._spiffe_root = f"spiffe://{settings.tls_trust_domain}/"
        self._tenants = set(settings.tenants)
        self._default_tenant = settings.tenants[0] if settings.tenants else ""

    def authenticate(self, metadata: Mapping[str, str], *, trusted_peer: bool = False) -> Identity:
        """Return the identity; raise Unauthenticated or PermissionDenied.

        A trusted peer is a component in this process; it, and whoever holds the mesh token or a
        component's certificate, says itself for which tenant it calls. A tenant's certificate
        comes before a key.
        """
        named = metadata.get(TENANT_KEY, "")
        if trusted_peer or self._has_mesh_token(metadata):
            return self._delegated(named, metadata.get(PRINCIPAL_KEY, "mesh"))
        key = _presented_key(metadata)
        kind, name = certified(peer_spiffe_id.get(), self._spiffe_root)
        if kind == "component" and (named or not key):
            return self._delegated(named, metadata.get(PRINCIPAL_KEY, f"component:{name}"))
        if kind == "tenant":
            return _own(named, Identity(name, f"certificate:{name}"), "certificate")
        if key and (found := self._keys.find(key)) is not None:
            return self._of_key(found, named)
        if not self._open:
            raise self._refusal(key)
        return self._known(named or self._default_tenant, "open")

    def _has_mesh_token(self, metadata: Mapping[str, str]) -> bool:
        presented = metadata.get(MESH_TOKEN_KEY, "").encode()
        return bool(self._mesh_token) and hmac.compare_digest(presented, self._mesh_token)

    def _delegated(self, tenant: str, principal: str) -> Identity:
        if not tenant:
            raise PermissionDenied("the call names no tenant", reason=Reason.TENANT_REQUIRED)
        return Identity(tenant, principal)

    def _of_key(self, found: ApiKey, named: str) -> Identity:
        if self._keys.has_expired(found):
            raise Unauthenticated(
                "this API key has expired; ask for a new one", reason=Reason.INVALID_KEY
            )
        return _own(named, Identity(found.tenant, f"key:{found.id}"), "key")

    def _known(self, tenant: str, principal: str) -> Identity:
        if tenant not in self._tenants and not self._keys.knows_tenant(tenant):
            raise PermissionDenied(
                "this tenant is not configured here; add it to `tenants` in plexus.yaml",
                reason=Reason.UNKNOWN_TENANT,
            )
        return Identity(tenant, principal)

    @staticmethod
    def _refusal(key: str) -> Unauthenticated:
        if key:
            return Unauthenticated("this API key is not valid here", reason=Reason.INVALID_KEY)
        return Unauthenticated(
            "an API key is required: send `authorization: Bearer <key>`", reason=Reason.MISSING_KEY
        )


def certified(spiffe_id: str, root: str) -> tuple[str, str]:
    """Return what a SPIFFE id stands for: ("tenant" or "component", its name), or two blanks.

    `root` is `spiffe://<trust domain>/`. An id of another form or domain stands for nothing.
    """
    kind, slash, name = spiffe_id.removeprefix(root).partition("/")
    if not spiffe_id.startswith(root) or not slash:
        return "", ""
    if kind == "component":
        return (kind, name) if name in SECTIONS and name != "mesh" else ("", "")
    try:
        check_name("tenant", name)
    except ValueError:
        return "", ""
    return (kind, name) if kind == "tenant" else ("", "")


def _own(named: str, identity: Identity, proof: str) -> Identity:
    """Return the identity, unless the call names another tenant."""
    if named and named != identity.tenant:
        raise PermissionDenied(
            f"{TENANT_KEY} names another tenant than your {proof}'s; leave it out",
            reason=Reason.TENANT_MISMATCH,
        )
    return identity


def _presented_key(metadata: Mapping[str, str]) -> str:
    scheme, _, token = metadata.get(AUTHORIZATION_KEY, "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return metadata.get(API_KEY_KEY, "").strip()
