"""What every outgoing call carries: identity, request id, trace and remaining deadline."""

import math

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
_ROUNDING_S = 0.002
"""What a timeout may grow by between our clock and gRPC's before gRPC rounds it up."""

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
    added: list[tuple[str, str | bytes]] = [
        (TENANT_KEY, call.identity.tenant),
        (PRINCIPAL_KEY, call.identity.principal),
        (REQUEST_ID_KEY, call.request_id),
        (TRACEPARENT_KEY, call.trace.child().traceparent()),
    ]
    if mesh_token:
        added.append((MESH_TOKEN_KEY, mesh_token))
    if metadata:
        given = {key for key, _ in metadata}
        added = [pair for pair in added if pair[0] not in given]
    sent = metadata + tuple(added)
    left_s = DEFAULT_TIMEOUT_S
    if call.deadline_s is not None:
        left_s = _floor(call.deadline_s - SYSTEM_CLOCK.monotonic_s() - HOP_MARGIN_S)
    elif timeout_s is not None:
        left_s = timeout_s
    return sent, left_s if timeout_s is None else min(timeout_s, left_s)


def _floor(left_s: float) -> float:
    """Round down to three digits: the wire has no more, and would round up, past the caller's."""
    if left_s < 1:
        return max(0.0, left_s)
    step = 10.0 ** (int(math.log10(left_s)) - 2)
    return math.floor(left_s / step) * step - _ROUNDING_S
