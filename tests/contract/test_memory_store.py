"""One suite for every store: the same cases, the same expected ids and scores."""

import asyncio
import os
from array import array
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.clock import SystemClock
from mesh.errors import FailedPrecondition, InvalidArgument, Reason
from mesh.testing.qdrant import QdrantDouble
from services.memory import payload as fields
from services.memory.edge_store import EdgeStore
from services.memory.filters import (
    all_of,
    any_of,
    between,
    equals,
    none_of,
    one_of,
    points,
)
from services.memory.ids import IdClock, point_id
from services.memory.server_store import ServerStore
from services.memory.store import (
    Draft,
    Embedded,
    Embedding,
    Item,
    MemoryStore,
    Page,
    Position,
    Query,
    Receipt,
)

DIMENSIONS = 4
A, B = "tenant-a", "tenant-b"
NOTE, DOCUMENT = 2, 3
STORES = ["edge", "double", *(["server"] if os.environ.get("QDRANT_URL") else [])]


class ShiftedClock(SystemClock):
    """The machine's time, moved forward by hand."""

    shift_us = 0

    def time_ns(self) -> int:
        return super().time_ns() + self.shift_us * 1000


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def ids(clock: ShiftedClock) -> IdClock:
    return IdClock(clock)


@pytest.fixture(params=STORES)
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ShiftedClock
) -> AsyncIterator[MemoryStore]:
    double = QdrantDouble(tmp_path)
    if request.param == "edge":
        opened: MemoryStore = EdgeStore(
            tmp_path / "memory",
            clock=clock,
            dimensions=DIMENSIONS,
            call_timeout_ms=10_000,
            max_in_flight=1000,
            flush_interval_ms=1000,
            optimize_idle_s=0,
        )
    else:
        await double.start()
        url = double.url if request.param == "double" else os.environ["QDRANT_URL"]
        opened = ServerStore(
            url,
            clock=clock,
            api_key=os.environ.get("QDRANT_API_KEY", "") if request.param == "server" else "",
            collection=f"test_{tmp_path.name}",
            dimensions=DIMENSIONS,
            call_timeout_ms=10_000,
            max_in_flight=1000,
        )
    await opened.open()
    yield opened
    await opened.close()
    await double.close()
    double.close_shards()


def draft(ids: IdClock, text: str, **changes: object) -> Draft:
    expected = changes.pop("expected_version", -1)
    created_us = ids.next_us()
    values: dict[str, object] = {
        "id": ids.new_id(created_us),
        "kind": NOTE,
        "text": text,
        "created_us": created_us,
        "event_us": created_us,
        **changes,
    }
    return Draft(item=Item(**values), expected_version=expected)  # pyright: ignore[reportArgumentType]


def vector(*numbers: float) -> bytes:
    return array("f", numbers).tobytes()


async def put(store: MemoryStore, ids: IdClock, *texts: str, tenant: str = A) -> list[str]:
    drafts = [draft(ids, text) for text in texts]
    return [outcome.id for outcome in await store.write(tenant, drafts)]


async def embed(store: MemoryStore, vectors: dict[str, bytes], tenant: str = A) -> None:
    pending = {each.id: each for each in await store.pending(1000) if each.tenant == tenant}
    embedded = [Embedded(i, pending[i].revision, v) for i, v in vectors.items()]
    assert await store.attach(tenant, embedded, model="m") == len(embedded)


# Writing and reading.


async def test_what_is_written_is_read_whole(store: MemoryStore, ids: IdClock) -> None:
    written = draft(
        ids,
        "Ada writes Zürich 🦊",
        kind=1,
        role=2,
        agent_id="agent",
        conversation_id="c",
        user_id="u",
        attributes={"topic": "a=b", "empty": ""},
        importance=0.5,
        event_us=7,
        expires_us=2**52,
        source="s",
    )
    (outcome,) = await store.write(A, [written])
    found = await store.get(A, [outcome.id, ids.new_id(1)])
    expected = written.item
    assert outcome == type(outcome)(expected.id, 1)
    assert list(found) == [expected.id]
    assert found[expected.id] == Item(
        **{name: getattr(expected, name) for name in expected.__slots__ if name != "version"},
        version=1,
    )


