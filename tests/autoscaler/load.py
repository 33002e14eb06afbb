"""Streams that last as long as a test wants: opened, held by the upstream, and let go."""

import asyncio
from dataclasses import dataclass, field

import grpc.aio

from mesh.testing.upstream import Recorded, Script, ScriptedUpstream
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc
from tests.autoscaler.fleet import Gateway
from tests.e2e.calls import text_of, turn

TOKENS = tuple(f"token-{at} " for at in range(8))
HELD_AT = 3
ANSWER = "".join(TOKENS)
TIMEOUT_S = 300.0
"""Longer than any run: a stream that ends by its deadline has failed."""


@dataclass(slots=True)
class Stream:
    """One turn, read to its end by a task."""

    text: str
    gateway: Gateway
    reading: asyncio.Task[list[pb.ChatResponse]]


@dataclass(slots=True)
class Load:
    """Opens streams at the gateways in turn. Whole and fault-free is every stream, or it raises."""

    upstream: ScriptedUpstream
    open: list[Stream] = field(default_factory=list[Stream])
    """Oldest first; those that the gateways queue are open too."""
    opened: int = 0
    finished: int = 0
    _holds: dict[int, asyncio.Event] = field(default_factory=dict[int, asyncio.Event])

    def start(self, gateways: list[Gateway], count: int) -> None:
        """Open `count` streams, each at the next gateway."""
        for _ in range(count):
            self.opened += 1
            at = gateways[self.opened % len(gateways)]
            text = f"stream {self.opened}"
            hold = self._holds[self.opened] = asyncio.Event()
            # The n-th request to arrive gets the n-th script, whichever stream it is of.
            self.upstream.script(Script(tokens=TOKENS, stall_until=hold, fault_at=HELD_AT))
            self.open.append(Stream(text, at, asyncio.create_task(_read(at.channel, text))))

    async def end(self, streams: list[Stream]) -> None:
        """Let the upstream go on with these, and return when each has ended whole."""
        for stream in streams:
            await self._release(stream.text)
        for stream in streams:
            events = await stream.reading
            assert events[-1].WhichOneof("event") == "completed", events[-1]
            assert text_of(events) == ANSWER
            self.open.remove(stream)
            self.finished += 1

    async def _release(self, text: str) -> None:
        """Wait until a stream's request is there; then let it go on."""
        at = 0
        while True:
            at += 1
            recorded = await self.upstream.wait_for_requests(at)
            if _text(recorded) == text:
                break
        self._holds[at].set()

    async def close(self) -> None:
        """Cancel what is still open."""
        for stream in self.open:
            stream.reading.cancel()
        await asyncio.gather(*(s.reading for s in self.open), return_exceptions=True)


def _text(recorded: Recorded) -> str:
    return str(recorded.body["messages"][-1]["content"])


async def _read(channel: grpc.aio.Channel, text: str) -> list[pb.ChatResponse]:
    request = turn(text)
    request.turn.memory.no_recall = request.turn.memory.no_remember = True
    request.turn.cache.no_cache = request.turn.cache.no_store = True
    stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)
    return [event async for event in stub.Chat(request, timeout=TIMEOUT_S)]
