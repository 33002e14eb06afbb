"""Micro-batches: who shares one, what is joined, remembered and refused."""

import asyncio
from collections.abc import Sequence

import pytest

from mesh.errors import PlexusError, Reason, ResourceExhausted, Unavailable
from mesh.testing.clock import ManualClock
from plexus.router.v1 import router_service_pb2 as pb
from services.router.embedding.queue import EmbeddingQueue, Encoded


class GatedModel:
    """An encoder whose batches wait for `gate` and are recorded."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.error: Exception | None = None

    async def encode(self, texts: Sequence[str]) -> Sequence[Encoded]:
        self.batches.append(list(texts))
        self.begun.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [Encoded(vector=pb.Vector(values=[float(len(t))]), input_tokens=2) for t in texts]


class Bench:
    """A queue on a manual clock."""

    def __init__(self, *, max_batch: int = 8, max_queued: int = 16, cache_bytes: int = 10_000):
        self.clock = ManualClock()
        self.model = GatedModel()
        self.queue = EmbeddingQueue(
            self.model.encode,
            clock=self.clock,
            max_batch=max_batch,
            max_wait_s=0.001,
            max_queued=max_queued,
            cache_bytes=cache_bytes,
        )
        self.queue.start()

    async def begin_batch(self) -> None:
        """Let the idle wait pass and the next batch begin."""
        self.model.begun.clear()
        await self.clock.wait_for_sleepers()
        await self.clock.advance(0.001)
        await self.model.begun.wait()


async def test_calls_that_come_together_share_a_batch() -> None:
    bench = Bench()
    calls = [asyncio.create_task(bench.queue.embed([f"text {n}"])) for n in range(5)]
    await bench.begin_batch()
    bench.model.gate.set()
    await asyncio.gather(*calls)
    assert bench.model.batches == [[f"text {n}" for n in range(5)]]
    await bench.queue.close()


async def test_what_comes_during_a_batch_forms_the_next_in_order_of_arrival() -> None:
    bench = Bench(max_batch=2)
    first = asyncio.create_task(bench.queue.embed(["a"]))
    await bench.begin_batch()
    later = [asyncio.create_task(bench.queue.embed([text])) for text in ("b", "c", "d")]
    await asyncio.sleep(0)
    bench.model.gate.set()
    await asyncio.gather(first, *later)
    assert bench.model.batches == [["a"], ["b", "c"], ["d"]]
    await bench.queue.close()


async def test_results_keep_their_order_and_repeated_texts_are_computed_once() -> None:
    bench = Bench()
    bench.model.gate.set()
    call = asyncio.create_task(bench.queue.embed(["aaa", "b", "aaa"]))
    await bench.begin_batch()
    answer = await call
    assert [list(vector.values) for vector in answer.vectors] == [[3.0], [1.0], [3.0]]
    assert bench.model.batches == [["aaa", "b"]]
    await bench.queue.close()


async def test_an_identical_text_in_flight_is_joined_and_later_remembered() -> None:
    bench = Bench()
    first = asyncio.create_task(bench.queue.embed(["a"]))
    await bench.begin_batch()
    second = asyncio.create_task(bench.queue.embed(["a"]))
    await asyncio.sleep(0)
    bench.model.gate.set()
    await asyncio.gather(first, second)
    third = await bench.queue.embed(["a"])
    assert bench.model.batches == [["a"]]
    assert (third.input_tokens, third.cached_input_tokens) == (2, 2)
    assert bench.queue.statistics.joined == 1
    assert bench.queue.statistics.cache_hits == 1
    await bench.queue.close()


async def test_a_caller_that_leaves_does_not_spoil_the_batch_for_others() -> None:
    bench = Bench()
    leaver = asyncio.create_task(bench.queue.embed(["a"]))
    stayer = asyncio.create_task(bench.queue.embed(["a"]))
    await bench.begin_batch()
    leaver.cancel()
    await asyncio.wait([leaver])
    bench.model.gate.set()
    assert len((await stayer).vectors) == 1
    await bench.queue.close()


async def test_the_cache_is_bounded_in_bytes() -> None:
    bench = Bench(cache_bytes=700)
    bench.model.gate.set()
    for text in ("a", "b", "c"):
        call = asyncio.create_task(bench.queue.embed([text]))
        await bench.begin_batch()
        await call
    assert bench.queue.statistics.cached_bytes <= 700
    call = asyncio.create_task(bench.queue.embed(["a"]))
    await bench.begin_batch()
    await call
    assert bench.model.batches[-1] == ["a"], "the oldest text was forgotten"
    await bench.queue.close()


async def test_too_many_waiting_texts_are_refused_whole() -> None:
    bench = Bench(max_queued=3)
    waiting = asyncio.create_task(bench.queue.embed(["a", "b"]))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as caught:
        await bench.queue.embed(["c", "d"])
    assert caught.value.reason == Reason.OVERLOADED
    bench.model.gate.set()
    await bench.begin_batch()
    await waiting
    assert bench.model.batches == [["a", "b"]]
    await bench.queue.close()


@pytest.mark.parametrize("error", [Unavailable("no model"), ValueError("odd")])
async def test_a_failed_batch_tells_its_callers_and_the_queue_goes_on(error: Exception) -> None:
    bench = Bench()
    bench.model.error = error
    bench.model.gate.set()
    call = asyncio.create_task(bench.queue.embed(["a"]))
    await bench.begin_batch()
    with pytest.raises(PlexusError):
        await call
    bench.model.error = None
    call = asyncio.create_task(bench.queue.embed(["a"]))
    await bench.begin_batch()
    assert len((await call).vectors) == 1
    await bench.queue.close()


async def test_closing_tells_those_who_wait() -> None:
    bench = Bench()
    running = asyncio.create_task(bench.queue.embed(["a"]))
    await bench.begin_batch()
    waiting = asyncio.create_task(bench.queue.embed(["b"]))
    await asyncio.sleep(0)
    await bench.queue.close()
    for call in (running, waiting):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.reason == Reason.EMBEDDER_UNAVAILABLE