async def test_rewriting_raises_the_version_and_keeps_the_creation_time(
    store: MemoryStore, ids: IdClock
) -> None:
    first = draft(ids, "old words")
    await store.write(A, [first])
    again = draft(ids, "new words", id=first.item.id)
    assert [o.version for o in await store.write(A, [again])] == [2]
    item = (await store.get(A, [first.item.id]))[first.item.id]
    assert (item.text, item.version, item.created_us) == ("new words", 2, first.item.created_us)
    assert not await store.search(A, Query(text="old", vector=None))
    assert await store.count(A) == 1


async def test_compare_and_set_gives_each_item_its_own_outcome(
    store: MemoryStore, ids: IdClock
) -> None:
    (kept,) = await put(store, ids, "here first")
    outcomes = await store.write(
        A,
        [
            draft(ids, "only if new, and is not", id=kept, expected_version=0),
            draft(ids, "only if new, and is", expected_version=0),
            draft(ids, "over a version that nothing has", expected_version=3),
        ],
    )
    assert [o.version for o in outcomes] == [None, 1, None]
    assert (await store.get(A, [kept]))[kept].text == "here first"
    over = [draft(ids, "over one", id=kept, expected_version=1)]
    assert [o.version for o in await store.write(A, over)] == [2]
    assert [o.version for o in await store.write(A, over)] == [None]


async def test_of_concurrent_writers_on_one_version_exactly_one_wins(
    store: MemoryStore, ids: IdClock
) -> None:
    (kept,) = await put(store, ids, "contested")
    rivals = [draft(ids, f"rival {n}", id=kept, expected_version=1) for n in range(8)]
    outcomes = await asyncio.gather(*(store.write(A, [rival]) for rival in rivals))
    winners = [n for n, (outcome,) in enumerate(outcomes) if outcome.version is not None]
    assert len(winners) == 1
    assert (await store.get(A, [kept]))[kept].text == f"rival {winners[0]}"


async def test_unconditional_writers_all_succeed(store: MemoryStore, ids: IdClock) -> None:
    (kept,) = await put(store, ids, "contested")
    rivals = [draft(ids, f"rival {n}", id=kept) for n in range(3)]
    outcomes = await asyncio.gather(*(store.write(A, [rival]) for rival in rivals))
    assert {outcome.version for (outcome,) in outcomes} == {2, 3, 4}


# Receipts.


def receipt(ids: IdClock, name: str = "k", mark: str = "body") -> Receipt:
    return Receipt(name=name, fingerprint=mark, expires_us=ids.now_us() + 1_000_000)


async def test_a_replay_gives_the_first_outcome_even_after_the_item_is_gone(
    store: MemoryStore, ids: IdClock
) -> None:
    (kept,) = await put(store, ids, "kept")
    batch = [draft(ids, "once"), draft(ids, "lost", id=kept, expected_version=9)]
    first = await store.write(A, batch, receipt=receipt(ids))
    assert [o.version for o in first] == [1, None]
    replayed = [draft(ids, "once"), draft(ids, "lost", id=kept, expected_version=9)]
    assert await store.write(A, replayed, receipt=receipt(ids)) == first
    assert await store.count(A) == 2
    await store.delete_ids(A, [first[0].id])
    assert await store.write(A, replayed, receipt=receipt(ids)) == first
    assert await store.count(A) == 1


async def test_a_reused_key_is_refused_and_nothing_is_written(
    store: MemoryStore, ids: IdClock
) -> None:
    await store.write(A, [draft(ids, "one")], receipt=receipt(ids))
    with pytest.raises(InvalidArgument) as refused:
        await store.write(A, [draft(ids, "two")], receipt=receipt(ids, mark="other"))
    assert refused.value.reason == Reason.IDEMPOTENCY_KEY_REUSED
    assert await store.count(A) == 1


async def test_a_key_protects_its_tenant_and_its_day_alone(
    store: MemoryStore, ids: IdClock, clock: ShiftedClock
) -> None:
    await store.write(A, [draft(ids, "one")], receipt=receipt(ids))
    await store.write(B, [draft(ids, "one")], receipt=receipt(ids, mark="other"))
    clock.shift_us = 2_000_000
    await store.write(A, [draft(ids, "two")], receipt=receipt(ids, mark="other"))
    assert await store.count(A) == 2


async def test_concurrent_replays_write_once(store: MemoryStore, ids: IdClock) -> None:
    kept = receipt(ids)
    answers = await asyncio.gather(
        *(store.write(A, [draft(ids, "one"), draft(ids, "two")], receipt=kept) for _ in range(5))
    )
    assert all(answer == answers[0] for answer in answers)
    assert await store.count(A) == 2


