"""The interceptors of every Plexus server, in one list, outermost first.

errors → telemetry → identity → admission → deadline → the handler. Telemetry stands outside
identity and admission so that refused and shed calls are counted and logged like others.
The health service and reflection pass identity and admission: probes must be answered
when everything else is shed, or overload would become restarts.
"""

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, NoReturn

import grpc

from mesh import metrics
from mesh.admission import DEFAULT_PRIORITY, Admission
from mesh.call import (
    Call,
    Identity,
    current_call,
    new_trace,
    parse_traceparent,
    set_call,
    valid_request_id,
)
from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import Cancelled, DeadlineExceeded, Internal, PlexusError, trailing_metadata
from mesh.handlers import Behavior, Context, Interceptor, Method
from mesh.identity import Authenticator, check_metadata_size
from mesh.inprocess import PEER
from mesh.logs import Log
from mesh.outgoing import PRIORITY_KEY, REQUEST_ID_KEY, TRACEPARENT_KEY

_EXEMPT_PREFIXES = ("/grpc.health.", "/grpc.reflection.")
_NOBODY = Identity("", "anonymous")

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
        Deadline(default_deadline_s),
    )


_metadata: ContextVar[Mapping[str, str]] = ContextVar("plexus_metadata")


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
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Nobody cancelled this call: the handler let the end of something of its own
                # through. grpc.aio would send no status, and the caller would wait in vain.
                await _abort(context, Cancelled("something that the call waited for was cancelled"))

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
            metadata = metadata_of(context)
            _metadata.set(metadata)
            call = _open(metadata)
            set_call(call)
            error: PlexusError | None = None
            try:
                return await behavior(request, context)
            except PlexusError as raised:
                error = raised
                raise
            except asyncio.CancelledError:
                error = _why_cancelled()
                raise
            except grpc.aio.AbortError:
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
    """Whether the transport says in its own way that the peer, or our own server, is gone."""
    return (
        isinstance(error, grpc.aio.InternalError) or type(error).__name__ == "_ServerStoppedError"
    )


def _why_cancelled() -> PlexusError:
    """Tell the deadline, which cancels handlers as well, from a caller that went away."""
    deadline_s = current_call().deadline_s
    if deadline_s is not None and SYSTEM_CLOCK.monotonic_s() >= deadline_s:
        return DeadlineExceeded("the call's deadline passed")
    return Cancelled("the call was cancelled")


def _code_of(context: Context) -> str:
    code: Any = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK.name


def _open(metadata: Mapping[str, str]) -> Call:
    request_id = valid_request_id(metadata.get(REQUEST_ID_KEY, ""))
    trace = parse_traceparent(metadata.get(TRACEPARENT_KEY, "")) or new_trace()
    return Call(_NOBODY, request_id, None, trace)


def _log(name: str, code: str, took_s: float, error: PlexusError | None, context: Context) -> None:
    # A hop inside the process is part of a request that is logged at its edge already.
    quiet = context.peer() == PEER or name.startswith("grpc.")
    if quiet and not log.debugging:
        return
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
            trusted = context.peer() == PEER
            if not trusted:
                pairs: Any = context.invocation_metadata() or ()
                check_metadata_size(sum(len(key) + len(value) for key, value in pairs))
            identity = self._authenticator.authenticate(_metadata.get(), trusted_peer=trusted)
            call = current_call()
            set_call(Call(identity, call.request_id, call.deadline_s, call.trace))
            return await behavior(request, context)

        return identified


class InFlight:
    """Knows the handlers that run, of both transports.

    A stopped wire server may return before the handlers that it cancelled have cleaned up;
    what they use must not be closed under them.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def intercept(self, method: Method, behavior: Behavior) -> Behavior:
        async def counted(request: Any, context: Context) -> Any:
            task = asyncio.current_task()
            assert task is not None, "handlers run in tasks"
            self._tasks.add(task)
            try:
                return await behavior(request, context)
            finally:
                self._tasks.discard(task)

        return counted

    async def settle(self, timeout_s: float) -> None:
        """Return once no handler runs, or when `timeout_s` has passed."""
        if self._tasks:
            _, ignoring = await asyncio.wait(self._tasks, timeout=timeout_s)
            if ignoring:
                log.warning("handlers still run", count=len(ignoring))


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
                await self._admission.acquire(deadline_s=deadline_s, priority=_priority())
            except PlexusError:
                self._shed.inc()
                raise
            try:
                return await behavior(request, context)
            finally:
                self._admission.release()

        return admitted


def _priority() -> int:
    text = _metadata.get().get(PRIORITY_KEY, "")
    return int(text) if text.isdecimal() and len(text) == 1 else DEFAULT_PRIORITY


class Deadline:
    """Puts the caller's deadline, or the default one, into the context and enforces it.

    grpc.aio does not cancel a handler at the deadline by itself in every state; this does.
    A deadline is always on the machine's clock, as the transports' own are.
    """

    def __init__(self, default_s: float) -> None:
        self._default_s = default_s

    def intercept(self, method: Method, behavior: Behavior) -> Behavior:
        if method.path.startswith(_EXEMPT_PREFIXES):
            return behavior

        async def bounded(request: Any, context: Context) -> Any:
            left_s = time_left_s(context)
            left_s = self._default_s if left_s is None else left_s
            call = current_call()
            deadline_s = SYSTEM_CLOCK.monotonic_s() + left_s
            set_call(Call(call.identity, call.request_id, deadline_s, call.trace))
            if context.peer() == PEER:
                # There every call has a deadline, and a timer of its own.
                return await behavior(request, context)
            timer = asyncio.timeout(left_s)
            try:
                async with timer:
                    return await behavior(request, context)
            except TimeoutError as error:
                if not timer.expired():
                    raise
                raise DeadlineExceeded("the call's deadline passed") from error

        return bounded
