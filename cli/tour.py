"""The steps of `plexus demo`. Each shows what it does, and fails when it did not do it."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import grpc.aio
from rich.console import Console
from rich.table import Table

from cli.answer import Answer, events, user_turn
from cli.client import CALL_TIMEOUT_S, MeshClient
from cli.console import plain
from cli.figures import cost, count, milliseconds
from cli.openai_edge import EdgeAnswer, ask_with_openai, ask_with_plain_http
from cli.transcript import Transcript, saving, tokens
from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import DeadlineExceeded, FailedPrecondition
from plexus.common.v1 import message_pb2, scope_pb2
from plexus.memory.v1 import memory_service_pb2 as memory_pb

DOCUMENT: Final = (
    Path(__file__).resolve().parents[1] / "examples/documents/operating-grpc-services.md"
)

CHUNK_BYTES: Final = 4096
INGEST_TIMEOUT_S: Final = 30.0
EMBED_TIMEOUT_S: Final = 120.0
"""How long the embeddings of one small document may take on a slow machine."""
POLL_S: Final = 0.1

ABOUT_DOCUMENT: Final = "What does the server see when a deadline expires?"
A_FACT: Final = "The latency budget of my checkout service is 250 milliseconds."
NEEDS_THE_FACT: Final = "What is the latency budget of my checkout service?"
THE_FACT: Final = "250"
ASKED_TWICE: Final = "How does a retry budget bound the damage of retries?"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One answered turn of the tour."""

    label: str
    answer: Answer


class Tour:
    """Runs the steps in order; `steps` holds the turns that were answered so far."""

    def __init__(
        self,
        client: MeshClient,
        http_url: str,
        *,
        key: str,
        screen: Console,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.steps: list[Step] = []
        self._client = client
        self._http_url = http_url
        self._key = key
        self._screen = screen
        self._clock = clock
        # An agent of its own: what others stored is not seen, and nobody sees what is stored here.
        self._agent_id = f"demo-{secrets.token_hex(4)}"

    async def run(self) -> None:
        """Run every step; raise FailedPrecondition when one did not do what it should."""
        await self._ingest()
        await self._await_embeddings()
        await self._converse()
        await self._await_embeddings(quiet=True)
        await self._hit_the_cache()
        await self._ask_through_openai()

    async def clean_up(self) -> None:
        """Delete what the tour stored; a mesh that is gone by then has the last word."""
        everything = memory_pb.DeleteMemoriesRequest(
            scope=scope_pb2.Scope(agent_id=self._agent_id), filter=memory_pb.MemoryFilter()
        )
        with suppress(grpc.aio.AioRpcError):
            await self._client.memory.DeleteMemories(
                everything, timeout=CALL_TIMEOUT_S, metadata=self._client.metadata
            )

    async def _ingest(self) -> None:
        self._title("1", "Give memory a document to read")
        text = DOCUMENT.read_bytes()
        said = await self._client.memory.IngestDocument(
            self._upload(text), timeout=INGEST_TIMEOUT_S, metadata=self._client.metadata
        )
        words = count(len(text.split()), "word")
        self._say(f"{DOCUMENT.name}: {words}, {count(said.piece_count, 'piece')}")
        _expect(said.piece_count > 0, "the document was not stored")

    async def _upload(self, text: bytes) -> AsyncIterator[memory_pb.IngestDocumentRequest]:
        header = memory_pb.DocumentHeader(
            scope=scope_pb2.Scope(agent_id=self._agent_id),
            document_id=DOCUMENT.name,
            media_type="text/markdown",
            title="Operating gRPC services",
            size_bytes=len(text),
        )
        yield memory_pb.IngestDocumentRequest(header=header)
        for at in range(0, len(text), CHUNK_BYTES):
            yield memory_pb.IngestDocumentRequest(chunk=text[at : at + CHUNK_BYTES])

    async def _await_embeddings(self, *, quiet: bool = False) -> None:
        """Wait until all can be found by meaning, not only by words."""
        waited = 0
        try:
            async with asyncio.timeout(EMBED_TIMEOUT_S):
                while pending := (stats := await self._stats()).pending_embedding_count:
                    waited = max(waited, pending)
                    await self._clock.sleep(POLL_S)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"Embedding took longer than {EMBED_TIMEOUT_S:.0f} s: see `plexus doctor`."
            ) from error
        if not quiet:
            model = stats.embedding_model or "no embedding model: search is by words"
            self._say(f"embedded with {model}; store: {stats.store}")

    async def _stats(self) -> memory_pb.GetMemoryStatsResponse:
        return await self._client.memory.GetMemoryStats(
            memory_pb.GetMemoryStatsRequest(),
            timeout=CALL_TIMEOUT_S,
            metadata=self._client.metadata,
        )

    async def _converse(self) -> None:
        self._title("2", "Talk about it over gRPC, and tell it something")
        first = await self._ask("about the document", ABOUT_DOCUMENT)
        _expect(_recalled(first) > 0, "no piece of the document was recalled")
        await self._ask("a fact", A_FACT, conversation_id=first.conversation_id)
        self._title("3", "Start a new conversation that needs what was said in the old one")
        await self._await_embeddings(quiet=True)
        await self._show_memory(NEEDS_THE_FACT)
        later = await self._ask("needs the fact", NEEDS_THE_FACT)
        _expect(_recalled(later) > 0, "nothing was recalled from the earlier conversation")
        _expect(THE_FACT in later.text, "the answer does not use the fact that was told")

    async def _show_memory(self, query: str) -> None:
        """Show the memory that the next question will find, and how it is found."""
        found = await self._client.memory.SearchMemories(
            memory_pb.SearchMemoriesRequest(
                scope=scope_pb2.Scope(agent_id=self._agent_id),
                query=query,
                filter=memory_pb.MemoryFilter(roles=[message_pb2.ROLE_USER]),
                limit=1,
                explain=True,
            ),
            timeout=CALL_TIMEOUT_S,
            metadata=self._client.metadata,
        )
        for hit in found.hits:
            ranks = hit.explanation
            by_meaning = f"{ranks.dense_score:.2f}" if ranks.dense_rank else "not yet embedded"
            self._say(f"memory knows: “{plain(hit.memory.text)}”")
            self._say(f"found by words (rank {ranks.lexical_rank}) and meaning ({by_meaning})")

    async def _hit_the_cache(self) -> None:
        self._title("4", "Ask the same thing twice, in two new conversations")
        await self._ask("asked first", ASKED_TWICE, remember=False)
        again = await self._ask("asked again", ASKED_TWICE, remember=False)
        _expect(again.is_cached, "the second answer did not come from the cache")

    async def _ask_through_openai(self) -> None:
        is_there = find_spec("openai") is not None
        with_what = "the unmodified OpenAI client" if is_there else "plain HTTP (no openai package)"
        self._title("5", f"Ask once more through the OpenAI edge, with {with_what}")
        ask = ask_with_openai if is_there else ask_with_plain_http
        said: EdgeAnswer = await ask(
            f"{self._http_url}/v1", key=self._key, agent_id=self._agent_id, message=ABOUT_DOCUMENT
        )
        self._screen.print(f"  › {ABOUT_DOCUMENT}", style="bold")
        self._screen.print(f"  {plain(said.text)}")
        self._say(
            f"{said.model} · {said.input_tokens:,}→{said.output_tokens:,} tokens · "
            f"cache {said.cache}"
        )
        _expect(bool(said.text.strip()), "the OpenAI edge gave an empty answer")

    async def _ask(
        self, label: str, message: str, *, conversation_id: str = "", remember: bool = True
    ) -> Answer:
        """Ask, showing the answer as it streams, and note the turn."""
        turn = user_turn(
            message,
            conversation_id=conversation_id,
            agent_id=self._agent_id,
            remember=remember,
            key=secrets.token_hex(16),
        )
        self._screen.print(f"  › {message}", style="bold")
        answer = Answer()
        shown = Transcript(answer, self._screen, self._screen, verbose=False)
        async with aclosing(events(self._client, turn)) as stream:
            async for event in stream:
                answer.add(event)
                shown.show(event)
        if answer.failure is not None:
            raise answer.failure
        shown.close()
        self.steps.append(Step(label=label, answer=answer))
        return answer

    def _title(self, number: str, text: str) -> None:
        self._screen.print(f"\n{number}. {text}", style="bold cyan")

    def _say(self, text: str) -> None:
        self._screen.print(f"  {text}", style="dim", soft_wrap=True)


