"""Writes on a store without transactions.

What the engine process does in one step is done here in steps that may be repeated and
interleaved. A write is conditional on the version it read, and read back to see whether it won.
Every revision has a name and remembers the one before, so that a writer recognises its own write
even when the next one already stands on it. A receipt is put down before the items, with their
ids: whoever repeats a write that was cut short writes the same revisions of the same items.
"""

import secrets
from collections.abc import Sequence
from dataclasses import replace

import qdrant_edge as edge

from mesh.clock import Clock
from mesh.errors import Conflict
from services.memory import payload as fields
from services.memory.engine_link import key_reused
from services.memory.filters import EXPIRES, TENANT, all_of, between, equals
from services.memory.ids import fingerprint, point_id, record_point
from services.memory.payload import Payload, to_payload
from services.memory.qdrant_protos import points_pb2 as qdrant
from services.memory.receipts import ReceiptBody, decode_receipt, is_expired, next_version
from services.memory.server_filters import point
from services.memory.server_points import ServerPoints
from services.memory.server_values import sparse, to_map
from services.memory.store import ANY_VERSION, Draft, Outcome, Receipt

WRITE_ATTEMPTS = 4
"""Rounds of read, write and read back before an unconditional write gives up to its rivals."""

Revision = tuple[Draft, str]
"""A draft and the name of the revision it becomes."""


