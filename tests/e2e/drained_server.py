"""A server to be drained: one streaming method; run by test_drain.py in a process of its own.

Prints its port, then whatever test_drain.py waits for. Arguments: hold and grace in seconds.
"""

import asyncio
import sys
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from grpc import unary_stream_rpc_method_handler

from mesh.handlers import Context, ServiceTable
from mesh.server import ComponentServer, until_signal
from mesh.settings import MeshSettings

SERVICE = "plexus.probe.v1.DrainService"


def say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Counter:
    """Counts up, one number for each line on standard input."""

    name = "probe"

    def __init__(self) -> None:
        self._lines = asyncio.StreamReader()

    def register(self, table: ServiceTable) -> None:
        rpc = unary_stream_rpc_method_handler(
            self.count, StringValue.FromString, StringValue.SerializeToString
        )
        table.add_registered_method_handlers(SERVICE, {"Count": rpc})

    async def count(self, request: Any, context: Context) -> None:
        """Write the request at once; with a number, then that many more as lines come in."""
        await context.write(request)
        try:
            for n in range(int(request.value)):
                await self._lines.readline()
                await context.write(StringValue(value=str(n)))
        finally:
            say(f"handler over {request.value}")

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._lines), sys.stdin.buffer
        )

    async def close(self) -> None:
        say("component closed")

    def readiness(self) -> bool:
        return True


async def serve(hold_s: float, grace_s: float) -> None:
    settings = MeshSettings(drain_hold_s=hold_s, drain_grace_s=grace_s)
    server = ComponentServer(Counter(), settings)
    await server.start()
    say(await server.listen(0))
    await until_signal()
    say("draining")
    await server.drain()
    say("drained")


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]), float(sys.argv[2])))