async def test_records_expire_and_belong_to_a_tenant(
    store: MemoryStore, ids: IdClock, clock: ShiftedClock
) -> None:
    await store.put_record(A, "n", "first")
    await store.put_record(A, "n", "second")
    await store.put_record(A, "short", "lived", expires_us=ids.now_us() + 1_000_000)
    assert await store.read_record(A, "n") == "second"
    assert await store.read_record(B, "n") is None
    assert await store.read_record(A, "short") == "lived"
    assert await store.count(A) == 0
    clock.shift_us = 2_000_000
    assert await store.read_record(A, "short") is None
    await store.sweep()
    assert await store.read_record(A, "n") == "second"


# Expiry.


async def test_expiry_is_exact_without_any_sweep(
    store: MemoryStore, ids: IdClock, clock: ShiftedClock
) -> None:
    soon = draft(ids, "fox for a while", expires_us=ids.now_us() + 60_000_000)
    await store.write(A, [soon])
    await embed(store, {soon.item.id: vector(1, 0, 0, 0)})
    assert await store.count(A) == 1
    clock.shift_us = 61_000_000
    assert await store.count(A) == 0
    assert not await store.get(A, [soon.item.id])
    assert not (await store.scan(A, newest_first=True, limit=9)).items
    assert not await store.search(A, Query(text="fox", vector=vector(1, 0, 0, 0)))
    assert await store.delete_ids(A, [soon.item.id]) == 0


async def test_an_expired_id_is_free_again(
    store: MemoryStore, ids: IdClock, clock: ShiftedClock
) -> None:
    old = draft(ids, "old", expires_us=ids.now_us() + 1_000_000)
    await store.write(A, [old])
    clock.shift_us = 2_000_000
    over = draft(ids, "over the old", id=old.item.id, expected_version=1)
    assert [o.version for o in await store.write(A, [over])] == [None]
    new = draft(ids, "new", id=old.item.id, expected_version=0)
    ((outcome),) = await store.write(A, [new])
    assert outcome.version is not None
    item = (await store.get(A, [old.item.id]))[old.item.id]
    assert (item.text, item.created_us) == ("new", new.item.created_us)


async def test_the_sweep_removes_what_expired_and_nothing_else(
    store: MemoryStore, ids: IdClock, clock: ShiftedClock
) -> None:
    await store.write(A, [draft(ids, "gone", expires_us=ids.now_us() + 1_000_000)])
    await store.write(B, [draft(ids, "stays"), draft(ids, "later", expires_us=2**52)])
    clock.shift_us = 2_000_000
    await store.sweep()
    clock.shift_us = 0
    assert await store.count(A) == 0
    assert await store.count(B) == 2


# Tenants.


async def test_no_call_reaches_another_tenant(store: MemoryStore, ids: IdClock) -> None:
    secret = draft(ids, "the secret fox", conversation_id="c")
    await store.write(A, [secret])
    await embed(store, {secret.item.id: vector(1, 0, 0, 0)})
    one = secret.item.id
    forged = any_of(equals(fields.TENANT, A), one_of(fields.TENANT, [A, B]), none_of())
    assert not await store.get(B, [one])
    for where in (all_of(), forged, equals(fields.CONVERSATION, "c"), points([point_id(A, one)])):
        assert await store.count(B, where) == 0
        assert not (await store.scan(B, where, newest_first=True, limit=9)).items
        query = Query(text="secret fox", vector=vector(1, 0, 0, 0), where=where, explain=True)
        assert not await store.search(B, query)
        assert await store.delete(B, where) == 0
    assert await store.delete_ids(B, [one]) == 0
    assert await store.pending_count(B) == 0
    assert await store.attach(B, [Embedded(one, "", vector(0, 1, 0, 0))], model="m") == 0
    assert list(await store.get(A, [one])) == [one]


async def test_two_tenants_may_use_the_same_id(store: MemoryStore, ids: IdClock) -> None:
    mine = draft(ids, "mine")
    await store.write(A, [mine])
    theirs = draft(ids, "theirs", id=mine.item.id, expected_version=0)
    assert [o.version for o in await store.write(B, [theirs])] == [1]
    assert await store.delete_ids(B, [mine.item.id]) == 1
    assert (await store.get(A, [mine.item.id]))[mine.item.id].text == "mine"


