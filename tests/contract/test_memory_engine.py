"""The engine process: it may be killed, stopped, orphaned or find its folder taken or broken."""

import asyncio
import contextlib
import os
import signal
import sys
from array import array
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mesh.clock import SYSTEM_CLOCK
from mesh.errors import DataLoss, FailedPrecondition, Reason, ResourceExhausted, Unavailable
from services.memory.edge_store import EdgeStore
from services.memory.ids import IdClock
from services.memory.store import Draft, Embedded, Item, Query, Receipt

TENANT = "t"


def edge(folder: Path, **changes: object) -> EdgeStore:
    values: dict[str, object] = {
        "clock": SYSTEM_CLOCK,
        "dimensions": 2,
        "call_timeout_ms": 10_000,
        "max_in_flight": 100,
        "flush_interval_ms": 60_000,
        "optimize_idle_s": 0,
        **changes,
    }
    return EdgeStore(folder, **values)  # pyright: ignore[reportArgumentType]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EdgeStore]:
    store = edge(tmp_path)
    await store.open()
    yield store
    await store.close()


ids = IdClock(SYSTEM_CLOCK)


def draft(text: str) -> Draft:
    created_us = ids.next_us()
    item = Item(id=ids.new_id(created_us), kind=2, text=text, created_us=created_us)
    return Draft(item=item)


def kill(store: EdgeStore, number: signal.Signals = signal.SIGKILL) -> None:
    assert store.link.pid is not None
    os.kill(store.link.pid, number)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 -- another process tells nobody
            await asyncio.sleep(0.01)


async def test_acknowledged_writes_survive_a_kill(store: EdgeStore) -> None:
    written: list[str] = []
    for n in range(60):
        written += [o.id for o in await store.write(TENANT, [draft(f"fox {n}")])]
    (pending,) = await store.pending(1)
    vector = array("f", [1.0, 0.0]).tobytes()
    await store.attach(TENANT, [Embedded(pending.id, pending.revision, vector)], model="m")
    kill(store)
    assert set(await store.get(TENANT, written)) == set(written)
    assert len(await store.search(TENANT, Query(text="fox", vector=None, limit=100))) == 60
    assert len(await store.search(TENANT, Query(text=None, vector=vector))) == 1
    assert store.statistics().restarts == 1


async def test_of_calls_in_flight_at_a_kill_only_unrepeatable_writes_fail(
    store: EdgeStore,
) -> None:
    (first,) = await store.write(TENANT, [draft("first")])
    kill(store, signal.SIGSTOP)
    receipt = Receipt(name="k", fingerprint="f", expires_us=2**52)
    calls = [
        asyncio.ensure_future(call)
        for call in (
            store.get(TENANT, [first.id]),
            store.count(TENANT),
            store.write(TENANT, [draft("bare")]),
            store.write(TENANT, [draft("receipted")], receipt=receipt),
        )
    ]
    # One turn of the loop puts the calls on the wire; the stopped engine reads none of them.
    frames = store.link.statistics().frames
    await until(lambda: store.link.statistics().frames > frames)
    kill(store)
    got, _, bare, receipted = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(got, dict)
    assert isinstance(bare, Unavailable)
    assert bare.reason == Reason.MEMORY_UNAVAILABLE
    assert not isinstance(receipted, BaseException)
    assert await store.count(TENANT) == 2


async def test_killed_again_and_again_it_comes_back(store: EdgeStore) -> None:
    await store.write(TENANT, [draft("one")])
    for restarts in range(1, 4):
        kill(store)
        await until(lambda: not store.is_ready())
        assert await store.count(TENANT) == 1
        assert store.statistics().restarts == restarts


async def test_a_stopped_engine_costs_a_bounded_wait_and_nothing_else(tmp_path: Path) -> None:
    store = edge(tmp_path, call_timeout_ms=100)
    await store.open()
    await store.write(TENANT, [draft("one")])
    kill(store, signal.SIGSTOP)
    with pytest.raises(Unavailable) as late:
        await store.count(TENANT)
    assert late.value.reason == Reason.MEMORY_UNAVAILABLE
    kill(store, signal.SIGCONT)
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Unavailable):
                assert await store.count(TENANT) == 1
                break
    await store.close()


async def test_more_calls_than_allowed_are_refused(tmp_path: Path) -> None:
    store = edge(tmp_path, max_in_flight=2)
    await store.open()
    answers = await asyncio.gather(*(store.count(TENANT) for _ in range(3)), return_exceptions=True)
    refused = [each for each in answers if isinstance(each, ResourceExhausted)]
    assert [each.reason for each in refused] == [Reason.OVERLOADED]
    assert refused[0].retry_after_s is not None
    await store.close()


async def test_calls_of_one_tick_share_a_frame(store: EdgeStore) -> None:
    frames = store.link.statistics().frames
    await asyncio.gather(*(store.count(TENANT) for _ in range(50)))
    assert store.link.statistics().frames == frames + 1


async def test_a_cancelled_call_harms_no_other(store: EdgeStore) -> None:
    call = asyncio.ensure_future(store.count(TENANT))
    await asyncio.sleep(0)
    call.cancel()
    assert await store.count(TENANT) == 0
    await until(lambda: store.statistics().in_flight == 0)


