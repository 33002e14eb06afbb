"""What the relay asks of a provider."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from plexus.common.v1 import model_pb2
from services.router.wire.pieces import Event

Emit = Callable[[list[Event]], Awaitable[None]]
"""Takes the events of one network read; returns when the caller has room for more."""


@dataclass(frozen=True, kw_only=True)
class UpstreamCall:
    """One attempt."""

    request: model_pb2.ModelRequest
    model: str
    estimated_input_tokens: int
    idle_timeout_s: float


class Provider(Protocol):
    """One upstream. It streams; it never retries."""

    async def generate(self, call: UpstreamCall, emit: Emit) -> None:
        """Emit the answer's events, `finished` last; raise UpstreamFailure otherwise.

        Nothing is emitted before real content. Cancellation closes the upstream connection at once.
        """
        ...

    async def close(self) -> None:
        """Free connections. Idempotent."""
        ...
