"""Who is calling: API key, mesh token, or an open loopback mesh; from that follows the tenant."""

import hashlib
import hmac
from collections.abc import Mapping

from mesh.call import Identity
from mesh.errors import PermissionDenied, Reason, ResourceExhausted, Unauthenticated
from mesh.outgoing import MESH_TOKEN_KEY, PRINCIPAL_KEY, TENANT_KEY
from mesh.settings import MeshSettings

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


class Authenticator:
    """Decides the identity behind a call's metadata. Pure; safe to share."""

    def __init__(self, settings: MeshSettings) -> None:
        self._open = settings.auth == "open"
        self._mesh_token = settings.mesh_token.encode()
        self._keys = {key.sha256.lower(): (name, key.tenant) for name, key in settings.keys.items()}
        self._tenants = {*settings.tenants, *(key.tenant for key in settings.keys.values())}
        self._default_tenant = settings.tenants[0] if settings.tenants else ""

    def authenticate(self, metadata: Mapping[str, str], *, trusted_peer: bool = False) -> Identity:
        """Return the identity; raise Unauthenticated or PermissionDenied.

        A trusted peer is a component in this process; it, and whoever holds the mesh token,
        says itself for which tenant it calls.
        """
        named = metadata.get(TENANT_KEY, "")
        if trusted_peer or self._has_mesh_token(metadata):
            return self._delegated(named, metadata.get(PRINCIPAL_KEY, "mesh"))
        key = _presented_key(metadata)
        if key and self._keys:
            found = self._keys.get(hashlib.sha256(key.encode()).hexdigest())
            if found is not None:
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

    def _of_key(self, found: tuple[str, str], named: str) -> Identity:
        name, tenant = found
        if named and named != tenant:
            raise PermissionDenied(
                f"{TENANT_KEY} names another tenant than your key's; leave it out",
                reason=Reason.TENANT_MISMATCH,
            )
        return Identity(tenant, f"key:{name}")

    def _known(self, tenant: str, principal: str) -> Identity:
        if tenant not in self._tenants:
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


def _presented_key(metadata: Mapping[str, str]) -> str:
    scheme, _, token = metadata.get(AUTHORIZATION_KEY, "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return metadata.get(API_KEY_KEY, "").strip()