class ServerWrites:
    """Writes items and records."""

    def __init__(self, points: ServerPoints, *, clock: Clock, bm25: edge.Bm25) -> None:
        self._points = points
        self._clock = clock
        self._bm25 = bm25

    async def write(
        self, tenant: str, drafts: Sequence[Draft], receipt: Receipt | None
    ) -> Sequence[Outcome]:
        """Write drafts; see `MemoryStore.write`."""
        if receipt is None:
            return await self._write(tenant, [(d, secrets.token_hex(8)) for d in drafts])
        body = await self._claim(tenant, receipt, [draft.item.id for draft in drafts])
        if body.versions is None:
            outcomes = await self._write(tenant, _claimed(drafts, body, receipt))
            body = replace(body, versions=[each.version for each in outcomes])
            await self.put_record(tenant, receipt.name, body.encode(), receipt.expires_us)
        return [Outcome(i, v) for i, v in zip(body.ids, body.versions or (), strict=True)]

    async def put_record(self, tenant: str, name: str, body: str, expires_us: int) -> None:
        """Keep a record; see `MemoryStore.put_record`."""
        await self._points.upsert([_record(tenant, name, body, expires_us)])

    async def read_record(self, tenant: str, name: str) -> str | None:
        """Return a record; see `MemoryStore.read_record`."""
        at = record_point(tenant, name)
        found = (await self._points.get([at])).get(at)
        if found is None or found.get(fields.RECORD_TENANT) != tenant:
            return None
        return None if is_expired(found, self._now_us()) else str(found[fields.RECORD_BODY])

    async def _claim(self, tenant: str, receipt: Receipt, ids: list[str]) -> ReceiptBody:
        """Put the receipt down, or return the one that was there first."""
        mine = ReceiptBody(receipt.fingerprint, ids, None)
        record = _record(tenant, receipt.name, mine.encode(), receipt.expires_us)
        # Only over nothing, or over a receipt that is no longer valid.
        await self._points.upsert([record], over=between(EXPIRES, None, self._now_us() + 1))
        kept = await self.read_record(tenant, receipt.name)
        if kept is None:
            return mine
        body = decode_receipt(kept)
        if body.fingerprint != receipt.fingerprint:
            raise key_reused()
        return body

    async def _write(self, tenant: str, revisions: Sequence[Revision]) -> list[Outcome]:
        versions: dict[str, int | None] = {}
        waiting = list(revisions)
        for _ in range(WRITE_ATTEMPTS):
            waiting = await self._attempt(tenant, waiting, versions)
            if not waiting:
                break
        if any(draft.expected_version == ANY_VERSION for draft, _ in waiting):
            raise Conflict("others keep rewriting the same memories; try again")
        return [Outcome(draft.item.id, versions.get(draft.item.id)) for draft, _ in revisions]

    async def _attempt(
        self, tenant: str, revisions: Sequence[Revision], versions: dict[str, int | None]
    ) -> list[Revision]:
        """Write what can be written; return what lost to another writer and may try again."""
        ids = [point_id(tenant, draft.item.id) for draft, _ in revisions]
        kept = await self._points.get(ids)
        # One call for each version that is written over; nearly always that is one.
        groups: dict[int, list[qdrant.PointStruct]] = {}
        written: list[tuple[str, Draft, str]] = []
        for at, (draft, revision) in zip(ids, revisions, strict=True):
            before = kept.get(at)
            mine = _own_version(before, revision)
            decided = next_version(draft.expected_version, before, self._now_us())
            if mine is not None or decided is None:
                versions[draft.item.id] = mine
                continue
            payload = to_payload(tenant, draft.item, revision)
            payload[fields.VERSION] = decided[0]
            payload[fields.CREATED] = decided[1] or payload[fields.CREATED]
            payload[fields.PREVIOUS] = before[fields.REVISION] if before else ""
            standing = before[fields.VERSION] if before else 0
            groups.setdefault(standing, []).append(self._item(at, payload))
            written.append((at, draft, revision))
        for standing, batch in groups.items():
            over = all_of(equals(TENANT, tenant), equals(fields.VERSION, standing))
            await self._points.upsert(batch, over=over)
        return await self._read_back(written, versions) if written else []

    async def _read_back(
        self, written: list[tuple[str, Draft, str]], versions: dict[str, int | None]
    ) -> list[Revision]:
        kept = await self._points.get([at for at, _, _ in written])
        for at, draft, revision in written:
            versions[draft.item.id] = _own_version(kept.get(at), revision)
        return [(draft, name) for _, draft, name in written if versions[draft.item.id] is None]

    def _item(self, at: str, payload: Payload) -> qdrant.PointStruct:
        words = self._bm25.embed_document(payload[fields.TEXT])
        vectors = {fields.LEXICAL: qdrant.Vector(sparse=sparse(words))} if words.indices else {}
        return qdrant.PointStruct(
            id=point(at),
            vectors=qdrant.Vectors(vectors=qdrant.NamedVectors(vectors=vectors)),
            payload=to_map(payload),
        )

    def _now_us(self) -> int:
        return self._clock.time_ns() // 1000


def _claimed(drafts: Sequence[Draft], body: ReceiptBody, receipt: Receipt) -> list[Revision]:
    """Return the drafts under the claim's ids, as revisions that are the same in every attempt."""
    return [
        (
            replace(draft, item=replace(draft.item, id=item_id)),
            fingerprint(receipt.name, receipt.fingerprint, str(index))[:16],
        )
        for index, (draft, item_id) in enumerate(zip(drafts, body.ids, strict=True))
    ]


def _own_version(kept: Payload | None, revision: str) -> int | None:
    """Return the version that this revision was written as, if it was."""
    if kept is None:
        return None
    if kept[fields.REVISION] == revision:
        return int(kept[fields.VERSION])
    return int(kept[fields.VERSION]) - 1 if kept.get(fields.PREVIOUS) == revision else None


def _record(tenant: str, name: str, body: str, expires_us: int) -> qdrant.PointStruct:
    payload: Payload = {fields.RECORD_TENANT: tenant, fields.RECORD_BODY: body}
    if expires_us:
        payload[EXPIRES] = expires_us
    return qdrant.PointStruct(
        id=point(record_point(tenant, name)),
        vectors=qdrant.Vectors(vectors=qdrant.NamedVectors()),
        payload=to_map(payload),
    )