async def test_a_call_without_a_tenant_cannot_be_made(store: MemoryStore) -> None:
    with pytest.raises(Exception, match=r"tenant|failed on this call"):
        await store.count("")


async def test_one_tenants_words_do_not_move_anothers_scores(
    store: MemoryStore, ids: IdClock
) -> None:
    await put(store, ids, "fox in the snow", "hare in the snow")
    before = [hit.score for hit in await store.search(A, Query(text="fox snow", vector=None))]
    await put(store, ids, *(f"fox number {n}" for n in range(20)), tenant=B)
    after = [hit.score for hit in await store.search(A, Query(text="fox snow", vector=None))]
    assert after == pytest.approx(before)


# Scans.


async def pages(store: MemoryStore, *, newest_first: bool, limit: int) -> AsyncIterator[Page]:
    after: Position | None = None
    while True:
        page = await store.scan(A, newest_first=newest_first, limit=limit, after=after)
        yield page
        if page.next is None:
            return
        after = page.next


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_hold_everything_once_and_in_order(
    store: MemoryStore, ids: IdClock, newest_first: bool
) -> None:
    written = await put(store, ids, *(f"text {n}" for n in range(10)))
    sizes: list[int] = []
    read: list[str] = []
    async for page in pages(store, newest_first=newest_first, limit=5):
        sizes.append(len(page.items))
        read += [item.id for item in page.items]
    assert sizes == [5, 5]
    assert read == (written[::-1] if newest_first else written)


