"""The interceptors of every Plexus server, in one list, outermost first.

errors → telemetry → identity → admission → deadline → the handler. Telemetry stands outside
identity and admission so that refused and shed calls are counted and logged like others.
The health service and reflection pass identity and admission: probes must be answered
when everything else is shed, or overload would become restarts.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, NoReturn

import grpc

from mesh import metrics
from mesh.admission import DEFAULT_PRIORITY, Admission
from mesh.call import (
    Call,
    Identity,
    current_call,
    new_request_id,
    new_trace,
    parse_traceparent,
    set_call,
)
from mesh.clock import Clock
from mesh.errors import Cancelled, DeadlineExceeded, Internal, PlexusError, trailing_metadata
from mesh.handlers import Behavior, Context, Interceptor, Method
from mesh.identity import Authenticator
from mesh.inprocess import PEER
from mesh.logs import Log
from mesh.outgoing import PRIORITY_KEY, REQUEST_ID_KEY, TRACEPARENT_KEY

_EXEMPT_PREFIXES = ("/grpc.health.", "/grpc.reflection.")
_NOBODY = Identity("", "anonymous")
_MAX_REQUEST_ID_CHARS = 64

log = Log("rpc")


def interceptors(
    component: str,
    *,
    clock: Clock,
    authenticator: Authenticator,
    admission: Admission,
    default_deadline_s: float,
) -> tuple[Interceptor, ...]:
    """Return the list, outermost first."""
    return (
        ErrorMapping(),
        Telemetry(clock),
        IdentityCheck(authenticator),
        AdmissionControl(component, clock, admission),
        Deadline(clock, default_deadline_s),
    )


def metadata_of(context: Context) -> dict[str, str]:
    """Return the call's text metadata; binary entries are left out."""
    pairs: Any = context.invocation_metadata() or ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def time_left_s(context: Context) -> float | None:
    """Return the seconds to the caller's deadline; None without one, which stubs deny."""
    left_s: Any = context.time_remaining()
    return left_s


class ErrorMapping:
    """Turns errors into statuses with details. An uncaught exception never leaks its text."""

    def intercept(self, method: Method, behavior: Behavior) -> Behavior:
        async def mapped(request: Any, context: Context) -> Any:
            try:
                return await behavior(request, context)
            except PlexusError as error:
                await _abort(context, error)

        return mapped


async def _abort(context: Context, error: PlexusError) -> NoReturn:
    await context.abort(error.code, error.message, trailing_metadata(error))
    raise AssertionError("abort always raises")


