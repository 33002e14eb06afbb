"""The gRPC edge of memory: decodes, calls, encodes."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from mesh.call import resolve_tenant
from mesh.errors import InvalidArgument
from mesh.validation import check_bytes, check_count, page_size, require
from plexus.common.v1 import scope_pb2
from plexus.memory.v1 import memory_service_pb2 as pb
from plexus.memory.v1 import memory_service_pb2_grpc
from services.memory.backfill import Backfill
from services.memory.context import Gathering, Turn
from services.memory.documents import Documents, read_upload
from services.memory.embedder import Embedder
from services.memory.ids import IdClock, fingerprint
from services.memory.listing import Listing, query_fingerprint
from services.memory.messages import (
    MAX_KEY_BYTES,
    MAX_QUERY_BYTES,
    check_scope,
    drafts_from,
    filter_from,
    hit_from,
    memory_from,
    memory_ids,
    result_from,
    scope_parts,
    write_fingerprint,
)
from services.memory.replay import Replay
from services.memory.searching import Searching
from services.memory.store import (
    DENSE_WEIGHT,
    LEXICAL_WEIGHT,
    RRF_K,
    MemoryStore,
    Query,
    Receipt,
)

DEFAULT_PAGE, MAX_PAGE = 50, 500
DEFAULT_HITS, MAX_HITS = 10, 200
DEFAULT_TOKEN_BUDGET = 1_500
DEFAULT_WINDOW_TURNS, MAX_WINDOW_TURNS = 20, 200
DEFAULT_RELEVANT, MAX_RELEVANT = 8, 100
MAX_EXCLUDED = 200

Context = grpc.aio.ServicerContext[Any, Any]


class MemoryService(memory_service_pb2_grpc.MemoryServiceServicer):
    """See protos/plexus/memory/v1/memory_service.proto for what each RPC promises."""

    def __init__(
        self,
        store: MemoryStore,
        *,
        ids: IdClock,
        embedder: Embedder | None,
        backfill: Backfill | None,
        min_cosine: float,
    ) -> None:
        self._store = store
        self._ids = ids
        self._embedder = embedder
        self._backfill = backfill
        self._searching = Searching(store, embedder)
        self._gathering = Gathering(store, self._searching, min_cosine=min_cosine)
        self._listing = Listing(store)
        self._documents = Documents(store, ids)
        self._replay = Replay(store, ids)

    async def WriteMemories(
        self, request: pb.WriteMemoriesRequest, context: Context
    ) -> pb.WriteMemoriesResponse:
        tenant = resolve_tenant(request.scope)
        drafts = drafts_from(request, tenant, self._ids)
        receipt = None
        if request.idempotency_key:
            receipt = Receipt(
                name=f"write:{request.idempotency_key}",
                fingerprint=write_fingerprint(request),
                expires_us=self._replay.expires_us(),
            )
        synced = request.durability == pb.DURABILITY_SYNCED
        outcomes = await self._store.write(tenant, drafts, receipt=receipt, synced=synced)
        self._wake_backfill()
        return pb.WriteMemoriesResponse(results=[result_from(each) for each in outcomes])

    async def GetMemories(
        self, request: pb.GetMemoriesRequest, context: Context
    ) -> pb.GetMemoriesResponse:
        tenant = resolve_tenant(request.scope)
        ids = memory_ids(request.ids)
        found = await self._store.get(tenant, ids)
        return pb.GetMemoriesResponse(
            memories=[memory_from(tenant, found[each]) for each in ids if each in found],
            missing_ids=[each for each in ids if each not in found],
        )

    async def ListMemories(
        self, request: pb.ListMemoriesRequest, context: Context
    ) -> pb.ListMemoriesResponse:
        tenant = resolve_tenant(request.scope)
        items, token = await self._listing.page(
            tenant,
            filter_from(request.scope, request.filter),
            newest_first=request.order != pb.ORDER_OLDEST_FIRST,
            limit=page_size(request.page_size, default=DEFAULT_PAGE, high=MAX_PAGE),
            token=request.page_token,
            query=_query_of(tenant, request.scope, request.filter, bytes([request.order & 0xFF])),
        )
        return pb.ListMemoriesResponse(
            memories=[memory_from(tenant, item) for item in items], next_page_token=token
        )

    async def StreamMemories(self, request: pb.StreamMemoriesRequest, context: Context) -> None:
        tenant = resolve_tenant(request.scope)
        where = filter_from(request.scope, request.filter)
        query = _query_of(tenant, request.scope, request.filter)
        async for items, cursor in self._listing.batches(
            tenant, where, cursor=request.cursor, query=query
        ):
            memories = [memory_from(tenant, item) for item in items]
            await context.write(pb.StreamMemoriesResponse(memories=memories, cursor=cursor))

    async def DeleteMemories(
        self, request: pb.DeleteMemoriesRequest, context: Context
    ) -> pb.DeleteMemoriesResponse:
        tenant = resolve_tenant(request.scope)
        check_bytes(request.idempotency_key, "idempotency_key", high=MAX_KEY_BYTES)
        match request.WhichOneof("target"):
            case "ids":
                ids = memory_ids(request.ids.ids, "ids.ids")
                delete = self._store.delete_ids(tenant, ids)
                body = "".join(ids).encode()
            case "filter":
                where = filter_from(request.scope, request.filter)
                delete = self._store.delete(tenant, where)
                body = request.filter.SerializeToString(deterministic=True)
            case _:
                raise InvalidArgument(
                    "target: give ids or a filter", violations=[("target", "is missing")]
                )
        mark = fingerprint(*scope_parts(request.scope), body)
        count = await self._replay.count(tenant, "delete", request.idempotency_key, mark, delete)
        return pb.DeleteMemoriesResponse(deleted_count=count)

    async def SearchMemories(
        self, request: pb.SearchMemoriesRequest, context: Context
    ) -> pb.SearchMemoriesResponse:
        tenant = resolve_tenant(request.scope)
        check_bytes(request.query, "query", low=1, high=MAX_QUERY_BYTES)
        require(request.limit >= 0, "limit", "must not be negative")
        require(request.limit <= MAX_HITS, "limit", f"must be at most {MAX_HITS}")
        query = _fused(
            request.fusion,
            Query(
                text=request.query,
                vector=None,
                where=filter_from(request.scope, request.filter),
                limit=request.limit or DEFAULT_HITS,
                explain=request.explain,
            ),
        )
        found = await self._searching.search(tenant, query, request.mode)
        return pb.SearchMemoriesResponse(
            hits=[hit_from(tenant, hit, explain=request.explain) for hit in found.hits],
            degraded=bool(found.degraded_reason),
            degraded_reason=found.degraded_reason,
        )

    async def Recall(self, request: pb.RecallRequest, context: Context) -> pb.RecallResponse:
        tenant = resolve_tenant(request.scope)
        recalled = await self._gathering.gather(tenant, _turn(request))
        return pb.RecallResponse(
            items=[
                pb.RecalledItem(
                    memory=memory_from(tenant, each.item),
                    reason=each.reason,
                    token_count=each.token_count,
                    score=each.score,
                )
                for each in recalled.items
            ],
            token_count=sum(each.token_count for each in recalled.items),
            degraded=bool(recalled.degraded_reason),
            degraded_reason=recalled.degraded_reason,
        )

    async def IngestDocument(
        self, request: AsyncIterator[pb.IngestDocumentRequest], context: Context
    ) -> pb.IngestDocumentResponse:
        header, data = await read_upload(request)
        tenant = resolve_tenant(header.scope)
        done = await self._documents.ingest(tenant, header, data)
        self._wake_backfill()
        return pb.IngestDocumentResponse(
            piece_count=done.piece_count,
            unchanged=done.unchanged,
            replaced_count=done.replaced_count,
        )

    async def GetMemoryStats(
        self, request: pb.GetMemoryStatsRequest, context: Context
    ) -> pb.GetMemoryStatsResponse:
        tenant = resolve_tenant(request.scope)
        return pb.GetMemoryStatsResponse(
            memory_count=await self._store.count(
                tenant, filter_from(request.scope, pb.MemoryFilter())
            ),
            pending_embedding_count=await self._store.pending_count(tenant),
            store=self._store.name,
            embedding_model=self._embedder.model if self._embedder else "",
        )

    def _wake_backfill(self) -> None:
        if self._backfill is not None:
            self._backfill.wake()


def _query_of(tenant: str, scope: scope_pb2.Scope, wanted: pb.MemoryFilter, *more: bytes) -> bytes:
    parts = (part.encode() for part in scope_parts(scope))
    return query_fingerprint(tenant, *parts, wanted.SerializeToString(deterministic=True), *more)


def _fused(fusion: pb.Fusion, query: Query) -> Query:
    require(fusion.rrf_k >= 0, "fusion.rrf_k", "must not be negative")
    weights = (fusion.dense_weight, fusion.lexical_weight)
    require(all(0 <= each < 1e6 for each in weights), "fusion", "weights must not be negative")
    dense, lexical = weights if any(weights) else (DENSE_WEIGHT, LEXICAL_WEIGHT)
    return Query(
        text=query.text,
        vector=query.vector,
        where=query.where,
        limit=query.limit,
        explain=query.explain,
        rrf_k=fusion.rrf_k or RRF_K,
        dense_weight=dense,
        lexical_weight=lexical,
    )


def _turn(request: pb.RecallRequest) -> Turn:
    check_scope(request.scope)
    check_count(len(request.exclude_texts), "exclude_texts", high=MAX_EXCLUDED)
    require(request.token_budget >= 0, "token_budget", "must not be negative")
    return Turn(
        user_id=request.scope.user_id,
        agent_id=request.scope.agent_id,
        conversation_id=request.scope.conversation_id,
        query=request.query.encode()[:MAX_QUERY_BYTES].decode(errors="ignore"),
        exclude_texts=frozenset(request.exclude_texts),
        window_turns=_bounded(request.window_turns, DEFAULT_WINDOW_TURNS, MAX_WINDOW_TURNS),
        relevant_limit=_bounded(request.relevant_limit, DEFAULT_RELEVANT, MAX_RELEVANT),
        token_budget=request.token_budget or DEFAULT_TOKEN_BUDGET,
    )


def _bounded(value: int, default: int, high: int) -> int:
    """Return a count where 0 means the default and a negative one means none."""
    return 0 if value < 0 else min(value or default, high)
