"""One turn over gRPC: its events in order, each once, across dropped connections; and their sum.

`events` is the edge; `Answer` is pure: it folds events into what a person wants to know.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Final

import grpc.aio

from cli.client import MeshClient, explain, is_dropped, is_ready
from mesh.errors import InvalidArgument, PlexusError, Reason, Unavailable, from_failure
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import message_pb2, model_pb2, scope_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb

TURN_TIMEOUT_S: Final = 300.0
"""How long one connection of a turn may last."""

RESUME_WINDOW_MS: Final = 15_000
"""How long the mesh keeps a run going without its reader."""

MAX_RESUMES: Final = 5
"""Connections that may break in one turn before we give up."""

CANCEL_TIMEOUT_S: Final = 3.0
"""How long the mesh may take to acknowledge a cancellation."""

TERMINAL = ("completed", "failed")

CACHE_WORDS = {
    cache_pb.VERDICT_EXACT_HIT: "exact hit",
    cache_pb.VERDICT_JOINED_HIT: "joined hit",
    cache_pb.VERDICT_SEMANTIC_HIT: "semantic hit",
    cache_pb.VERDICT_MISS: "miss",
    cache_pb.VERDICT_BYPASS: "bypassed",
    cache_pb.VERDICT_UNAVAILABLE: "unavailable",
}
HITS = (cache_pb.VERDICT_EXACT_HIT, cache_pb.VERDICT_JOINED_HIT, cache_pb.VERDICT_SEMANTIC_HIT)


@dataclass(slots=True)
class Answer:
    """What a turn's events have said so far."""

    sequence: int = 0
    request_id: str = ""
    conversation_id: str = ""
    resume_token: str = ""
    stages: list[pb.Stage] = field(default_factory=list[pb.Stage])
    attempts: list[pb.Attempt] = field(default_factory=list[pb.Attempt])
    warnings: list[pb.Warning] = field(default_factory=list[pb.Warning])
    usage: pb.UsageReport = field(default_factory=pb.UsageReport)
    completed: pb.Completed | None = None
    failure: PlexusError | None = None
    _pieces: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    def add(self, event: pb.ChatResponse) -> None:
        """Take the next event; a reset drops the text that came after the point it names."""
        self.sequence = event.sequence
        match event.WhichOneof("event"):
            case "started":
                self.request_id = event.started.request_id
                self.conversation_id = event.started.conversation_id
                self.resume_token = event.started.resume_token
            case "text" | "refusal":
                self._pieces.append((event.sequence, event.text or event.refusal))
            case "reset":
                kept = event.reset.after_sequence
                self._pieces = [piece for piece in self._pieces if piece[0] <= kept]
            case "stage":
                self.stages.append(event.stage)
            case "attempt":
                self.attempts.append(event.attempt)
            case "warning":
                self.warnings.append(event.warning)
            case "usage":
                self.usage = event.usage
            case "completed":
                self.completed = event.completed
            case "failed":
                self.failure = from_failure(event.failed)
            case _:
                pass

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(piece for _, piece in self._pieces)

    @property
    def is_cached(self) -> bool:
        """Whether the answer came from the cache."""
        return self.completed is not None and self.completed.cache_verdict in HITS

    @property
    def cache_words(self) -> str:
        """How the cache took part, in words."""
        verdict = self.completed and self.completed.cache_verdict
        return CACHE_WORDS.get(verdict or cache_pb.VERDICT_UNSPECIFIED, "unknown")

    @property
    def why(self) -> str:
        """Why the deployment that answered was chosen; empty when none was asked."""
        begun = [attempt for attempt in self.attempts if not attempt.HasField("failure")]
        return begun[-1].why if begun else ""


def user_turn(
    message: str,
    *,
    conversation_id: str = "",
    user_id: str = "",
    agent_id: str = "",
    model: str = "",
    recall: bool = True,
    remember: bool = True,
    use_cache: bool = True,
    key: str = "",
) -> pb.Turn:
    """Return a turn that says `message`. `key` makes repeating the call the same run."""
    said = message_pb2.Message(role=message_pb2.ROLE_USER, parts=[message_pb2.Part(text=message)])
    return pb.Turn(
        scope=scope_pb2.Scope(conversation_id=conversation_id, user_id=user_id, agent_id=agent_id),
        request=model_pb2.ModelRequest(model=model, messages=[said]),
        idempotency_key=key,
        memory=pb.MemoryOptions(no_recall=not recall, no_remember=not remember),
        cache=cache_pb.CacheControl(no_cache=not use_cache, no_store=not use_cache),
        resume_window_ms=RESUME_WINDOW_MS,
    )


async def events(client: MeshClient, turn: pb.Turn) -> AsyncGenerator[pb.ChatResponse]:
    """Yield the turn's events to the terminal one, each once, however often the line breaks.

    A line that breaks before the first event needs the turn's idempotency key to be safe.
    Raises what the mesh refused the turn with, or Unavailable when it cannot be reached again.
    Cancelling the task that reads cancels the run in the mesh, too.
    """
    request = pb.ChatRequest(turn=turn)
    token, sequence, drops = "", 0, 0
    address = client.addresses["gateway"]
    try:
        while True:
            try:
                async for event in _connection(client, request):
                    token = event.started.resume_token or token
                    sequence = event.sequence
                    yield event
                    if event.WhichOneof("event") in TERMINAL:
                        return
            except grpc.aio.AioRpcError as error:
                if not is_dropped(error):
                    raise explain(error, address) from error
                if not token and not (turn.idempotency_key and await is_ready(address)):
                    raise explain(error, address) from error
            drops += 1
            if drops > MAX_RESUMES:
                raise _lost()
            if token:
                resume = pb.Resume(resume_token=token, after_sequence=sequence)
                request = pb.ChatRequest(resume=resume)
    except asyncio.CancelledError:
        await _cancel(client, token)
        raise
    except InvalidArgument as error:
        if drops and error.reason == Reason.INVALID_RESUME_TOKEN:
            raise _lost() from error
        raise


async def _connection(
    client: MeshClient, request: pb.ChatRequest
) -> AsyncGenerator[pb.ChatResponse]:
    """Yield the events of one connection; a resume waits until the mesh can be reached again."""
    is_resume = request.HasField("resume")
    call = client.gateway.Chat(
        request, timeout=TURN_TIMEOUT_S, metadata=client.metadata, wait_for_ready=is_resume
    )
    stream = aiter(call)
    try:
        if is_resume:
            try:
                async with asyncio.timeout(RESUME_WINDOW_MS / 1000):
                    first = await anext(stream, None)
            except TimeoutError:
                raise _lost() from None
            if first is None:
                return
            yield first
        async for event in stream:
            yield event
    finally:
        call.cancel()


async def _cancel(client: MeshClient, token: str) -> None:
    """Cancel the run rather than leave it to its resume window; best effort, bounded in time."""
    if not token:
        return
    try:
        await client.gateway.CancelChat(
            pb.CancelChatRequest(resume_token=token),
            timeout=CANCEL_TIMEOUT_S,
            metadata=client.metadata,
        )
    except grpc.aio.AioRpcError:
        return


def _lost() -> PlexusError:
    return Unavailable(
        "The connection broke and the answer could not be resumed: ask again; what was said is in "
        "memory.",
        reason=Reason.STREAM_INTERRUPTED,
    )
