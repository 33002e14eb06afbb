"""A real Redis for tests: a child process on a unix socket, its data in a throw-away folder."""

import os
import signal
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from mesh.redis_server import RedisServer


@asynccontextmanager
async def temporary_redis() -> AsyncGenerator[RedisServer]:
    """Run a Redis for the block. The folder's path is short, as unix sockets need."""
    with tempfile.TemporaryDirectory(prefix="plexus-redis-") as folder:
        server = RedisServer(Path(folder) / "redis", max_memory_bytes=64 << 20, stop_timeout_s=2.0)
        await server.start()
        try:
            yield server
        finally:
            await server.close()


def freeze(server: RedisServer) -> None:
    """Stop the server as a lost disk or a paused virtual machine would: alive, silent."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)


def thaw(server: RedisServer) -> None:
    """Let a frozen server go on."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGCONT)
