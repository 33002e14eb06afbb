"""A client of GatewayService that sees when each piece arrives."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc.aio

from bench.schedule import Kind
from bench.upstream import last_token
from bench.window import Call, Timing
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import message_pb2, model_pb2, scope_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc

TURNS_PER_CONVERSATION = 8
CHANNELS = 4
"""Connections that callers share; a mesh has more than one client."""
TIMEOUT_S = 20.0
EVENTS_OF_A_HIT = (cache_pb.VERDICT_EXACT_HIT, cache_pb.VERDICT_JOINED_HIT)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What every turn of a scenario asks for."""

    memory: bool = False
    """Recall and remember; conversations go on for a few turns."""
    cache: bool = False
    """Look the cache up, and store; else neither."""
    repeated: bool = False
    """The same prompt every time; else no two are alike."""
    all_events: bool = False
    """With the events of stages and attempts, which most clients leave out."""


class Turns:
    """Makes the turns of one scenario; each caller is a user with conversations of its own."""

    def __init__(self, model: str, asking: Asking, *, prompt: Callable[[int], str]) -> None:
        self.model = model
        self._asking = asking
        self._prompt = prompt
        self._counts: dict[int, int] = {}

    def next(self, caller: int) -> pb.Turn:
        """Return the caller's next turn."""
        asking = self._asking
        count = self._counts.get(caller, 0)
        self._counts[caller] = count + 1
        said = message_pb2.Message(
            role=message_pb2.ROLE_USER, parts=[message_pb2.Part(text=self._prompt(caller))]
        )
        off = not asking.memory
        conversation = f"{caller}-{count // TURNS_PER_CONVERSATION}" if asking.memory else ""
        return pb.Turn(
            scope=scope_pb2.Scope(
                conversation_id=conversation, user_id=f"user-{caller}" if asking.memory else ""
            ),
            request=model_pb2.ModelRequest(model=self.model, messages=[said]),
            memory=pb.MemoryOptions(no_recall=off, no_remember=off),
            cache=cache_pb.CacheControl(no_cache=not asking.cache, no_store=not asking.cache),
            quiet=not asking.all_events,
        )


class GrpcChat:
    """Calls one gateway."""

    def __init__(self, address: str, turns: Turns, *, wants_hit: bool) -> None:
        own = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options=own) for _ in range(CHANNELS)]
        self._stubs = [
            gateway_service_pb2_grpc.GatewayServiceStub(channel) for channel in self._channels
        ]
        self._turns = turns
        self._last = last_token(turns.model)
        self._wants_hit = wants_hit

    def call(self, kind: Kind) -> Call:
        """Return what makes one call of that kind."""
        return self.stream if kind == "stream" else self.unary

    async def unary(self, caller: int) -> Timing | None:
        """Ask for a whole answer."""
        turn = self._turns.next(caller)
        begun_s = time.perf_counter()
        try:
            stub = self._stubs[caller % CHANNELS]
            said = await stub.Complete(pb.CompleteRequest(turn=turn), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return None
        total_s = time.perf_counter() - begun_s
        text = "".join(part.text for part in said.response.message.parts)
        whole = text.endswith(self._last) and self._is_as_wanted(said.completed)
        return Timing(total_s) if whole else None

    async def stream(self, caller: int) -> Timing | None:
        """Ask for a stream and read it to its end."""
        turn = self._turns.next(caller)
        begun_s = time.perf_counter()
        arrivals_s: list[float] = []
        text, completed = "", None
        stub = self._stubs[caller % CHANNELS]
        try:
            async for event in stub.Chat(pb.ChatRequest(turn=turn), timeout=TIMEOUT_S):
                if event.text:
                    arrivals_s.append(time.perf_counter())
                    text = event.text
                elif event.HasField("completed"):
                    completed = event.completed
        except grpc.aio.AioRpcError:
            return None
        total_s = time.perf_counter() - begun_s
        if completed is None or not text.endswith(self._last) or not self._is_as_wanted(completed):
            return None
        gaps_s = [late - early for early, late in zip(arrivals_s, arrivals_s[1:], strict=False)]
        return Timing(total_s, arrivals_s[0] - begun_s, gaps_s)

    async def close(self) -> None:
        """Close every connection."""
        for channel in self._channels:
            await channel.close()

    def _is_as_wanted(self, completed: pb.Completed) -> bool:
        """A scenario of hits that misses measures something else."""
        return not self._wants_hit or completed.cache_verdict in EVENTS_OF_A_HIT