@pytest.mark.parametrize("newest_first", [True, False])
async def test_items_of_one_moment_are_neither_repeated_nor_lost(
    store: MemoryStore, ids: IdClock, newest_first: bool
) -> None:
    moment = ids.next_us()
    drafts = [draft(ids, f"twin {n}", created_us=moment + n // 7) for n in range(21)]
    await store.write(A, drafts)
    read = [
        item.id
        async for page in pages(store, newest_first=newest_first, limit=4)
        for item in page.items
    ]
    assert sorted(read) == sorted(each.item.id for each in drafts)


@pytest.mark.parametrize("newest_first", [True, False])
async def test_writes_and_deletions_between_pages_hide_and_repeat_nothing(
    store: MemoryStore, ids: IdClock, newest_first: bool
) -> None:
    written = await put(store, ids, *(f"text {n}" for n in range(12)))
    read: list[str] = []
    deleted: list[str] = []
    async for page in pages(store, newest_first=newest_first, limit=3):
        read += [item.id for item in page.items]
        await put(store, ids, "written meanwhile")
        await store.write(A, [draft(ids, "rewritten", id=written[6])])
        unread = [each for each in written if each not in read and each != written[6]]
        if unread:
            deleted.append(unread[0])
            await store.delete_ids(A, unread[:1])
        if len(read) > 60:
            break
    assert len(set(read)) == len(read)
    assert set(written) - set(deleted) <= set(read)


async def test_filters_select_what_they_say(store: MemoryStore, ids: IdClock) -> None:
    await store.write(
        A,
        [
            draft(ids, "1", user_id="u", kind=1, role=2, event_us=10, attributes={"k": "v"}),
            draft(ids, "2", user_id="", kind=2, event_us=20, source="s"),
            draft(ids, "3", user_id="w", kind=3, event_us=30, attributes={"k": "x", "l": "v"}),
        ],
    )
    cases = {
        "23": none_of(equals(fields.KIND, 1)),
        "12": one_of(fields.USER, ["", "u"]),
        "": one_of(fields.KIND, []),
        "3": between(fields.EVENT, 21, None),
        "1": between(fields.EVENT, None, 20),
        "2": between(fields.EVENT, 20, 21),
        "13": any_of(equals(fields.ROLE, 2), equals(fields.LABELS, fields.label("l", "v"))),
        "123": all_of(),
    }
    for texts, where in cases.items():
        page = await store.scan(A, where, newest_first=False, limit=9)
        assert "".join(item.text for item in page.items) == texts
        assert await store.count(A, where) == len(texts)
    assert await store.count(A, equals(fields.LABELS, fields.label("k", "v"))) == 1
    nested = all_of(any_of(equals(fields.KIND, 1), none_of(equals(fields.USER, "w"))))
    assert await store.count(A, nested) == 2


# Search.


async def corpus(store: MemoryStore, ids: IdClock) -> dict[str, str]:
    """Four notes; by words "fox" finds ab, by meaning the query finds c, b, a, d in this order."""
    written = await put(store, ids, "fox fox", "fox and hare", "badger", "stone")
    names = dict(zip("abcd", written, strict=True))
    await embed(
        store,
        {
            names["a"]: vector(0.5, 1, 0, 0),
            names["b"]: vector(0.9, 0.5, 0, 0),
            names["c"]: vector(1, 0, 0, 0),
            names["d"]: vector(-1, 0, 0, 0),
        },
    )
    return names


QUERY = vector(1, 0, 0, 0)


async def test_words_alone(store: MemoryStore, ids: IdClock) -> None:
    names = await corpus(store, ids)
    hits = await store.search(A, Query(text="FOXES", vector=None, explain=True))
    assert [hit.item.id for hit in hits] == [names["a"], names["b"]]
    assert [(hit.lexical.rank, hit.dense.rank) for hit in hits] == [(1, 0), (2, 0)]
    assert [hit.lexical.score for hit in hits] == pytest.approx([hit.score for hit in hits])


async def test_words_are_found_where_no_spaces_are(store: MemoryStore, ids: IdClock) -> None:
    (found, _) = await put(store, ids, "日本語のテキスト", "我喜欢红酒")
    hits = await store.search(A, Query(text="日本語", vector=None))
    assert [hit.item.id for hit in hits] == [found]


async def test_meaning_alone(store: MemoryStore, ids: IdClock) -> None:
    names = await corpus(store, ids)
    hits = await store.search(A, Query(text=None, vector=QUERY, limit=3, explain=True))
    assert [hit.item.id for hit in hits] == [names["c"], names["b"], names["a"]]
    assert [hit.score for hit in hits] == pytest.approx([1, 0.87416, 0.44721], abs=1e-4)
    assert [hit.dense.rank for hit in hits] == [1, 2, 3]
    close = await store.search(A, Query(text=None, vector=QUERY, min_cosine=0.8))
    assert [hit.item.id for hit in close] == [names["c"], names["b"]]


def fused(k: int, *legs: tuple[int, float]) -> float:
    return sum(1 / (k - 1 + rank / weight) for rank, weight in legs)


@pytest.mark.parametrize(("k", "dense", "lexical"), [(2, 1.0, 2.0), (2, 1.0, 1.0), (60, 3.0, 1.0)])
async def test_both_legs_are_fused_by_weighted_reciprocal_ranks(
    store: MemoryStore, ids: IdClock, k: int, dense: float, lexical: float
) -> None:
    names = await corpus(store, ids)
    query = Query(
        text="fox",
        vector=QUERY,
        rrf_k=k,
        dense_weight=dense,
        lexical_weight=lexical,
        explain=True,
    )
    expected = {
        names["a"]: fused(k, (3, dense), (1, lexical)),
        names["b"]: fused(k, (2, dense), (2, lexical)),
        names["c"]: fused(k, (1, dense)),
        names["d"]: fused(k, (4, dense)),
    }
    hits = await store.search(A, query)
    assert {hit.item.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)
    assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
    assert {hit.item.id: (hit.lexical.rank, hit.dense.rank) for hit in hits} == {
        names["a"]: (1, 3),
        names["b"]: (2, 2),
        names["c"]: (0, 1),
        names["d"]: (0, 4),
    }


async def test_importance_raises_a_score_by_a_quarter_at_the_most(
    store: MemoryStore, ids: IdClock
) -> None:
    plain, vital = draft(ids, "fox", importance=0.0), draft(ids, "fox", importance=1.0)
    await store.write(A, [plain, vital])
    hits = await store.search(A, Query(text="fox", vector=None))
    assert [hit.item.id for hit in hits] == [vital.item.id, plain.item.id]
    assert hits[0].score == pytest.approx(1.25 * hits[1].score)


async def test_equal_scores_are_ordered_newest_first(store: MemoryStore, ids: IdClock) -> None:
    written = await put(store, ids, "same fox", "same fox", "same fox")
    hits = await store.search(A, Query(text="fox", vector=None))
    assert [hit.item.id for hit in hits] == written[::-1]


async def test_filters_and_limits_bind_searches(store: MemoryStore, ids: IdClock) -> None:
    await store.write(A, [draft(ids, "fox", user_id=user) for user in ("u", "w", "u", "u")])
    where = equals(fields.USER, "u")
    assert len(await store.search(A, Query(text="fox", vector=None, where=where))) == 3
    assert len(await store.search(A, Query(text="fox", vector=None, where=where, limit=2))) == 2


@pytest.mark.parametrize("text", ["the", "🦊", "?!", "absent"])
async def test_a_query_without_known_words_finds_nothing_by_words(
    store: MemoryStore, ids: IdClock, text: str
) -> None:
    await put(store, ids, "a fox", "the")
    assert not await store.search(A, Query(text=text, vector=None))
    assert not await store.search(A, Query(text=text, vector=None, explain=True))


# Embeddings that come later.


async def test_an_item_is_pending_until_its_vector_comes(store: MemoryStore, ids: IdClock) -> None:
    one, two = await put(store, ids, "one", "two")
    assert {each.text for each in await store.pending(9)} == {"one", "two"}
    assert await store.pending_count(A) == 2
    await embed(store, {one: QUERY})
    assert [each.id for each in await store.pending(9)] == [two]
    assert await store.pending(9, skip_tenants=[A]) == []
    item = (await store.get(A, [one]))[one]
    assert (item.embedding, item.version) == (Embedding.DONE, 1)


@pytest.mark.parametrize("recreate", [False, True])
async def test_a_late_vector_never_lands_on_newer_text(
    store: MemoryStore, ids: IdClock, recreate: bool
) -> None:
    (one,) = await put(store, ids, "old text")
    (old,) = await store.pending(9)
    if recreate:
        await store.delete_ids(A, [one])
    await store.write(A, [draft(ids, "new text", id=one)])
    assert await store.attach(A, [Embedded(one, old.revision, QUERY)], model="m") == 0
    assert [each.text for each in await store.pending(9)] == ["new text"]
    assert not await store.search(A, Query(text=None, vector=QUERY))


async def test_a_rewrite_drops_the_old_vector(store: MemoryStore, ids: IdClock) -> None:
    (one,) = await put(store, ids, "old text")
    await embed(store, {one: QUERY})
    await store.write(A, [draft(ids, "new text", id=one)])
    assert not await store.search(A, Query(text=None, vector=QUERY))
    assert await store.pending_count(A) == 1


async def test_a_refused_text_is_pending_no_more(store: MemoryStore, ids: IdClock) -> None:
    (one,) = await put(store, ids, "unembeddable")
    (pending,) = await store.pending(9)
    assert await store.attach(A, [Embedded(one, pending.revision, None)], model="m") == 1
    assert await store.pending_count(A) == 0
    assert (await store.get(A, [one]))[one].embedding is Embedding.REFUSED


async def test_another_dimension_is_an_error_and_changes_nothing(
    store: MemoryStore, ids: IdClock
) -> None:
    one, two = await put(store, ids, "one", "two")
    revisions = {each.id: each.revision for each in await store.pending(9)}
    bad = [Embedded(one, revisions[one], QUERY), Embedded(two, revisions[two], vector(1, 2))]
    with pytest.raises(FailedPrecondition) as refused:
        await store.attach(A, bad, model="m")
    assert refused.value.reason == Reason.DIMENSION_MISMATCH
    assert await store.pending_count(A) == 2


async def test_another_model_makes_everything_pending_again(
    store: MemoryStore, ids: IdClock
) -> None:
    (one,) = await put(store, ids, "one")
    await embed(store, {one: QUERY})
    assert await store.adopt_model("m") == 0
    assert await store.adopt_model("n") == 1
    assert await store.pending_count(A) == 1
    assert not await store.search(A, Query(text=None, vector=QUERY))


# Deletion.


async def test_deletion_by_filter_counts_and_takes_what_matches(
    store: MemoryStore, ids: IdClock
) -> None:
    await store.write(A, [draft(ids, "x", conversation_id=c) for c in ("one", "one", "two")])
    await store.put_record(A, "record", "stays")
    assert await store.delete(A, equals(fields.CONVERSATION, "one")) == 2
    assert await store.delete(A, equals(fields.CONVERSATION, "one")) == 0
    assert await store.delete(A, all_of()) == 1
    assert await store.read_record(A, "record") == "stays"


async def test_deleting_twice_is_no_error(store: MemoryStore, ids: IdClock) -> None:
    one, two = await put(store, ids, "one", "two")
    assert await store.delete_ids(A, [one, ids.new_id(1)]) == 1
    assert await store.delete_ids(A, [one, two]) == 1
    await store.flush()