def results_table(steps: Sequence[Step]) -> Table:
    """Return a line for each turn: stages, memories, cache, tokens, cost, saving."""
    names = _stage_names(steps)
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.add_column("turn")
    for name in names:
        table.add_column(name, justify="right")
    for name in ("all", "memories", "cache", "tokens", "cost", "saved"):
        table.add_column(name, justify="left" if name == "cache" else "right")
    for step in steps:
        times = _stage_times(step.answer)
        completed = step.answer.completed
        table.add_row(
            step.label,
            *(milliseconds(times[name]) if name in times else "" for name in names),
            milliseconds(completed.duration_ms) if completed else "",
            str(_recalled(step.answer)),
            step.answer.cache_words,
            tokens(step.answer).removesuffix(" tokens"),
            cost(step.answer.usage.cost),
            saving(step.answer),
        )
    return table


def as_data(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the same as plain data."""
    return [
        {
            "turn": step.label,
            "text": step.answer.text,
            "conversation_id": step.answer.conversation_id,
            "stages_ms": _stage_times(step.answer),
            "duration_ms": step.answer.completed.duration_ms if step.answer.completed else None,
            "recalled_count": _recalled(step.answer),
            "cache": step.answer.cache_words,
            "input_tokens": step.answer.usage.usage.input_tokens,
            "output_tokens": step.answer.usage.usage.output_tokens,
            "cost": cost(step.answer.usage.cost),
            "saved": saving(step.answer),
        }
        for step in steps
    ]


def _stage_times(answer: Answer) -> dict[str, float]:
    times: dict[str, float] = {}
    for stage in answer.stages:
        times[stage.name] = times.get(stage.name, 0.0) + stage.duration_ms
    return times


def _stage_names(steps: Sequence[Step]) -> list[str]:
    """Return the stages in the order in which they were first seen."""
    return list(dict.fromkeys(stage.name for step in steps for stage in step.answer.stages))


def _recalled(answer: Answer) -> int:
    return answer.completed.recalled_count if answer.completed else 0


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise FailedPrecondition(
            f"The demo stopped: {otherwise}; `plexus doctor` says what may be wrong."
        )
