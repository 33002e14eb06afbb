"""Several replicas behind one channel: calls go where they are answered sooner, and to none that
is draining.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mesh.channel import connect
from mesh.handlers import Context
from mesh.server import ComponentServer
from mesh.settings import MeshSettings
from tests.contract.probe import SETTINGS, Probe, Stub, soon, text

IN_FLIGHT = 16
SLOW_S = 0.05


class Replica:
    """A server that counts its calls and may be slow."""

    def __init__(self, name: str, served: Counter[str], delay_s: float) -> None:
        self._name = name
        self._served = served
        self._delay_s = delay_s
        self.server = ComponentServer(Probe({"Unary": self._answer}), MeshSettings(**SETTINGS))
        self.address = ""

    async def _answer(self, request: Any, context: Context) -> Any:
        self._served[self._name] += 1
        await asyncio.sleep(self._delay_s)
        return request

    async def start(self) -> None:
        await self.server.start()
        self.address = f"127.0.0.1:{await self.server.listen(0)}"


@asynccontextmanager
async def replicas(served: Counter[str], **delays_s: float) -> AsyncGenerator[list[Replica]]:
    """Serve one replica for each name, as slow as said."""
    running = [Replica(name, served, delay_s) for name, delay_s in delays_s.items()]
    try:
        for replica in running:
            await replica.start()
        yield running
    finally:
        for replica in running:
            await replica.server.drain()


async def call_on(stub: Stub, count: int) -> None:
    limit = asyncio.Semaphore(IN_FLIGHT)

    async def one() -> None:
        async with limit:
            await stub.unary(text("x"))

    await asyncio.gather(*(one() for _ in range(count)))


async def until(stub: Stub, served: Counter[str], good: Callable[[], bool]) -> None:
    """Call on until the replicas' shares of a hundred calls are `good`."""
    while True:
        served.clear()
        await call_on(stub, 100)
        if good():
            return


async def test_a_slow_replica_gets_fewer_calls() -> None:
    served: Counter[str] = Counter()
    async with (
        replicas(served, fast=0.0, slow=SLOW_S) as running,
        connect(",".join(each.address for each in running)) as channel,
    ):
        stub = Stub(channel)
        await soon(until(stub, served, lambda: 0 < served["slow"] < served["fast"] / 3))


async def test_a_draining_replica_gets_no_new_call_and_nothing_fails() -> None:
    served: Counter[str] = Counter()
    async with (
        replicas(served, one=0.0, two=0.0) as running,
        connect("ipv4:" + ",".join(each.address for each in running)) as channel,
    ):
        stub = Stub(channel)
        await soon(until(stub, served, lambda: set(served) == {"one", "two"}))
        await running[0].server.health.set_ready(False)
        await soon(until(stub, served, lambda: set(served) == {"two"}))
        await running[0].server.health.set_ready(True)
        await soon(until(stub, served, lambda: set(served) == {"one", "two"}))
