"""What every outgoing call carries: identity, request id, trace and remaining deadline."""

from mesh.call import current_call_or_none
from mesh.clock import SYSTEM_CLOCK

TENANT_KEY = "plexus-tenant"
PRINCIPAL_KEY = "plexus-principal"
REQUEST_ID_KEY = "x-request-id"
TRACEPARENT_KEY = "traceparent"
MESH_TOKEN_KEY = "plexus-mesh-token"
PRIORITY_KEY = "plexus-priority"

HOP_MARGIN_S = 0.005
"""Kept back at each hop, so that the callee's refusal arrives before the caller gives up."""
DEFAULT_TIMEOUT_S = 30.0
"""For calls that nobody gave a deadline: no remote call is without one."""

Metadata = tuple[tuple[str, str | bytes], ...]


def outgoing(
    path: str, metadata: Metadata, timeout_s: float | None, *, mesh_token: str = ""
) -> tuple[Metadata, float]:
    """Return metadata and timeout to send; a shorter timeout of the caller's own is kept.

    Keys that the caller set itself are not overwritten. The health service is exempt from
    identity, so calls outside any context (probes, start-up) go out as they are.
    """
    call = current_call_or_none()
    if call is None:
        return metadata, DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
    given = {key for key, _ in metadata}
    added: list[tuple[str, str | bytes]] = [
        (TENANT_KEY, call.identity.tenant),
        (PRINCIPAL_KEY, call.identity.principal),
        (REQUEST_ID_KEY, call.request_id),
        (TRACEPARENT_KEY, call.trace.child().traceparent()),
    ]
    if mesh_token:
        added.append((MESH_TOKEN_KEY, mesh_token))
    sent = metadata + tuple(pair for pair in added if pair[0] not in given)
    left_s = DEFAULT_TIMEOUT_S
    if call.deadline_s is not None:
        left_s = max(0.0, call.deadline_s - SYSTEM_CLOCK.monotonic_s() - HOP_MARGIN_S)
    elif timeout_s is not None:
        left_s = timeout_s
    return sent, left_s if timeout_s is None else min(timeout_s, left_s)
