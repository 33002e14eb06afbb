"""Two questions to whatever listens on a Redis socket, asked without a client."""

import asyncio
import socket
import struct
import sys
from pathlib import Path


async def is_serving(path: Path, *, timeout_s: float) -> bool:
    """Whether the server accepts connections and has loaded its data."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
    except (OSError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()


def peer_pid(writer: asyncio.StreamWriter) -> int | None:
    """The process that listens at the other end, where the system tells."""
    if sys.platform != "linux":
        return None
    connection: socket.socket = writer.get_extra_info("socket")
    credentials = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    pid, _, _ = struct.unpack("3i", credentials)
    return pid
