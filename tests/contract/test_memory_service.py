"""MemoryService as a caller sees it, over real stores, with a small real router beside it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mesh.call import Identity, outgoing_call
from mesh.clock import SYSTEM_CLOCK
from mesh.component import Hosted
from mesh.errors import PlexusError, Reason, from_rpc_error
from mesh.host import Host
from mesh.settings import MeshSettings
from mesh.testing.embedding import HashingRouter
from mesh.testing.qdrant import QdrantDouble
from plexus.common.v1 import message_pb2, scope_pb2
from plexus.memory.v1 import memory_service_pb2 as pb
from plexus.memory.v1 import memory_service_pb2_grpc
from plexus.router.v1 import router_service_pb2_grpc
from services.memory.build import MemoryComponent, build
from services.memory.edge_store import EdgeStore
from services.memory.settings import MemorySettings

Scope = scope_pb2.Scope
DIMENSIONS = 256


class RouterDouble:
    """A component with nothing but a hashing embedder."""

    def __init__(self) -> None:
        self.servicer = HashingRouter(dimensions=DIMENSIONS)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def readiness(self) -> bool:
        return True


@dataclass
class Mesh:
    """Router and memory in one process."""

    host: Host
    memory: MemoryComponent
    router: HashingRouter
    stub: memory_service_pb2_grpc.MemoryServiceStub

    async def settled(self) -> None:
        assert self.memory.backfill is not None
        async with asyncio.timeout(20):
            await self.memory.backfill.settled()


async def start(folder: Path, **changes: Any) -> Mesh:
    host = Host(MeshSettings(data_dir=folder))
    router = RouterDouble()
    add_router = router_service_pb2_grpc.add_RouterServiceServicer_to_server
    host.add(Hosted("router", router, add_router))
    values: dict[str, Any] = {"data_dir": folder / "memory", "dimensions": DIMENSIONS, **changes}
    settings = MemorySettings(**values)
    memory = await build(settings, clock=SYSTEM_CLOCK, router=host.channel_to("router"))
    host.add(Hosted("memory", memory, memory_service_pb2_grpc.add_MemoryServiceServicer_to_server))
    await host.start()
    stub = memory_service_pb2_grpc.MemoryServiceStub(host.channel_to("memory"))
    return Mesh(host, memory, router.servicer, stub)


@pytest.fixture(params=["edge", "server"])
async def mesh(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Mesh]:
    double = QdrantDouble(tmp_path)
    changes: dict[str, Any] = {}
    if request.param == "server":
        await double.start()
        changes = {"store": "server", "qdrant_url": double.url}
    started = await start(tmp_path, **changes)
    with outgoing_call(Identity("default", "test")):
        yield started
    await started.host.drain()
    await double.close()
    double.close_shards()


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Mesh]:
    started = await start(tmp_path)
    with outgoing_call(Identity("default", "test")):
        yield started
    await started.host.drain()


async def failure(call: Any) -> PlexusError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return from_rpc_error(failed.value)


def note(text: str, **values: Any) -> pb.MemoryWrite:
    return pb.MemoryWrite(kind=pb.MEMORY_KIND_NOTE, text=text, **values)


def turn(role: Any, text: str, **values: Any) -> pb.MemoryWrite:
    return pb.MemoryWrite(kind=pb.MEMORY_KIND_TURN, role=role, text=text, **values)


USER, ASSISTANT = message_pb2.ROLE_USER, message_pb2.ROLE_ASSISTANT


async def write(
    mesh: Mesh, writes: Sequence[pb.MemoryWrite], scope: Scope | None = None, key: str = ""
) -> list[str]:
    request = pb.WriteMemoriesRequest(scope=scope, writes=writes, idempotency_key=key)
    response = await mesh.stub.WriteMemories(request)
    assert all(result.HasField("written") for result in response.results)
    return [result.written.id for result in response.results]


# Writing.


async def test_a_written_memory_comes_back_with_its_defaults(mesh: Mesh) -> None:
    scope = Scope(agent_id="a", conversation_id="c", user_id="u")
    own = Scope(user_id="w")
    first, second = await write(
        mesh, [pb.MemoryWrite(text="plain"), note("scoped", scope=own)], scope
    )
    got = await mesh.stub.GetMemories(pb.GetMemoriesRequest(ids=[second, first]))
    assert [memory.id for memory in got.memories] == [second, first]
    plain = got.memories[1]
    assert plain.kind == pb.MEMORY_KIND_NOTE
    assert plain.scope == Scope(tenant="default", agent_id="a", conversation_id="c", user_id="u")
    assert plain.event_time == plain.create_time
    assert not plain.HasField("expire_time")
    assert plain.version == 1
    assert got.memories[0].scope == Scope(tenant="default", user_id="w")
    assert first < second


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("writes", []),
        ("writes", [note("x")] * 501),
        ("writes[1].text", [note("fine"), note("")]),
        ("writes[1].text", [note("fine"), note("é" * 16385)]),
        ("writes[0].role", [pb.MemoryWrite(kind=pb.MEMORY_KIND_TURN, text="x")]),
        ("writes[0].importance", [note("x", importance=1.5)]),
        ("writes[0].importance", [note("x", importance=float("nan"))]),
        ("writes[0].id", [note("x", id="not-a-uuid")]),
        ("writes[0].attributes", [note("x", attributes={str(n): "" for n in range(17)})]),
        ("writes[0].attributes key", [note("x", attributes={"": "v"})]),
        ("writes[0].expected_version", [note("x", expected_version=-1)]),
        ("writes[0].event_time", [note("x", event_time=Timestamp(seconds=-1))]),
        ("writes[0].scope.tenant", [note("x", scope=Scope(tenant="other"))]),
        ("writes", [note("x", id="01a1fb2e-dc16-7ec0-9146-108afed3ae71")] * 2),
    ],
)
async def test_one_bad_item_refuses_the_whole_batch(
    edge: Mesh, field: str, bad: list[pb.MemoryWrite]
) -> None:
    error = await failure(edge.stub.WriteMemories(pb.WriteMemoriesRequest(writes=bad)))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.violations[0][0] == field
    stats = await edge.stub.GetMemoryStats(pb.GetMemoryStatsRequest())
    assert stats.memory_count == 0


async def test_a_conflict_is_one_items_outcome(mesh: Mesh) -> None:
    (kept,) = await write(mesh, [note("kept")])
    response = await mesh.stub.WriteMemories(
        pb.WriteMemoriesRequest(writes=[note("again", id=kept, expected_version=0), note("new")])
    )
    assert response.results[0].failure.reason == Reason.VERSION_CONFLICT
    assert response.results[1].written.version == 1


async def test_a_replay_gives_the_first_answer_and_another_body_is_refused(mesh: Mesh) -> None:
    request = pb.WriteMemoriesRequest(writes=[note("once"), note("twice")], idempotency_key="k")
    first = await mesh.stub.WriteMemories(request)
    assert await mesh.stub.WriteMemories(request) == first
    request.writes[0].text = "other"
    error = await failure(mesh.stub.WriteMemories(request))
    assert error.reason == Reason.IDEMPOTENCY_KEY_REUSED
    assert (await mesh.stub.GetMemoryStats(pb.GetMemoryStatsRequest())).memory_count == 2


async def test_a_synced_write_is_acknowledged_after_the_flush(edge: Mesh) -> None:
    request = pb.WriteMemoriesRequest(writes=[note("x")], durability=pb.DURABILITY_SYNCED)
    assert (await edge.stub.WriteMemories(request)).results[0].written.version == 1


async def test_another_tenants_name_is_refused_everywhere(edge: Mesh) -> None:
    scope = Scope(tenant="other")
    header = pb.DocumentHeader(scope=scope, document_id="d", media_type="text/plain")

    async def upload() -> AsyncIterator[pb.IngestDocumentRequest]:
        yield pb.IngestDocumentRequest(header=header)
        yield pb.IngestDocumentRequest(chunk=b"text")

    stub = edge.stub
    calls = [
        stub.WriteMemories(pb.WriteMemoriesRequest(scope=scope, writes=[note("x")])),
        stub.GetMemories(pb.GetMemoriesRequest(scope=scope, ids=["x"])),
        stub.ListMemories(pb.ListMemoriesRequest(scope=scope)),
        stub.StreamMemories(pb.StreamMemoriesRequest(scope=scope)).read(),
        stub.DeleteMemories(pb.DeleteMemoriesRequest(scope=scope, filter=pb.MemoryFilter())),
        stub.SearchMemories(pb.SearchMemoriesRequest(scope=scope, query="x")),
        stub.Recall(pb.RecallRequest(scope=scope, query="x")),
        stub.IngestDocument(upload()),
        stub.GetMemoryStats(pb.GetMemoryStatsRequest(scope=scope)),
    ]
    for call in calls:
        assert (await failure(call)).reason == Reason.TENANT_MISMATCH


async def test_tenants_see_nothing_of_each_other(mesh: Mesh) -> None:
    (mine,) = await write(mesh, [turn(USER, "secret fox", scope=Scope(conversation_id="c"))])
    await mesh.settled()
    with outgoing_call(Identity("other", "test")):
        got = await mesh.stub.GetMemories(pb.GetMemoriesRequest(ids=[mine]))
        assert got.missing_ids == [mine]
        assert not (await mesh.stub.ListMemories(pb.ListMemoriesRequest())).memories
        found = await mesh.stub.SearchMemories(pb.SearchMemoriesRequest(query="secret fox"))
        assert not found.hits
        recall = pb.RecallRequest(scope=Scope(conversation_id="c"), query="secret fox")
        assert not (await mesh.stub.Recall(recall)).items
        gone = await mesh.stub.DeleteMemories(pb.DeleteMemoriesRequest(filter=pb.MemoryFilter()))
        assert gone.deleted_count == 0
        (theirs,) = await write(mesh, [note("theirs", id=mine)])
        assert theirs == mine
    got = await mesh.stub.GetMemories(pb.GetMemoriesRequest(ids=[mine]))
    assert got.memories[0].text == "secret fox"


# Listing.


@pytest.mark.parametrize("order", [pb.ORDER_NEWEST_FIRST, pb.ORDER_OLDEST_FIRST])
async def test_pages_are_bounded_by_the_first(mesh: Mesh, order: pb.Order) -> None:
    written = await write(mesh, [note(f"text {n}") for n in range(7)])
    request = pb.ListMemoriesRequest(order=order, page_size=3)
    read: list[str] = []
    while True:
        page = await mesh.stub.ListMemories(request)
        read += [memory.id for memory in page.memories]
        await write(mesh, [note("later")])
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert read == (written if order == pb.ORDER_OLDEST_FIRST else written[::-1])


async def test_a_token_serves_its_own_query_alone(edge: Mesh) -> None:
    await write(edge, [note("one"), note("two")])
    request = pb.ListMemoriesRequest(page_size=1)
    token = (await edge.stub.ListMemories(request)).next_page_token
    for other in (
        pb.ListMemoriesRequest(page_token=token, order=pb.ORDER_OLDEST_FIRST),
        pb.ListMemoriesRequest(page_token=token, scope=Scope(user_id="u")),
        pb.ListMemoriesRequest(page_token=token, filter=pb.MemoryFilter(sources=["s"])),
        pb.ListMemoriesRequest(page_token=token[:-2] + "xx"),
    ):
        error = await failure(edge.stub.ListMemories(other))
        assert error.reason == Reason.INVALID_PAGE_TOKEN
    with outgoing_call(Identity("other", "test")):
        error = await failure(edge.stub.ListMemories(pb.ListMemoriesRequest(page_token=token)))
        assert error.reason == Reason.INVALID_PAGE_TOKEN
    resized = pb.ListMemoriesRequest(page_token=token, page_size=9)
    assert len((await edge.stub.ListMemories(resized)).memories) == 1


async def test_filters_narrow_a_listing(mesh: Mesh) -> None:
    await write(
        mesh,
        [
            turn(USER, "1", attributes={"k": "v"}, event_time=Timestamp(seconds=10)),
            turn(ASSISTANT, "2", source="s", event_time=Timestamp(seconds=20)),
            note("3", scope=Scope(user_id="u"), event_time=Timestamp(seconds=30)),
        ],
    )
    cases = [
        (pb.MemoryFilter(kinds=[pb.MEMORY_KIND_TURN]), "12"),
        (pb.MemoryFilter(kinds=[pb.MEMORY_KIND_UNSPECIFIED]), "123"),
        (pb.MemoryFilter(attributes={"k": "v"}), "1"),
        (pb.MemoryFilter(sources=["s", "t"]), "2"),
        (pb.MemoryFilter(roles=[USER]), "1"),
        (pb.MemoryFilter(event_time_from=Timestamp(seconds=20)), "23"),
        (pb.MemoryFilter(event_time_until=Timestamp(seconds=20)), "1"),
    ]
    for wanted, texts in cases:
        request = pb.ListMemoriesRequest(filter=wanted, order=pb.ORDER_OLDEST_FIRST)
        page = await mesh.stub.ListMemories(request)
        assert "".join(memory.text for memory in page.memories) == texts


async def test_a_stream_gives_everything_once_and_resumes_after_a_batch(mesh: Mesh) -> None:
    written: list[str] = []
    for start_at in (0, 250):
        written += await write(mesh, [note(f"{start_at + n}") for n in range(250)])
    stream = mesh.stub.StreamMemories(pb.StreamMemoriesRequest())
    first = await stream.read()
    assert isinstance(first, pb.StreamMemoriesResponse)
    stream.cancel()
    read = [memory.id for memory in first.memories]
    async for batch in mesh.stub.StreamMemories(pb.StreamMemoriesRequest(cursor=first.cursor)):
        read += [memory.id for memory in batch.memories]
    assert read == written


# Deleting.


async def test_deletion_replays_its_first_count(mesh: Mesh) -> None:
    ids = await write(mesh, [note("one"), note("two")])
    target = pb.MemoryIds(ids=ids)
    request = pb.DeleteMemoriesRequest(ids=target, idempotency_key="k")
    assert (await mesh.stub.DeleteMemories(request)).deleted_count == 2
    assert (await mesh.stub.DeleteMemories(request)).deleted_count == 2
    request.ids.ids.pop()
    error = await failure(mesh.stub.DeleteMemories(request))
    assert error.reason == Reason.IDEMPOTENCY_KEY_REUSED
    bare = pb.DeleteMemoriesRequest(ids=target)
    assert (await mesh.stub.DeleteMemories(bare)).deleted_count == 0
    error = await failure(mesh.stub.DeleteMemories(pb.DeleteMemoriesRequest()))
    assert error.violations[0][0] == "target"


# Searching and embedding.


def search(query: str, mode: Any = pb.SEARCH_MODE_HYBRID, **more: Any) -> pb.SearchMemoriesRequest:
    return pb.SearchMemoriesRequest(query=query, mode=mode, **more)


async def test_words_find_at_once_and_meaning_once_embedded(mesh: Mesh) -> None:
    mesh.router.is_down = True
    await write(mesh, [note("the red fox sleeps"), note("a stone")])
    found = await mesh.stub.SearchMemories(search("fox", pb.SEARCH_MODE_LEXICAL))
    assert [hit.memory.text for hit in found.hits] == ["the red fox sleeps"]
    assert not found.degraded
    mesh.router.is_down = False
    await mesh.settled()
    found = await mesh.stub.SearchMemories(search("red fox", explain=True))
    best = found.hits[0]
    assert best.memory.embedded
    assert (best.explanation.lexical_rank, best.explanation.dense_rank) == (1, 1)
    assert not found.degraded
    dense = await mesh.stub.SearchMemories(search("red fox", pb.SEARCH_MODE_DENSE, limit=1))
    assert [hit.memory.id for hit in dense.hits] == [best.memory.id]
    stats = await mesh.stub.GetMemoryStats(pb.GetMemoryStatsRequest())
    assert (stats.memory_count, stats.pending_embedding_count) == (2, 0)
    assert (stats.embedding_model, stats.store) == ("hashing@1", mesh.memory.store.name)


async def test_a_leg_of_no_weight_is_left_out(mesh: Mesh) -> None:
    await write(mesh, [note("fox"), note("stone")])
    await mesh.settled()
    words = search("fox", fusion=pb.Fusion(lexical_weight=1), explain=True)
    assert [hit.explanation.dense_rank for hit in (await mesh.stub.SearchMemories(words)).hits] == [
        0
    ]
    meaning = search("fox", fusion=pb.Fusion(dense_weight=1), explain=True)
    hits = (await mesh.stub.SearchMemories(meaning)).hits
    assert [hit.explanation.lexical_rank for hit in hits] == [0, 0]
    assert hits[0].memory.text == "fox"


async def test_without_an_embedder_hybrid_degrades_and_dense_fails(mesh: Mesh) -> None:
    await write(mesh, [note("fox")])
    mesh.router.is_down = True
    found = await mesh.stub.SearchMemories(search("a fox"))
    assert (found.degraded, found.degraded_reason) == (True, Reason.EMBEDDER_UNAVAILABLE)
    assert len(found.hits) == 1
    error = await failure(mesh.stub.SearchMemories(search("a fox", pb.SEARCH_MODE_DENSE)))
    assert error.reason == Reason.EMBEDDER_UNAVAILABLE
    recalled = await mesh.stub.Recall(pb.RecallRequest(query="a fox"))
    assert (recalled.degraded, len(recalled.items)) == (True, 1)


async def test_embeddings_of_another_length_are_never_used_in_silence(edge: Mesh) -> None:
    edge.router.dimensions = DIMENSIONS // 2
    await write(edge, [note("fox")])
    error = await failure(edge.stub.SearchMemories(search("fox", pb.SEARCH_MODE_DENSE)))
    assert error.reason == Reason.DIMENSION_MISMATCH
    found = await edge.stub.SearchMemories(search("fox"))
    assert (found.degraded_reason, len(found.hits)) == (Reason.DIMENSION_MISMATCH, 1)


async def test_a_slow_embedder_costs_a_bounded_wait(tmp_path: Path) -> None:
    mesh = await start(tmp_path, query_embed_timeout_ms=30)
    with outgoing_call(Identity("default", "test")):
        await write(mesh, [note("fox")])
        await mesh.settled()
        mesh.router.answering.clear()
        found = await mesh.stub.SearchMemories(search("slow fox"))
        assert found.degraded_reason == Reason.EMBEDDER_UNAVAILABLE
        assert len(found.hits) == 1
        mesh.router.answering.set()
    await mesh.host.drain()


async def test_queries_alike_share_one_embedding(edge: Mesh) -> None:
    await write(edge, [note("fox")])
    await edge.settled()
    before = len(edge.router.calls)
    await asyncio.gather(*(edge.stub.SearchMemories(search("same query")) for _ in range(9)))
    await edge.stub.SearchMemories(search("same query"))
    assert edge.router.calls[before:] == [["same query"]]


async def test_texts_are_embedded_in_batches_and_one_bad_text_spoils_none(edge: Mesh) -> None:
    edge.router.refused_texts = {"text 5"}
    await write(edge, [note(f"text {n}") for n in range(20)])
    await edge.settled()
    statistics = edge.memory.statistics().backfill
    assert statistics is not None
    assert (statistics.attached, statistics.refused) == (20, 1)
    stats = await edge.stub.GetMemoryStats(pb.GetMemoryStatsRequest())
    assert stats.pending_embedding_count == 0


async def test_another_model_embeds_everything_anew(edge: Mesh) -> None:
    await write(edge, [note("fox one")])
    await edge.settled()
    edge.router.model = "hashing@2"
    await write(edge, [note("fox two")])
    await edge.settled()
    assert edge.memory.embedder is not None
    assert edge.memory.embedder.model == "hashing@2"
    assert edge.memory.backfill is not None
    edge.memory.backfill.wake()
    await edge.settled()
    stats = await edge.stub.GetMemoryStats(pb.GetMemoryStatsRequest())
    assert stats.pending_embedding_count == 0
    assert sum("fox one" in call for call in edge.router.calls) == 2


async def test_what_a_crash_left_pending_is_embedded_after_the_next_start(tmp_path: Path) -> None:
    first = await start(tmp_path)
    first.router.is_down = True
    with outgoing_call(Identity("default", "test")):
        (written,) = await write(first, [note("fox")])
    assert isinstance(first.memory.store, EdgeStore)
    assert first.memory.store.link.pid is not None
    os.kill(first.memory.store.link.pid, signal.SIGKILL)
    await first.host.drain()
    second = await start(tmp_path)
    await second.settled()
    with outgoing_call(Identity("default", "test")):
        got = await second.stub.GetMemories(pb.GetMemoriesRequest(ids=[written]))
    assert got.memories[0].embedded
    await second.host.drain()


# Recall.


def texts(response: pb.RecallResponse, reason: Any = None) -> list[str]:
    return [i.memory.text for i in response.items if reason in (None, i.reason)]


async def test_recall_gathers_window_and_relevant(mesh: Mesh) -> None:
    here = Scope(conversation_id="here", user_id="u", agent_id="a")
    there = Scope(conversation_id="there", user_id="u", agent_id="a")
    await write(mesh, [turn(USER, f"turn {n}") for n in range(4)], here)
    await write(
        mesh,
        [
            turn(USER, "my fox is called Rex", scope=there),
            turn(ASSISTANT, "a fox called Rex, noted", scope=there),
            turn(USER, "what is my fox called", scope=there),
            note("every fox likes Rex", scope=Scope(user_id="w")),
            note("a fox in the handbook", scope=Scope()),
            note("another agent's fox", scope=Scope(user_id="u", agent_id="b")),
            note("the fox that the caller holds", scope=Scope()),
            note("unrelated stone", scope=Scope()),
        ],
    )
    await mesh.settled()
    request = pb.RecallRequest(
        scope=here,
        query="what is my fox called",
        window_turns=2,
        exclude_texts=["the fox that the caller holds", "turn 3"],
    )
    recalled = await mesh.stub.Recall(request)
    assert texts(recalled, pb.RECALL_REASON_WINDOW) == ["turn 1", "turn 2"]
    relevant = texts(recalled, pb.RECALL_REASON_RELEVANT)
    assert relevant == ["my fox is called Rex", "a fox in the handbook"]
    assert texts(recalled) == [*relevant, "turn 1", "turn 2"]
    assert recalled.token_count == sum(item.token_count for item in recalled.items) <= 1500
    assert await mesh.stub.Recall(request) == recalled


async def test_a_turn_written_late_stands_where_it_was_said(mesh: Mesh) -> None:
    here = Scope(conversation_id="here")
    for second, text in ((10, "question"), (40, "next"), (20, "answer from the outbox")):
        said = turn(USER, text, event_time=Timestamp(seconds=second))
        await write(mesh, [said], here)
    recalled = await mesh.stub.Recall(pb.RecallRequest(scope=here, query="stone"))
    assert texts(recalled) == ["question", "answer from the outbox", "next"]


async def test_recall_keeps_to_its_budget_and_its_limits(mesh: Mesh) -> None:
    here = Scope(conversation_id="here")
    await write(mesh, [turn(USER, f"fox turn {n} " + "word " * 40) for n in range(9)], here)
    await write(mesh, [note(f"fox note {n} " + "word " * 40) for n in range(9)])
    for budget in (0, 1, 60, 200, 500):
        request = pb.RecallRequest(scope=here, query="fox", token_budget=budget)
        recalled = await mesh.stub.Recall(request)
        assert recalled.token_count <= (budget or 1500)
    none = pb.RecallRequest(scope=here, query="fox", window_turns=-1, relevant_limit=-1)
    assert not (await mesh.stub.Recall(none)).items
    few = pb.RecallRequest(scope=here, query="fox", window_turns=2, relevant_limit=1)
    recalled = await mesh.stub.Recall(few)
    assert [item.reason for item in recalled.items] == [
        pb.RECALL_REASON_RELEVANT,
        pb.RECALL_REASON_WINDOW,
        pb.RECALL_REASON_WINDOW,
    ]


# Documents.


async def ingest(mesh: Mesh, *chunks: bytes, **header: Any) -> pb.IngestDocumentResponse:
    values: dict[str, Any] = {"document_id": "d", "media_type": "text/markdown", **header}
    head = pb.DocumentHeader(**values)

    async def upload() -> AsyncIterator[pb.IngestDocumentRequest]:
        yield pb.IngestDocumentRequest(header=head)
        for chunk in chunks:
            yield pb.IngestDocumentRequest(chunk=chunk)

    return await mesh.stub.IngestDocument(upload())


async def pieces(mesh: Mesh) -> list[pb.Memory]:
    wanted = pb.MemoryFilter(kinds=[pb.MEMORY_KIND_DOCUMENT], sources=["d"])
    request = pb.ListMemoriesRequest(filter=wanted, order=pb.ORDER_OLDEST_FIRST, page_size=500)
    return list((await mesh.stub.ListMemories(request)).memories)


OLD = b"# Foxes\n\nA fox barks.\n\n## Dens\n\nA den is dug in sand.\n"
NEW = b"# Foxes\n\nA fox barks.\n"


async def test_a_document_is_cut_by_structure_and_found(mesh: Mesh) -> None:
    done = await ingest(mesh, OLD[:10], OLD[10:], title="Field guide", size_bytes=len(OLD))
    assert (done.piece_count, done.unchanged, done.replaced_count) == (2, False, 0)
    first, second = await pieces(mesh)
    assert second.text == "Foxes > Dens\n\nA den is dug in sand."
    assert (first.attributes["title"], first.attributes["piece"]) == ("Field guide", "0")
    found = await mesh.stub.SearchMemories(search("sandy den", pb.SEARCH_MODE_LEXICAL))
    assert [hit.memory.id for hit in found.hits] == [second.id]


async def test_the_same_bytes_change_nothing_and_others_replace_them(mesh: Mesh) -> None:
    await ingest(mesh, OLD)
    before = await pieces(mesh)
    again = await ingest(mesh, OLD)
    assert (again.piece_count, again.unchanged) == (2, True)
    assert [p.id for p in await pieces(mesh)] == [p.id for p in before]
    other = await ingest(mesh, NEW)
    assert (other.piece_count, other.unchanged, other.replaced_count) == (1, False, 2)
    assert len(await pieces(mesh)) == 1


async def test_pieces_that_went_missing_are_written_again(mesh: Mesh) -> None:
    await ingest(mesh, OLD)
    (first, _) = await pieces(mesh)
    target = pb.MemoryIds(ids=[first.id])
    await mesh.stub.DeleteMemories(pb.DeleteMemoriesRequest(ids=target))
    assert not (await ingest(mesh, OLD)).unchanged
    assert len(await pieces(mesh)) == 2


async def test_documents_of_two_users_do_not_meet(mesh: Mesh) -> None:
    await ingest(mesh, OLD, scope=Scope(user_id="u"))
    await ingest(mesh, NEW, scope=Scope(user_id="w"))
    assert len(await pieces(mesh)) == 3


async def test_concurrent_uploads_of_one_document_leave_one_revision_whole(mesh: Mesh) -> None:
    done = await asyncio.gather(*(ingest(mesh, data) for data in (OLD, NEW, OLD, NEW)))
    left = await pieces(mesh)
    assert len({piece.attributes["revision"] for piece in left}) == 1
    assert len(left) in {each.piece_count for each in done}


async def test_an_upload_that_breaks_off_replaces_nothing(edge: Mesh) -> None:
    await ingest(edge, OLD)
    half_read = asyncio.Event()

    async def upload() -> AsyncIterator[pb.IngestDocumentRequest]:
        header = pb.DocumentHeader(document_id="d", media_type="text/markdown")
        yield pb.IngestDocumentRequest(header=header)
        yield pb.IngestDocumentRequest(chunk=NEW)
        half_read.set()
        await asyncio.Event().wait()

    call = edge.stub.IngestDocument(upload())
    waiting = asyncio.ensure_future(_outcome(call))
    await half_read.wait()
    call.cancel()
    await waiting
    assert len(await pieces(edge)) == 2


async def _outcome(call: Any) -> None:
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await call


@pytest.mark.parametrize(
    ("field", "chunks", "header"),
    [
        ("header.media_type", [OLD], {"media_type": "application/pdf"}),
        ("header.document_id", [OLD], {"document_id": ""}),
        ("chunk", [b"\xff\xfe"], {}),
        ("chunk", [b" \n "], {}),
        ("chunk", [b"x" * (1024 * 1024 + 1)], {}),
        ("chunk", [OLD[:10]], {"size_bytes": len(OLD)}),
    ],
)
async def test_uploads_outside_the_limits_are_refused(
    edge: Mesh, field: str, chunks: list[bytes], header: dict[str, Any]
) -> None:
    error = await failure(ingest(edge, *chunks, **header))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.violations[0][0] == field
    assert not await pieces(edge)


async def test_a_component_closes_twice_and_says_when_it_is_ready(tmp_path: Path) -> None:
    mesh = await start(tmp_path)
    assert mesh.memory.readiness()
    await mesh.host.drain()
    assert not mesh.memory.readiness()
    await mesh.memory.close()
