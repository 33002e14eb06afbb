"""The store on an embedded engine: translates the port's types to the engine's plain rows."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mesh.call import remaining_s
from mesh.clock import Clock
from services.memory.engine_link import EngineLink
from services.memory.filters import EVERYTHING, Filter, points
from services.memory.ids import point_id, record_point
from services.memory.payload import to_item, to_payload
from services.memory.scanning import page_of
from services.memory.store import (
    Draft,
    Embedded,
    Hit,
    Item,
    Leg,
    Outcome,
    Page,
    Pending,
    Position,
    Query,
    Receipt,
    StoreStatistics,
)


class EdgeStore:
    """A `MemoryStore` in a folder of this machine."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        dimensions: int,
        call_timeout_ms: int,
        max_in_flight: int,
        flush_interval_ms: int,
        optimize_idle_s: float,
    ) -> None:
        self._clock = clock
        self._call_timeout_s = call_timeout_ms / 1000
        self.link = EngineLink(
            folder=folder.absolute(),
            dimensions=dimensions,
            clock=clock,
            max_in_flight=max_in_flight,
            flush_interval_ms=flush_interval_ms,
            optimize_idle_s=optimize_idle_s,
        )

    @property
    def name(self) -> Literal["edge", "server"]:
        return "edge"

    async def open(self) -> None:
        await self.link.start()

    async def close(self) -> None:
        await self.link.close()

    def is_ready(self) -> bool:
        return self.link.is_ready()

    def statistics(self) -> StoreStatistics:
        counts = self.link.statistics()
        return StoreStatistics(
            calls=counts.calls,
            failures=counts.failures,
            in_flight=counts.in_flight,
            restarts=counts.restarts,
        )

    async def write(
        self,
        tenant: str,
        drafts: Sequence[Draft],
        *,
        receipt: Receipt | None = None,
        synced: bool = False,
    ) -> Sequence[Outcome]:
        rows = [
            (
                point_id(tenant, draft.item.id),
                draft.expected_version,
                to_payload(tenant, draft.item, secrets.token_hex(8)),
            )
            for draft in drafts
        ]
        kept = receipt and (
            record_point(tenant, receipt.name),
            receipt.fingerprint,
            receipt.expires_us,
        )
        outcomes = await self._call(
            "write", tenant, self._now_us(), rows, kept, repeatable=receipt is not None
        )
        if synced:
            await self.flush()
        return [Outcome(item_id, version) for item_id, version in outcomes]

    async def get(self, tenant: str, ids: Sequence[str]) -> Mapping[str, Item]:
        found = await self._read("get", tenant, self._now_us(), [point_id(tenant, i) for i in ids])
        return {item.id: item for item in map(to_item, found)}

    async def scan(
        self,
        tenant: str,
        where: Filter = EVERYTHING,
        *,
        newest_first: bool,
        limit: int,
        after: Position | None = None,
    ) -> Page:
        seen = [point_id(tenant, each) for each in after.seen] if after else []
        found = await self._read(
            "scan",
            tenant,
            self._now_us(),
            where,
            newest_first,
            limit + 1,
            after.created_us if after else None,
            seen,
        )
        return page_of([to_item(each) for each in found], limit=limit, after=after)

    async def count(self, tenant: str, where: Filter = EVERYTHING) -> int:
        return await self._read("count", tenant, self._now_us(), where)

    async def search(self, tenant: str, query: Query) -> Sequence[Hit]:
        rows = await self._read(
            "search",
            tenant,
            self._now_us(),
            query.text,
            query.vector,
            query.where,
            query.limit,
            query.rrf_k,
            (query.dense_weight, query.lexical_weight),
            query.min_cosine,
            query.explain,
        )
        return [
            Hit(to_item(payload), score, Leg(l_rank, l_score), Leg(d_rank, d_score))
            for _, score, payload, l_rank, l_score, d_rank, d_score in rows
        ]

    async def delete(self, tenant: str, where: Filter) -> int:
        return await self._call("delete", tenant, self._now_us(), where, repeatable=False)

    async def delete_ids(self, tenant: str, ids: Sequence[str]) -> int:
        return await self.delete(tenant, points([point_id(tenant, each) for each in ids]))

    async def attach(self, tenant: str, embedded: Sequence[Embedded], *, model: str) -> int:
        rows = [(point_id(tenant, each.id), each.revision, each.vector) for each in embedded]
        return await self._call("attach", tenant, rows, model, repeatable=True)

    async def read_record(self, tenant: str, name: str) -> str | None:
        return await self._read("read_record", tenant, self._now_us(), record_point(tenant, name))

    async def put_record(self, tenant: str, name: str, body: str, *, expires_us: int = 0) -> None:
        point = record_point(tenant, name)
        await self._call("put_record", tenant, point, body, expires_us, repeatable=True)

    async def pending(self, limit: int, *, skip_tenants: Sequence[str] = ()) -> Sequence[Pending]:
        rows = await self._read("pending", limit, list(skip_tenants))
        return [Pending(*row) for row in rows]

    async def pending_count(self, tenant: str) -> int:
        return await self._read("pending_count", tenant, self._now_us())

    async def adopt_model(self, model: str) -> int:
        return await self._call("adopt_model", model, repeatable=True)

    async def sweep(self) -> None:
        await self._call("sweep", self._now_us(), repeatable=True)

    async def flush(self) -> None:
        # A write acknowledged by an engine that then died is replayed by the next one: it is
        # flushed all the same.
        await self._call("flush", repeatable=True)

    def _now_us(self) -> int:
        return self._clock.time_ns() // 1000

    async def _read(self, operation: str, *arguments: Any) -> Any:
        return await self._call(operation, *arguments, repeatable=True)

    async def _call(self, operation: str, *arguments: Any, repeatable: bool) -> Any:
        timeout_s = min(self._call_timeout_s, remaining_s(self._call_timeout_s))
        return await self.link.call(
            operation, *arguments, timeout_s=timeout_s, repeatable=repeatable
        )
