"""An answer as it is kept: with its age and epoch, in a versioned and bounded encoding."""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from plexus.common.v1 import model_pb2

VERSION: Final = 1
_PLAIN: Final = 0
_ZLIB: Final = 1
_HEADER: Final = struct.Struct(">BB8sq")
_LEVEL: Final = 1
"""The fastest: answers are text, and the second half of the gain costs five times as much."""


@dataclass(frozen=True, slots=True)
class Record:
    """A complete answer. Never changed once made."""

    response: model_pb2.ModelResponse
    size_bytes: int
    """The size of the serialised answer."""
    epoch: bytes
    """The tenant's epoch when the answer was asked for; 8 bytes."""
    store_time_ms: int
    """When it was stored, in milliseconds of Unix time."""


def is_complete(response: model_pb2.ModelResponse) -> bool:
    """Whether the answer may be kept: the model ended it, or the caller's own token limit did.

    LENGTH counts: the limit is part of the key, so an equal request would end there, too. What a
    policy cut, or ended nobody knows how, may come out better the next time.
    """
    return response.HasField("message") and response.finish_reason in (
        model_pb2.FINISH_REASON_STOP,
        model_pb2.FINISH_REASON_TOOL_CALLS,
        model_pb2.FINISH_REASON_LENGTH,
    )


def encode(record: Record, *, compress_above_bytes: int) -> bytes:
    """Return the record's bytes; takes milliseconds for answers of a megabyte."""
    payload = record.response.SerializeToString()
    codec = _PLAIN
    if len(payload) > compress_above_bytes:
        compressed = zlib.compress(payload, _LEVEL)
        if len(compressed) < len(payload):
            codec, payload = _ZLIB, compressed
    return _HEADER.pack(VERSION, codec, record.epoch, record.store_time_ms) + payload


def decode(data: bytes, *, max_bytes: int) -> Record | None:
    """Return the record; None for another version, damage, or an answer above `max_bytes`."""
    if len(data) < _HEADER.size:
        return None
    version, codec, epoch, store_time_ms = _HEADER.unpack_from(data)
    payload = data[_HEADER.size :]
    if version != VERSION:
        return None
    try:
        if codec == _ZLIB:
            inflate = zlib.decompressobj()
            payload = inflate.decompress(payload, max_bytes + 1)
            if not inflate.eof:
                return None
        response = model_pb2.ModelResponse.FromString(payload)
    except (zlib.error, DecodeError):
        return None
    if len(payload) > max_bytes:
        return None
    return Record(response, len(payload), epoch, store_time_ms)
