"""Listings: pages with opaque tokens, and the stream of everything that matches.

A listing is bounded by the newest item there was when it began. Newest first this needs no doing:
what is written later comes before the first page. Oldest first the bound travels in the token.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from mesh.pagination import decode_page_token, encode_page_token
from services.memory import payload as fields
from services.memory.filters import Filter, all_of, between
from services.memory.ids import fingerprint
from services.memory.store import Item, MemoryStore, Position

STREAM_BATCH = 200
_LIST, _STREAM = "memories", "memory-stream"


def query_fingerprint(tenant: str, *parts: bytes) -> bytes:
    """Return what binds a token to its query."""
    return fingerprint(tenant, *parts).encode()


class Listing:
    """Reads in order of creation."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def page(
        self,
        tenant: str,
        where: Filter,
        *,
        newest_first: bool,
        limit: int,
        token: str,
        query: bytes,
    ) -> tuple[Sequence[Item], str]:
        """Return a page and the next one's token, empty at the end."""
        after, bound_us = _read_token(_LIST, query, token)
        if not newest_first:
            bound_us = bound_us or await self._newest_us(tenant, where)
            where = all_of(where, between(fields.CREATED, None, bound_us + 1))
        page = await self._store.scan(
            tenant, where, newest_first=newest_first, limit=limit, after=after
        )
        if page.next is None:
            return page.items, ""
        return page.items, _write_token(_LIST, query, page.next, bound_us)

    async def batches(
        self, tenant: str, where: Filter, *, cursor: str, query: bytes
    ) -> AsyncIterator[tuple[Sequence[Item], str]]:
        """Yield everything that exists now, oldest first, each batch with the cursor after it."""
        position, _ = _read_token(_STREAM, query, cursor)
        bound_us = await self._newest_us(tenant, where)
        bounded = all_of(where, between(fields.CREATED, None, bound_us + 1))
        while True:
            page = await self._store.scan(
                tenant, bounded, newest_first=False, limit=STREAM_BATCH, after=position
            )
            if page.items:
                yield page.items, _write_token(_STREAM, query, page.end, 0)
            if page.next is None:
                return
            position = page.next

    async def _newest_us(self, tenant: str, where: Filter) -> int:
        page = await self._store.scan(tenant, where, newest_first=True, limit=1)
        return page.items[0].created_us if page.items else 0


def _write_token(kind: str, query: bytes, position: Position, bound_us: int) -> str:
    place: dict[str, object] = {"t": position.created_us, "s": list(position.seen), "b": bound_us}
    return encode_page_token(kind, query, place)


def _read_token(kind: str, query: bytes, token: str) -> tuple[Position | None, int]:
    if not token:
        return None, 0
    place = cast("dict[str, Any]", decode_page_token(kind, query, token))
    return Position(created_us=place["t"], seen=tuple(place["s"])), place["b"]