class Telemetry:
    """Opens the call's context, then measures and logs it once, whatever its end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def intercept(self, method: Method, behavior: Behavior) -> Behavior:
        name = method.path.lstrip("/")
        durations: dict[str, Any] = {}

        async def measured(request: Any, context: Context) -> Any:
            started_s = self._clock.monotonic_s()
            call = _open(metadata_of(context))
            set_call(call)
            error: PlexusError | None = None
            try:
                return await behavior(request, context)
            except PlexusError as raised:
                error = raised
                raise
            except asyncio.CancelledError:
                error = Cancelled("the call was cancelled")
                raise
            except Exception as raised:
                if _is_transport_end(raised):
                    error = Cancelled("the stream broke")
                    raise
                log.fault("fault", raised, method=name, request_id=call.request_id)
                error = Internal(f"a fault of ours; see the log for request {call.request_id}")
                raise error from raised
            finally:
                code = error.code.name if error else _code_of(context)
                took_s = self._clock.monotonic_s() - started_s
                if code not in durations:
                    durations[code] = metrics.RPC_SERVER_DURATION.labels(name, code)
                durations[code].observe(took_s)
                _log(name, code, took_s, error, context)

        return measured


def _is_transport_end(error: Exception) -> bool:
    """Whether grpc.aio says in its own way that the peer is gone, or that we aborted."""
    return isinstance(error, grpc.aio.AbortError) or type(error).__name__ in (
        "ExecuteBatchError",
        "_Aborted",
    )


def _code_of(context: Context) -> str:
    code: Any = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK.name


def _open(metadata: Mapping[str, str]) -> Call:
    request_id = metadata.get(REQUEST_ID_KEY, "")[:_MAX_REQUEST_ID_CHARS] or new_request_id()
    trace = parse_traceparent(metadata.get(TRACEPARENT_KEY, "")) or new_trace()
    return Call(_NOBODY, request_id, None, trace)


def _log(name: str, code: str, took_s: float, error: PlexusError | None, context: Context) -> None:
    # A hop inside the process is part of a request that is logged at its edge already.
    quiet = context.peer() == PEER or name.startswith("grpc.")
    emit = log.debug if quiet else log.info
    call = current_call()
    emit(
        "call",
        method=name,
        code=code,
        reason=error.reason if error else "",
        duration_ms=took_s * 1000,
        request_id=call.request_id,
        tenant=call.identity.tenant,
        principal=call.identity.principal,
    )


class IdentityCheck:
    """Puts the caller's identity into the call's context, or refuses the call."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def intercept(self, method: Method, behavior: Behavior) -> Behavior:
        if method.path.startswith(_EXEMPT_PREFIXES):
            return behavior

        async def identified(request: Any, context: Context) -> Any:
            identity = self._authenticator.authenticate(
                metadata_of(context), trusted_peer=context.peer() == PEER
            )
            call = current_call()
            set_call(Call(identity, call.request_id, call.deadline_s, call.trace))
            return await behavior(request, context)

        return identified


class AdmissionControl:
    """Bounds concurrency; sheds with RESOURCE_EXHAUSTED and RetryInfo."""

    def __init__(self, component: str, clock: Clock, admission: Admission) -> None:
        self._clock = clock
        self._admission = admission
        statistics = admission.statistics
        metrics.CALLS_IN_FLIGHT.labels(component).set_function(lambda: statistics().running)
        metrics.CALLS_QUEUED.labels(component).set_function(lambda: statistics().queued)
        self._shed = metrics.CALLS_SHED.labels(component)

    def intercept(self, method: Method, behavior: Behavior) -> Behavior:
        if method.path.startswith(_EXEMPT_PREFIXES):
            return behavior

        async def admitted(request: Any, context: Context) -> Any:
            left_s = time_left_s(context)
            deadline_s = None if left_s is None else self._clock.monotonic_s() + left_s
            try:
                await self._admission.acquire(deadline_s=deadline_s, priority=_priority(context))
            except PlexusError:
                self._shed.inc()
                raise
            try:
                return await behavior(request, context)
            finally:
                self._admission.release()

        return admitted


def _priority(context: Context) -> int:
    text = metadata_of(context).get(PRIORITY_KEY, "")
    return int(text) if text.isdigit() and len(text) == 1 else DEFAULT_PRIORITY


class Deadline:
    """Puts the caller's deadline, or the default one, into the context and enforces it.

    grpc.aio does not cancel a handler at the deadline by itself in every state; this does.
    """

    def __init__(self, clock: Clock, default_s: float) -> None:
        self._clock = clock
        self._default_s = default_s

    def intercept(self, method: Method, behavior: Behavior) -> Behavior:
        if method.path.startswith(_EXEMPT_PREFIXES):
            return behavior

        async def bounded(request: Any, context: Context) -> Any:
            left_s = time_left_s(context)
            left_s = self._default_s if left_s is None else left_s
            call = current_call()
            deadline_s = self._clock.monotonic_s() + left_s
            set_call(Call(call.identity, call.request_id, deadline_s, call.trace))
            timer = asyncio.timeout(left_s)
            try:
                async with timer:
                    return await behavior(request, context)
            except TimeoutError as error:
                if not timer.expired():
                    raise
                raise DeadlineExceeded("the call's deadline passed") from error

        return bounded
