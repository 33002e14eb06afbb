"""What a server says of its load, so that clients send more where calls are answered sooner.

Unary answers carry an ORCA report in their trailers (`endpoint-load-metrics-bin`, a serialised
xds.data.orca.v3.OrcaLoadReport), and gRPC's `weighted_round_robin` weighs each replica by calls a
second over utilisation. As utilisation we report the calls in progress: by Little's law the weight
is then one over the mean duration, whatever makes a replica slow. Failures of ours count against
it, or a replica that fails at once would draw all calls.
"""

import struct
from typing import Any, Final

import grpc

from mesh.clock import Clock
from mesh.handlers import Behavior, Context, Method
from mesh.inprocess import PEER

TRAILER: Final = "endpoint-load-metrics-bin"
WINDOW_S: Final = 0.5
"""Over how long calls are counted before a new report."""
_KEPT: Final = 0.5
"""What an earlier report weighs in the next one: a single slow call says little."""

# Field numbers of OrcaLoadReport, each a double: rps_fractional, eps, application_utilization.
_RPS, _EPS, _UTILISATION = b"\x31", b"\x39", b"\x49"
_OURS: Final = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
)


class LoadReport:
    """Counts unary calls and encodes what they say. Pure; time comes with the calls."""

    def __init__(self, *, limit: int) -> None:
        """`limit` is how many calls may be in progress; it sets the scale, and cancels out."""
        self._limit = limit
        self._begun_s: float | None = None
        self._calls = 0
        self._failures = 0
        self._busy_s = 0.0
        self._mean: tuple[float, float, float] | None = None
        self.encoded = b""
        """The latest report; empty before the first."""

    def record(self, now_s: float, duration_s: float, *, failed: bool) -> None:
        """Count a call that has just ended."""
        if self._begun_s is None:
            self._begun_s = now_s
        self._calls += 1
        self._failures += failed
        self._busy_s += duration_s
        elapsed_s = now_s - self._begun_s
        if elapsed_s >= WINDOW_S:
            self._close(elapsed_s)
            self._begun_s = now_s

    def _close(self, elapsed_s: float) -> None:
        fresh = (
            self._calls / elapsed_s,
            self._failures / elapsed_s,
            self._busy_s / elapsed_s / self._limit,
        )
        old = self._mean or fresh
        self._mean = (
            _KEPT * old[0] + (1 - _KEPT) * fresh[0],
            _KEPT * old[1] + (1 - _KEPT) * fresh[1],
            _KEPT * old[2] + (1 - _KEPT) * fresh[2],
        )
        self._calls, self._failures, self._busy_s = 0, 0, 0.0
        fields = zip((_RPS, _EPS, _UTILISATION), self._mean, strict=True)
        self.encoded = b"".join(tag + struct.pack("<d", value) for tag, value in fields)


class LoadReporting:
    """Measures unary calls that come over the wire, and sends the report with their answers."""

    def __init__(self, clock: Clock, *, limit: int) -> None:
        self._clock = clock
        self._report = LoadReport(limit=limit)

    def intercept(self, method: Method, behavior: Behavior) -> Behavior:
        streaming = method.request_streaming or method.response_streaming
        if streaming or method.path.startswith("/grpc."):
            return behavior

        async def reported(request: Any, context: Context) -> Any:
            if context.peer() == PEER:
                return await behavior(request, context)
            started_s = self._clock.monotonic_s()
            failed = True
            try:
                response = await behavior(request, context)
                failed = False
            except BaseException:
                code: Any = context.code()
                failed = code in _OURS
                raise
            finally:
                now_s = self._clock.monotonic_s()
                self._report.record(now_s, now_s - started_s, failed=failed)
            if self._report.encoded:
                context.set_trailing_metadata(((TRAILER, self._report.encoded),))
            return response

        return reported
