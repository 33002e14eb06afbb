"""How the service and its engine process talk: length-prefixed frames, each a batch of messages.

A frame is a little-endian u32 length and that many bytes of `marshal`. Marshal is the cheapest
coding there is for tuples of strings, numbers and bytes, and needs nothing installed. Its two
warnings do not apply here: both ends are the same interpreter, started from the same executable,
so the format cannot differ; and the peer is our own child on an inherited socket pair that has no
name in the file system, so nobody else can write to it. Frames are never stored.
"""

import marshal
import struct
from typing import Any, cast

Message = tuple[Any, ...]

_HEADER = struct.Struct("<I")
MAX_FRAME_BYTES = 256 * 1024 * 1024
"""Above any frame that the limits of the service allow; more means a broken stream."""


class BrokenFrame(Exception):
    """The stream does not hold frames; the connection is of no more use."""


def encode(messages: list[Message]) -> bytes:
    """Return one frame."""
    body = marshal.dumps(messages)
    if len(body) > MAX_FRAME_BYTES:
        raise BrokenFrame(f"a frame of {len(body)} bytes is above the limit")
    return _HEADER.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into frames, whatever pieces it comes in."""

    def __init__(self, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[list[Message]]:
        """Return the frames that `data` completes; raise BrokenFrame for what is none."""
        frames: list[list[Message]] = []
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER.size:
            (size,) = _HEADER.unpack_from(buffer, start)
            if size > self._max_frame_bytes:
                raise BrokenFrame(f"a frame of {size} bytes is above the limit")
            end = start + _HEADER.size + size
            if len(buffer) < end:
                break
            frames.append(_decode(bytes(buffer[start + _HEADER.size : end])))
            start = end
        del buffer[:start]
        return frames


def _decode(body: bytes) -> list[Message]:
    try:
        messages = marshal.loads(body)
    except (ValueError, EOFError, TypeError) as error:
        raise BrokenFrame("a frame cannot be decoded") from error
    if not isinstance(messages, list):
        raise BrokenFrame("a frame holds no list")
    return cast("list[Message]", messages)
