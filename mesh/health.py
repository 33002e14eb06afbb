"""`grpc.health.v1` with two names: `liveness` (it works) and `readiness` (it takes traffic).

The empty name answers as `readiness` does. During a drain only readiness falls: a liveness that
fell with it would make the orchestrator kill what is finishing its streams.
"""

from grpc_health.v1 import health, health_pb2

LIVENESS = "liveness"
READINESS = "readiness"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Holds the state and the servicer that reports it."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()

    async def set_live(self) -> None:
        """Report the process as working, and as not yet ready."""
        await self.servicer.set(LIVENESS, _SERVING)
        await self.set_ready(False)

    async def set_ready(self, ready: bool) -> None:
        """Report whether the process takes traffic; watchers are told."""
        status = _SERVING if ready else _NOT_SERVING
        await self.servicer.set(READINESS, status)
        await self.servicer.set("", status)
