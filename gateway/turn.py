"""What is known of a turn while it runs, and the events it sends."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.runs import Run
from gateway.settings import GatewaySettings
from gateway.stages.deliver import Coalescer, size_bytes
from mesh import metrics
from mesh.call import Identity
from mesh.clock import Clock
from mesh.errors import PlexusError
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import message_pb2, model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb

_CALL_OVERHEAD_BYTES = 200
"""What a tool call costs in memory beyond its text, roughly."""


def part_of(kind: str, text: str) -> message_pb2.Part:
    """Return a part of kind "text", "reasoning" or "refusal"."""
    part = message_pb2.Part()
    setattr(part, kind, text)
    return part


@dataclass(slots=True)
class Timing:
    """One stage's verdict, filled in while the stage runs."""

    name: str
    verdict: str = ""


@dataclass(slots=True)
class GrowingCall:
    """A tool call whose arguments come in pieces."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])

    def whole(self) -> message_pb2.ToolCall:
        """Return it as far as it has come."""
        return message_pb2.ToolCall(
            id=self.id, name=self.name, arguments_json="".join(self.arguments)
        )


@dataclass(slots=True)
class Answer:
    """The answer as it grows; becomes a `ModelResponse` once it is whole."""

    parts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    tool_calls: dict[int, GrowingCall] = field(default_factory=dict[int, GrowingCall])
    size_bytes: int = 0
    """What has been received, what a reset voided included."""

    def add(self, kind: str, piece: str) -> None:
        """Append a piece of text, reasoning or refusal."""
        self.size_bytes += size_bytes(piece)
        self.parts.append((kind, piece))

    def add_call(self, index: int, *, id: str = "", name: str = "", arguments: str = "") -> None:
        """Append a piece of the tool call at `index`; id and name are those that come first."""
        call = self.tool_calls.get(index)
        if call is None:
            call = self.tool_calls[index] = GrowingCall()
            self.size_bytes += _CALL_OVERHEAD_BYTES
        call.id = call.id or id
        call.name = call.name or name
        call.arguments.append(arguments)
        self.size_bytes += size_bytes(id) + size_bytes(name) + size_bytes(arguments)

    def clear(self) -> None:
        """Forget everything: a reset voids it."""
        self.parts.clear()
        self.tool_calls.clear()

    def text(self) -> str:
        """Return what was said so far, a refusal included, without reasoning."""
        return "".join(piece for kind, piece in self.parts if kind != "reasoning")

    def produced(self) -> str:
        """Return everything the model wrote so far: what it is paid for."""
        said = [piece for _, piece in self.parts]
        for call in self.tool_calls.values():
            said += (call.name, *call.arguments)
        return "".join(said)

    def message(self) -> message_pb2.Message:
        """Return the assistant message, adjacent pieces of one kind merged."""
        merged: list[tuple[str, list[str]]] = []
        for kind, piece in self.parts:
            if not merged or merged[-1][0] != kind:
                merged.append((kind, []))
            merged[-1][1].append(piece)
        return message_pb2.Message(
            role=message_pb2.ROLE_ASSISTANT,
            parts=[part_of(kind, "".join(pieces)) for kind, pieces in merged],
            tool_calls=[self.tool_calls[index].whole() for index in sorted(self.tool_calls)],
        )


class TurnInProgress:
    """One turn's state. The stages read and extend it; `send` is the way out."""

    def __init__(
        self,
        run: Run,
        turn: pb.Turn,
        identity: Identity,
        settings: GatewaySettings,
        clock: Clock,
    ) -> None:
        self.run = run
        self.turn = turn
        if not turn.scope.conversation_id:
            # Named after the run, so that a repeat under the same key finds the same one.
            turn.scope.conversation_id = f"conv-{run.id[:16]}"
        self.identity = identity
        self.clock = clock
        self.started_s = clock.monotonic_s()
        self.started_ns = clock.time_ns()
        self.coalescer = Coalescer(
            run.append,
            clock,
            interval_s=settings.flush_interval_ms / 1000,
            max_bytes=settings.flush_bytes,
        )
        self.answer = Answer()
        self.stages: list[metrics_pb.StageTiming] = []
        self.request = turn.request
        self.recalled_count = 0
        self.lookup = cache_pb.LookupResponse()
        self.response: model_pb2.ModelResponse | None = None
        self.failed_attempts: list[metrics_pb.UsageEvent] = []
        self.estimated_input_tokens = 0
        self.attempted: tuple[str, str] | None = None
        """Provider and model of the attempt in progress, or of the one that answered."""
        self.upstream_s = 0.0

    @property
    def is_hit(self) -> bool:
        """Whether the answer came from the cache."""
        return self.lookup.HasField("response")

    def send(self, event: pb.ChatResponse) -> None:
        """Append an event after the text gathered so far."""
        self.coalescer.flush()
        self.run.append(event)

    def warn(self, component: str, error: PlexusError) -> None:
        """Tell the reader what went less well."""
        warning = pb.Warning(reason=error.reason, component=component, message=error.message)
        self.send(pb.ChatResponse(warning=warning))

    @contextmanager
    def stage(self, name: str) -> Generator[Timing]:
        """Time a stage; it is reported when it ends, also when it fails."""
        timing = Timing(name)
        started_s = self.clock.monotonic_s()
        try:
            yield timing
        finally:
            took_s = self.clock.monotonic_s() - started_s
            metrics.STAGE_DURATION.labels(name).observe(took_s)
            self.stages.append(metrics_pb.StageTiming(stage=name, duration_ms=took_s * 1000))
            if not self.turn.quiet:
                stage = pb.Stage(name=name, duration_ms=took_s * 1000, verdict=timing.verdict)
                self.send(pb.ChatResponse(stage=stage))

    def elapsed_ms(self) -> float:
        """Milliseconds since the turn was admitted."""
        return (self.clock.monotonic_s() - self.started_s) * 1000

    def first_text_ms(self) -> float:
        """Milliseconds from admission to the first text; 0 before it."""
        first_s = self.coalescer.first_s
        return 0.0 if first_s is None else (first_s - self.started_s) * 1000