async def test_a_bad_search_does_not_fail_its_neighbours(store: EdgeStore) -> None:
    await store.write(TENANT, [draft("fox")])
    wrong_length = Query(text="fox", vector=array("f", [1.0]).tobytes())
    good, bad = await asyncio.gather(
        store.search(TENANT, Query(text="fox", vector=None)),
        store.search(TENANT, wrong_length),
        return_exceptions=True,
    )
    assert isinstance(good, list)
    assert len(good) == 1
    assert isinstance(bad, Exception)


async def test_closing_flushes_and_the_next_start_finds_everything(tmp_path: Path) -> None:
    first = edge(tmp_path)
    await first.open()
    await first.write(TENANT, [draft("one")], synced=True)
    await first.write(TENANT, [draft("two")])
    await first.close()
    await first.close()
    with pytest.raises(Unavailable):
        await first.count(TENANT)
    second = edge(tmp_path)
    await second.open()
    assert await second.count(TENANT) == 2
    await second.close()


async def test_expiry_is_exact_after_a_restart_too(tmp_path: Path) -> None:
    past = draft("fox gone")
    expired = Draft(item=replace(past.item, expires_us=past.item.created_us))
    first = edge(tmp_path)
    await first.open()
    await first.write(TENANT, [expired, draft("fox here")])
    assert await first.count(TENANT) == 1
    await first.close()
    second = edge(tmp_path)
    await second.open()
    assert await second.count(TENANT) == 1
    await second.sweep()
    assert [h.item.text for h in await second.search(TENANT, Query(text="fox", vector=None))] == [
        "fox here"
    ]
    await second.close()


def is_quantized(segments: Path) -> bool:
    try:
        return any("quantized" in str(file) for file in segments.rglob("*"))
    except FileNotFoundError:
        return False  # The engine renamed a file while we looked.


async def test_reorganising_itself_changes_no_answer(tmp_path: Path) -> None:
    store = edge(tmp_path, dimensions=1536, optimize_idle_s=0.01, flush_interval_ms=1)
    await store.open()
    # Enough megabytes of vectors that the engine finds them worth quantizing.
    rows = np.random.default_rng(1).standard_normal((1800, 1536), dtype=np.float32)
    for _ in range(9):
        drafts = [draft(f"fox {n}") for n in range(200)]
        await store.write(TENANT, drafts)
        # Written twice, or there would be too few changes to be worth a pause.
        await store.write(TENANT, drafts)
    vectors = iter(rows)
    while pending := await store.pending(200):
        found = [Embedded(p.id, p.revision, next(vectors).tobytes()) for p in pending]
        await store.attach(TENANT, found, model="m")
    query = Query(text=None, vector=rows[0].tobytes())
    before = await store.search(TENANT, query)
    await until(lambda: is_quantized(tmp_path / "shard" / "segments"))
    after = await store.search(TENANT, query)
    assert [hit.item for hit in after] == [hit.item for hit in before]
    assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before], abs=1e-5)
    assert await store.count(TENANT) == 1800
    await store.close()


async def test_a_second_owner_is_refused_in_one_sentence(store: EdgeStore, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        await edge(tmp_path).open()
    assert refused.value.reason == Reason.DATA_IN_USE
    assert str(store.link.pid) in refused.value.message
    assert "PLEXUS_DATA_DIR" in refused.value.message
    assert await store.count(TENANT) == 0


@pytest.mark.parametrize("broken", ["edge_config.json", "segments"])
async def test_a_broken_folder_is_refused_in_one_sentence(tmp_path: Path, broken: str) -> None:
    first = edge(tmp_path)
    await first.open()
    await first.write(TENANT, [draft("one")], synced=True)
    await first.close()
    for file in sorted((tmp_path / "shard").rglob("*")):
        if file.is_file() and broken in str(file.relative_to(tmp_path)):
            file.write_bytes(b"\xff" * 16)
    with pytest.raises(DataLoss) as refused:
        await edge(tmp_path).open()
    assert refused.value.reason == Reason.DATA_CORRUPT
    assert "restore" in refused.value.message


async def test_a_folder_broken_while_the_engine_is_down_ends_the_restarts(
    store: EdgeStore, tmp_path: Path
) -> None:
    (tmp_path / "shard" / "edge_config.json").write_text("{")
    kill(store)
    await until(lambda: not store.is_ready())
    with pytest.raises(DataLoss):
        await store.count(TENANT)
    assert not store.is_ready()


async def test_other_dimensions_than_the_data_has_are_refused(tmp_path: Path) -> None:
    first = edge(tmp_path)
    await first.open()
    await first.close()
    with pytest.raises(FailedPrecondition) as refused:
        await edge(tmp_path, dimensions=3).open()
    assert refused.value.reason == Reason.DIMENSION_MISMATCH
    assert "PLEXUS_MEMORY_DIMENSIONS=2" in refused.value.message


ORPHAN = """
import asyncio, sys
from pathlib import Path
from mesh.clock import SYSTEM_CLOCK
from services.memory.edge_store import EdgeStore

async def main():
    store = EdgeStore(Path(sys.argv[1]), clock=SYSTEM_CLOCK, dimensions=2, call_timeout_ms=1000,
                      max_in_flight=10, flush_interval_ms=1000, optimize_idle_s=0)
    await store.open()
    sys.stdout.write(f"{store.link.pid}\\n")
    sys.stdout.flush()
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_an_orphaned_engine_leaves_and_frees_its_folder(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ORPHAN, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    assert (await parent.stdout.readline()).strip().isdigit()
    parent.kill()
    await parent.wait()
    store = edge(tmp_path)
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(FailedPrecondition):
                await store.open()
                break
    await store.close()
