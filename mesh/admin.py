"""The admin port of a component that runs alone: `/metrics`, `/livez`, `/healthz` over HTTP."""

from collections.abc import Callable

from aiohttp import web

from mesh import metrics

CONTENT_TYPE = "text/plain"


class AdminServer:
    """Serves a process's metrics and readiness over HTTP, without a key: bind it to loopback or
    keep it inside the cluster's network policy.
    """

    def __init__(self, readiness: Callable[[], bool]) -> None:
        self._readiness = readiness
        self._runner: web.AppRunner | None = None

    async def listen(self, host: str, port: int) -> int:
        """Serve and return the port; raises OSError when it is taken."""
        app = web.Application()
        app.router.add_get("/metrics", _metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/livez", _livez)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        ready = self._readiness()
        return web.Response(
            text="ready\n" if ready else "not ready\n", status=200 if ready else 503
        )


async def _livez(request: web.Request) -> web.Response:
    """Answer whenever the process can: a liveness probe must not fall with readiness."""
    return web.Response(text="live\n")


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(body=metrics.exposition(), content_type=CONTENT_TYPE, charset="utf-8")
