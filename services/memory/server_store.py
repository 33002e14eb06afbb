"""The store on a Qdrant server or cluster, over its own gRPC messages."""

from collections.abc import Mapping, Sequence
from typing import Literal

from mesh.clock import Clock
from mesh.errors import FailedPrecondition, Reason, Unimplemented
from services.memory import payload as fields
from services.memory.filters import (
    EVERYTHING,
    EXPIRES,
    TENANT,
    Filter,
    all_of,
    any_of,
    between,
    equals,
    none_of,
    one_of,
    points,
)
from services.memory.ids import point_id
from services.memory.lexical import make_bm25
from services.memory.payload import to_item
from services.memory.qdrant_protos import points_pb2 as qdrant
from services.memory.receipts import is_expired
from services.memory.scanning import page_of
from services.memory.server_filters import raw_to_grpc, to_grpc
from services.memory.server_link import ServerLink
from services.memory.server_points import ServerPoints
from services.memory.server_values import ServerSearch, from_map
from services.memory.server_writes import ServerWrites
from services.memory.store import (
    Draft,
    Embedded,
    Embedding,
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

PENDING = equals(fields.EMBEDDING, Embedding.PENDING.value)


class ServerStore:
    """A `MemoryStore` in one collection. Any number of processes may share it."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        api_key: str,
        collection: str,
        dimensions: int,
        call_timeout_ms: int,
        max_in_flight: int,
    ) -> None:
        self._clock = clock
        self._dimensions = dimensions
        self._bm25 = make_bm25()
        self._link = ServerLink(
            url,
            clock=clock,
            api_key=api_key,
            call_timeout_ms=call_timeout_ms,
            max_in_flight=max_in_flight,
        )
        self._points = ServerPoints(self._link, collection)
        self._writes = ServerWrites(self._points, clock=clock, bm25=self._bm25)

    @property
    def name(self) -> Literal["edge", "server"]:
        return "server"

    @property
    def has_tenant_idf(self) -> bool:
        """Whether the server weighs words within the tenant alone."""
        return self._link.has_tenant_idf

    async def open(self) -> None:
        try:
            await self._link.open(self._points.collection, dimensions=self._dimensions)
        except BaseException:
            await self._link.close()
            raise

    async def close(self) -> None:
        await self._link.close()

    def is_ready(self) -> bool:
        return self._link.is_open

    def statistics(self) -> StoreStatistics:
        link = self._link
        return StoreStatistics(calls=link.calls, failures=link.failures, in_flight=link.in_flight)

    async def write(
        self,
        tenant: str,
        drafts: Sequence[Draft],
        *,
        receipt: Receipt | None = None,
        synced: bool = False,
    ) -> Sequence[Outcome]:
        if synced:
            raise Unimplemented(
                "DURABILITY_SYNCED is not served on a Qdrant server, which cannot be asked to "
                "flush; replicate the collection instead and use DURABILITY_LOG",
                reason=Reason.NOT_SERVED,
            )
        return await self._writes.write(tenant, drafts, receipt)

    async def get(self, tenant: str, ids: Sequence[str]) -> Mapping[str, Item]:
        found = await self._points.get([point_id(tenant, each) for each in ids])
        now_us = self._now_us()
        items = (
            to_item(each)
            for each in found.values()
            if each.get(TENANT) == tenant and not is_expired(each, now_us)
        )
        return {item.id: item for item in items}

    async def scan(
        self,
        tenant: str,
        where: Filter = EVERYTHING,
        *,
        newest_first: bool,
        limit: int,
        after: Position | None = None,
    ) -> Page:
        if after is not None:
            where = all_of(where, none_of(points([point_id(tenant, i) for i in after.seen])))
        order = qdrant.OrderBy(
            key=fields.CREATED,
            direction=qdrant.Desc if newest_first else qdrant.Asc,
            start_from=qdrant.StartFrom(integer=after.created_us) if after else None,
        )
        wanted = to_grpc(tenant, where, self._now_us())
        found = await self._points.scroll(wanted, limit=limit + 1, order_by=order)
        return page_of([to_item(each) for each in found], limit=limit, after=after)

    async def count(self, tenant: str, where: Filter = EVERYTHING) -> int:
        return await self._points.count(to_grpc(tenant, where, self._now_us()))

    async def search(self, tenant: str, query: Query) -> Sequence[Hit]:
        search = ServerSearch(
            query,
            tenant=tenant,
            collection=self._points.collection,
            bm25=self._bm25,
            wanted=to_grpc(tenant, query.where, self._now_us()),
            tenant_idf=self._link.has_tenant_idf,
        )
        requests = search.requests()
        if not requests:
            return []
        main, *legs = await self._points.query(requests)
        lexical, dense = search.legs_of(legs)
        hits = [
            Hit(
                to_item(from_map(found.payload)),
                found.score,
                Leg(*lexical.get(found.id.uuid, (0, 0.0))),
                Leg(*dense.get(found.id.uuid, (0, 0.0))),
            )
            for found in main.result
        ]
        return sorted(hits, key=lambda hit: (-hit.score, -hit.item.created_us, hit.item.id))

    async def delete(self, tenant: str, where: Filter) -> int:
        readable = await self.count(tenant, where)
        await self._points.delete(to_grpc(tenant, where, None))
        return readable

    async def delete_ids(self, tenant: str, ids: Sequence[str]) -> int:
        return await self.delete(tenant, points([point_id(tenant, each) for each in ids]))

    async def attach(self, tenant: str, embedded: Sequence[Embedded], *, model: str) -> int:
        if any(e.vector is not None and len(e.vector) != 4 * self._dimensions for e in embedded):
            raise FailedPrecondition(
                f"the index holds vectors of {self._dimensions} numbers",
                reason=Reason.DIMENSION_MISMATCH,
            )
        by_point = {point_id(tenant, each.id): each for each in embedded}
        kept = await self._points.get(list(by_point))
        current = {
            at: each
            for at, each in by_point.items()
            if at in kept
            and kept[at].get(TENANT) == tenant
            and kept[at][fields.REVISION] == each.revision
        }
        done = {at: each for at, each in current.items() if each.vector is not None}
        if done:
            vectors = {at: each.vector or b"" for at, each in done.items()}
            await self._points.set_vectors(vectors, _unchanged(tenant, done))
        await self._mark(tenant, done, Embedding.DONE, model)
        refused = {at: each for at, each in current.items() if each.vector is None}
        await self._mark(tenant, refused, Embedding.REFUSED, model)
        return len(current)

    async def _mark(
        self, tenant: str, embedded: Mapping[str, Embedded], state: Embedding, model: str
    ) -> None:
        if embedded:
            values = {fields.EMBEDDING: state.value, fields.MODEL: model}
            await self._points.set_payload(_unchanged(tenant, embedded), values)

    async def read_record(self, tenant: str, name: str) -> str | None:
        return await self._writes.read_record(tenant, name)

    async def put_record(self, tenant: str, name: str, body: str, *, expires_us: int = 0) -> None:
        await self._writes.put_record(tenant, name, body, expires_us)

    async def pending(self, limit: int, *, skip_tenants: Sequence[str] = ()) -> Sequence[Pending]:
        wanted = all_of(PENDING, none_of(one_of(TENANT, list(skip_tenants))))
        found = await self._points.scroll(
            raw_to_grpc(wanted if skip_tenants else PENDING), limit=limit
        )
        return [Pending(p[TENANT], p[fields.ID], p[fields.REVISION], p[fields.TEXT]) for p in found]

    async def pending_count(self, tenant: str) -> int:
        return await self.count(tenant, PENDING)

    async def adopt_model(self, model: str) -> int:
        others = all_of(
            equals(fields.EMBEDDING, Embedding.DONE.value), none_of(equals(fields.MODEL, model))
        )
        count = await self._points.count(raw_to_grpc(others))
        if count:
            await self._points.drop_vectors(others)
            pending = {fields.EMBEDDING: Embedding.PENDING.value}
            await self._points.set_payload(others, pending)
        return count

    async def sweep(self) -> None:
        await self._points.delete(raw_to_grpc(between(EXPIRES, None, self._now_us() + 1)))

    async def flush(self) -> None:
        """Nothing to do: a write is acknowledged once it is in Qdrant's own log."""

    def _now_us(self) -> int:
        return self._clock.time_ns() // 1000


def _unchanged(tenant: str, embedded: Mapping[str, Embedded]) -> Filter:
    """Matches those points whose revision is still the one that was embedded."""
    each = (all_of(points([at]), equals(fields.REVISION, e.revision)) for at, e in embedded.items())
    return all_of(equals(TENANT, tenant), any_of(*each))
