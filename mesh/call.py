"""What a component knows about the call it serves: who, until when, and under which ids.

The server interceptors set the context; outgoing calls read it, so that identity,
deadline and trace travel on without being passed by hand.
"""

import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from mesh.clock import SYSTEM_CLOCK
from mesh.errors import PermissionDenied, Reason
from plexus.common.v1 import scope_pb2


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls. `tenant` is never empty; `principal` names the key or peer, never a secret."""

    tenant: str
    principal: str


@dataclass(frozen=True, slots=True)
class Trace:
    """A W3C trace context: lower-case hex ids, and whether the caller records the trace."""

    trace_id: str
    span_id: str
    sampled: bool = False

    def traceparent(self) -> str:
        """Return the `traceparent` header."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> "Trace":
        """Return the same trace with a new span."""
        return Trace(self.trace_id, secrets.token_hex(8), self.sampled)


@dataclass(frozen=True, slots=True)
class Call:
    """One incoming call. `deadline_s` is on the monotonic clock; None means no deadline."""

    identity: Identity
    request_id: str
    deadline_s: float | None
    trace: Trace


_REQUEST_ID = re.compile(r"[!-~]{1,64}")
# Later versions may append fields; version ff is forbidden.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_current: ContextVar[Call] = ContextVar("plexus_call")


def current_call() -> Call:
    """Return the call being served; raise LookupError outside of one."""
    return _current.get()


def current_call_or_none() -> Call | None:
    """Return the call being served, or None outside of one."""
    return _current.get(None)


def set_call(call: Call) -> None:
    """Make `call` the current one for the rest of this task. For interceptors."""
    _current.set(call)


@contextmanager
def outgoing_call(
    identity: Identity, *, timeout_s: float | None = None, request_id: str | None = None
) -> Generator[Call]:
    """Act for `identity` inside the block: for background work, and for calls from outside gRPC."""
    deadline_s = None if timeout_s is None else SYSTEM_CLOCK.monotonic_s() + timeout_s
    call = Call(identity, valid_request_id(request_id or ""), deadline_s, new_trace())
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


def remaining_s(default: float) -> float:
    """Return the seconds left in the current call, never below 0; `default` without a deadline."""
    call = _current.get(None)
    if call is None or call.deadline_s is None:
        return default
    return max(0.0, call.deadline_s - SYSTEM_CLOCK.monotonic_s())


def resolve_tenant(scope: scope_pb2.Scope) -> str:
    """Return the caller's tenant; refuse a scope that names another one."""
    tenant = current_call().identity.tenant
    if scope.tenant and scope.tenant != tenant:
        raise PermissionDenied(
            "scope.tenant is not the tenant of your key; leave it empty",
            reason=Reason.TENANT_MISMATCH,
        )
    return tenant


def valid_request_id(given: str) -> str:
    """Return `given` if it can be a header and a log field as it is, else a fresh id."""
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()


def new_request_id() -> str:
    """Return a fresh request id of 32 hex digits."""
    return secrets.token_hex(16)


def new_trace() -> Trace:
    """Return a fresh, unsampled trace."""
    return Trace(secrets.token_hex(16), secrets.token_hex(8))


def parse_traceparent(header: str) -> Trace | None:
    """Return the trace in a `traceparent` header, or None when it is malformed."""
    match = _TRACEPARENT.fullmatch(header)
    if match is None:
        return None
    trace_id, span_id, flags = match.groups()
    if not (int(trace_id, 16) and int(span_id, 16)):
        return None
    return Trace(trace_id, span_id, bool(int(flags, 16) & 1))
