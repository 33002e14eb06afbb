"""`grpc.health.v1` with two names: `liveness` (it works) and `readiness` (it takes traffic).

The empty name answers as `readiness` does. During a drain only readiness falls: a liveness that
fell with it would make the orchestrator kill what is finishing its streams.
"""

from collections.abc import Callable
from typing import Any, cast

from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.errors import NotFound, Reason, Unavailable
from mesh.exchange import Bell
from mesh.handlers import Context

LIVENESS = "liveness"
READINESS = "readiness"

_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Holds the state and the servicer that reports it.

    `ready` is the component's own opinion. It is asked at every check, and a change is then
    told to the watchers too, so a probe is what drives it.
    """

    def __init__(self, ready: Callable[[], bool] = lambda: True) -> None:
        self._ready = ready
        self._live = False
        self._open = False
        self._closed = False
        self._told = _NOT_SERVING
        self._changed = Bell()
        self.servicer = _Servicer(self)

    async def set_live(self) -> None:
        """Report the process as working, and as not yet ready."""
        self._live = True
        await self.set_ready(False)

    async def set_ready(self, ready: bool) -> None:
        """Report whether the process takes traffic; watchers are told."""
        self._open = ready
        self.statuses()

    def close(self) -> None:
        """End all watches, which would otherwise hold a drain for its whole grace."""
        self._closed = True
        self._changed.ring()

    def statuses(self) -> dict[str, int]:
        """Return what each name answers now."""
        readiness = _SERVING if self._open and self._ready() else _NOT_SERVING
        if readiness != self._told:
            self._told = readiness
            self._changed.ring()
        liveness = _SERVING if self._live else _NOT_SERVING
        return {LIVENESS: liveness, READINESS: readiness, "": readiness}

    async def watch(self, service: str, context: Context) -> None:
        """Write the status of `service` now and at each change, until closed."""
        told: int | None = None
        while not self._closed:
            status = self.statuses().get(service, _UNKNOWN)
            if status == told:
                await self._changed.wait()
                continue
            await context.write(_response(status))
            told = status
        raise Unavailable("the server is stopping", reason=Reason.DRAINING)


def _response(status: int) -> health_pb2.HealthCheckResponse:
    response = health_pb2.HealthCheckResponse()
    response.status = cast("Any", status)
    return response


class _Servicer(health_pb2_grpc.HealthServicer):
    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        status = self._health.statuses().get(request.service)
        if status is None:
            raise NotFound("known here: liveness, readiness and the empty name")
        return _response(status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        await self._health.watch(request.service, context)
