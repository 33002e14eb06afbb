"""Gathers the context of a turn: asks for the window and the relevant at once, then packs both."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.memory import recall
from services.memory.recall import Recalled
from services.memory.searching import Found, Searching
from services.memory.store import Item, MemoryStore, Query


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What to gather context for; see RecallRequest for the meaning of the limits."""

    user_id: str
    agent_id: str
    conversation_id: str
    query: str
    exclude_texts: frozenset[str]
    window_turns: int
    relevant_limit: int
    token_budget: int


@dataclass(frozen=True, slots=True)
class Context:
    """The items within the budget, and why some may be missing."""

    items: Sequence[Recalled]
    degraded_reason: str = ""


class Gathering:
    """Answers Recall."""

    def __init__(self, store: MemoryStore, searching: Searching, *, min_cosine: float) -> None:
        self._store = store
        self._searching = searching
        self._min_cosine = min_cosine

    async def gather(self, tenant: str, turn: Turn) -> Context:
        """Return the turn's context; the same stored items give the same answer."""
        reading = asyncio.create_task(self._window(tenant, turn))
        try:
            found = await self._relevant(tenant, turn)
            window = await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        items = recall.pack(
            window,
            found.hits,
            query=turn.query,
            exclude_texts=turn.exclude_texts,
            window_turns=turn.window_turns,
            relevant_limit=turn.relevant_limit,
            token_budget=turn.token_budget,
        )
        return Context(items, found.degraded_reason)

    async def _window(self, tenant: str, turn: Turn) -> Sequence[Item]:
        if not turn.conversation_id or turn.window_turns == 0:
            return ()
        where = recall.window_filter(turn.user_id, turn.agent_id, turn.conversation_id)
        limit = turn.window_turns + len(turn.exclude_texts)
        page = await self._store.scan(tenant, where, newest_first=True, limit=limit)
        # A turn that was written late, from an outbox, stands where it was said.
        return sorted(page.items, key=lambda item: (-item.event_us, -item.created_us))

    async def _relevant(self, tenant: str, turn: Turn) -> Found:
        if not turn.query or turn.relevant_limit == 0:
            return Found(())
        # Some hits will be turned away: those of the window, and texts the caller holds.
        spare = turn.window_turns + len(turn.exclude_texts) + 1
        query = Query(
            text=turn.query,
            vector=None,
            where=recall.relevant_filter(turn.user_id, turn.agent_id, turn.conversation_id),
            limit=turn.relevant_limit + spare,
            min_cosine=self._min_cosine,
        )
        return await self._searching.search(tenant, query, self._searching.best_mode)
