"""What only the Qdrant adapter meets: lost answers, and servers that are down, old or frozen."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from mesh.clock import SYSTEM_CLOCK
from mesh.errors import (
    FailedPrecondition,
    Internal,
    PlexusError,
    Reason,
    Unavailable,
    Unimplemented,
)
from mesh.testing.qdrant import QdrantDouble
from services.memory.ids import IdClock
from services.memory.server_store import ServerStore
from services.memory.store import Draft, Item, Receipt

TENANT = "t"
ids = IdClock(SYSTEM_CLOCK)


@pytest.fixture
async def double(tmp_path: Path) -> AsyncIterator[QdrantDouble]:
    double = QdrantDouble(tmp_path)
    await double.start()
    yield double
    await double.close()
    double.close_shards()


def server(
    url: str, *, dimensions: int = 2, api_key: str = "", timeout_ms: int = 5000
) -> ServerStore:
    return ServerStore(
        url,
        clock=SYSTEM_CLOCK,
        api_key=api_key,
        collection="memories",
        dimensions=dimensions,
        call_timeout_ms=timeout_ms,
        max_in_flight=100,
    )


@pytest.fixture
async def store(double: QdrantDouble) -> AsyncIterator[ServerStore]:
    store = server(double.url)
    await store.open()
    yield store
    await store.close()


def draft(text: str, expected_version: int = -1) -> Draft:
    created_us = ids.next_us()
    item = Item(id=ids.new_id(created_us), kind=2, text=text, created_us=created_us)
    return Draft(item=item, expected_version=expected_version)


async def test_a_lost_answer_is_asked_for_again_and_counts_once(
    store: ServerStore, double: QdrantDouble
) -> None:
    double.fail_after["Upsert"] = [grpc.StatusCode.UNAVAILABLE]
    (outcome,) = await store.write(TENANT, [draft("one", expected_version=0)])
    assert outcome.version == 1
    assert double.calls.count("Upsert") == 2
    assert await store.count(TENANT) == 1


@pytest.mark.parametrize("step", [1, 2])
async def test_a_write_cut_short_is_finished_by_its_replay(
    store: ServerStore, double: QdrantDouble, step: int
) -> None:
    """The steps with a receipt: claim, items, outcome; the cut comes before the second or third."""
    receipt = Receipt(name="k", fingerprint="f", expires_us=2**52)
    double.fail_before["Upsert"] = [*[None] * step, grpc.StatusCode.INTERNAL]
    with pytest.raises(Internal):
        await store.write(TENANT, [draft("one"), draft("two")], receipt=receipt)
    assert await store.count(TENANT) == (0 if step == 1 else 2)
    outcomes = await store.write(TENANT, [draft("one"), draft("two")], receipt=receipt)
    assert [o.version for o in outcomes] == [1, 1]
    assert await store.count(TENANT) == 2
    assert set(await store.get(TENANT, [o.id for o in outcomes])) == {o.id for o in outcomes}


async def test_what_qdrant_says_stays_out_of_errors(
    store: ServerStore, double: QdrantDouble
) -> None:
    double.fail_before["Count"] = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(Internal) as refused:
        await store.count(TENANT)
    assert "fault" not in refused.value.message


async def test_a_frozen_server_costs_a_bounded_wait_then_none(
    double: QdrantDouble, store: ServerStore
) -> None:
    """The first store has made the schema, so that the impatient one can open in its time."""
    store = server(double.url, timeout_ms=500)
    await store.open()
    double.is_frozen = True
    reasons: list[str] = []
    for _ in range(7):
        with pytest.raises(Unavailable) as late:
            await store.count(TENANT)
        reasons.append(late.value.message)
    assert {reason.split(";")[0] for reason in reasons[:5]} == {"Qdrant did not answer in time"}
    assert all("left alone" in reason for reason in reasons[5:])
    await store.close()


async def test_a_server_that_is_down_is_named_with_the_remedy() -> None:
    with pytest.raises(Unavailable) as refused:
        await server("http://127.0.0.1:1").open()
    assert refused.value.reason == Reason.MEMORY_UNAVAILABLE
    assert "PLEXUS_MEMORY_QDRANT_URL" in refused.value.message


async def test_a_restarted_server_is_found_again(double: QdrantDouble, store: ServerStore) -> None:
    await store.write(TENANT, [draft("one")])
    port = int(double.url.rsplit(":", 1)[1])
    await double.close()
    with pytest.raises(Unavailable):
        await store.count(TENANT)
    await double.start(port)
    for _ in range(1000):
        try:
            assert await store.count(TENANT) == 1
            break
        except Unavailable:
            await SYSTEM_CLOCK.sleep(0.02)
    else:
        pytest.fail("the store did not come back")


async def test_an_old_server_is_refused(tmp_path: Path) -> None:
    double = QdrantDouble(tmp_path, version="1.16.3")
    await double.start()
    with pytest.raises(FailedPrecondition, match=r"1\.16\.3 is too old"):
        await server(double.url).open()
    await double.close()


@pytest.mark.parametrize(("version", "expected"), [("1.18.2", False), ("1.20.0-dev", True)])
async def test_words_are_weighed_within_the_tenant_where_the_server_can(
    tmp_path: Path, version: str, expected: bool
) -> None:
    double = QdrantDouble(tmp_path, version=version)
    await double.start()
    store = server(double.url)
    await store.open()
    assert store.has_tenant_idf is expected
    await store.close()
    await double.close()
    double.close_shards()


async def test_a_collection_of_other_dimensions_is_refused(
    double: QdrantDouble, store: ServerStore
) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        await server(double.url, dimensions=3).open()
    assert refused.value.reason == Reason.DIMENSION_MISMATCH


async def test_an_existing_collection_is_used_as_it_is(
    double: QdrantDouble, store: ServerStore
) -> None:
    await store.write(TENANT, [draft("one")])
    second = server(double.url)
    await second.open()
    assert await second.count(TENANT) == 1
    await second.close()
    assert double.calls.count("Create") == 1


@pytest.mark.parametrize("url", ["localhost:6334", "ftp://x"])
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(FailedPrecondition, match="qdrant_url"):
        await server(url).open()


async def test_a_key_is_never_sent_in_the_clear() -> None:
    with pytest.raises(PlexusError, match="needs https"):
        await server("http://qdrant.example:6334", api_key="k").open()


async def test_durability_that_qdrant_cannot_give_is_refused(store: ServerStore) -> None:
    with pytest.raises(Unimplemented) as refused:
        await store.write(TENANT, [draft("one")], synced=True)
    assert refused.value.reason == Reason.NOT_SERVED
    assert await store.count(TENANT) == 0
