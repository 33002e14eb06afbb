"""The ledger and the percentiles as their callers see them: through stubs, over a real Redis."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from mesh import metrics
from mesh.breaker import BreakerState
from mesh.call import Identity, outgoing_call
from mesh.component import Hosted
from mesh.errors import Reason, from_rpc_error
from mesh.redis_link import RedisLink, RedisLinkSettings
from mesh.redis_server import RedisServer
from mesh.server import ComponentServer
from mesh.settings import MeshSettings
from mesh.testing.clock import ManualClock
from mesh.testing.redis import freeze, temporary_redis, thaw
from plexus.common.v1 import model_pb2, scope_pb2
from plexus.metrics.v1 import metrics_service_pb2 as pb
from plexus.metrics.v1 import metrics_service_pb2_grpc as pb_grpc
from services.metrics.build import MetricsComponent, build
from services.metrics.settings import MetricsSettings
from services.metrics.sketch import RELATIVE_ERROR

ROOT = Path(__file__).parents[2]
PATIENT_MS = 10_000
HASTY_MS = 200
PRICES = """
version: "1"
models:
  acme/small: {input: "1.00", cached_input: "0.10", output: "2.00"}
  acme/large: {input: "10.00", output: "30.00"}
"""


class Replica:
    """One process's metrics, called as a tenant."""

    def __init__(self, component: MetricsComponent, stub: pb_grpc.MetricsServiceStub) -> None:
        self.component = component
        self.stub = stub

    async def record(self, *events: pb.UsageEvent, tenant: str = "t1") -> list[pb.LedgerEntry]:
        with outgoing_call(Identity(tenant, "test")):
            booked = await self.stub.RecordUsage(pb.RecordUsageRequest(events=events))
        return list(booked.entries)

    async def page(
        self, token: str = "", *, size: int = 10, tenant: str = "t1"
    ) -> pb.ListLedgerResponse:
        with outgoing_call(Identity(tenant, "test")):
            return await self.stub.ListLedger(
                pb.ListLedgerRequest(page_size=size, page_token=token)
            )

    async def ledger(self, *, size: int = 10, tenant: str = "t1") -> list[str]:
        """The ids of all entries, page by page."""
        found: list[str] = []
        token = ""
        while True:
            page = await self.page(token, size=size, tenant=tenant)
            assert len(page.entries) <= size
            found += [entry.event_id for entry in page.entries]
            token = page.next_page_token
            if not token:
                return found

    async def summary(self, *, tenant: str = "t1", window_s: int = 0) -> pb.GetSummaryResponse:
        with outgoing_call(Identity(tenant, "test")):
            return await self.stub.GetSummary(pb.GetSummaryRequest(window_s=window_s))


MakeReplica = Callable[..., Awaitable[Replica]]


def event(event_id: str, **changes: object) -> pb.UsageEvent:
    values: dict[str, object] = {
        "event_id": event_id,
        "operation": "chat",
        "provider": "acme",
        "model": "small",
        "usage": model_pb2.Usage(input_tokens=1000, cached_input_tokens=500, output_tokens=100),
        "duration_ms": 100.0,
    }
    return pb.UsageEvent(**{**values, **changes})  # pyright: ignore[reportArgumentType]


COST = 500 * 1000 + 500 * 100 + 100 * 2000
"""What such an event costs, in nano-USD."""


@pytest.fixture
async def redis() -> AsyncGenerator[RedisServer]:
    async with temporary_redis() as server:
        yield server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def replica_with(
    redis: RedisServer, clock: ManualClock, tmp_path: Path
) -> AsyncGenerator[MakeReplica]:
    servers: list[ComponentServer] = []
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)

    async def make(**changes: object) -> Replica:
        values = {"redis_timeout_ms": PATIENT_MS, "prices_file": prices, **changes}
        component = await build(MetricsSettings(**values), redis_url=redis.url, clock=clock)  # pyright: ignore[reportArgumentType]
        hosted = Hosted("metrics", component, pb_grpc.add_MetricsServiceServicer_to_server)
        server = ComponentServer(hosted, MeshSettings())
        await server.start()
        servers.append(server)
        return Replica(component, pb_grpc.MetricsServiceStub(server.channel))

    yield make
    for server in servers:
        await server.finish()


@pytest.fixture
async def replica(replica_with: MakeReplica) -> Replica:
    return await replica_with()


@asynccontextmanager
async def rpc_error(code: grpc.StatusCode, reason: Reason) -> AsyncGenerator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (code, reason)


async def test_an_event_is_booked_with_its_exact_cost(replica: Replica) -> None:
    (entry,) = await replica.record(event("e1"))
    assert entry.cost == model_pb2.Cost(nano_usd=COST, price_source="override", price_version="1")
    assert not entry.duplicate
    totals = (await replica.summary()).totals
    assert totals == pb.Totals(event_count=1, usage=event("e1").usage, cost_nano_usd=COST)


async def test_an_event_is_booked_once_however_often_it_is_sent(
    replica_with: MakeReplica,
) -> None:
    one, other = await replica_with(), await replica_with()
    (first,) = await one.record(event("e1"))
    changed = event("e1", model="large", usage=model_pb2.Usage(input_tokens=7))
    batch = await other.record(event("e2"), changed, event("e2", duration_ms=9.0))
    assert [entry.duplicate for entry in batch] == [False, True, True]
    first.duplicate = True
    assert batch[1] == first, "the first entry, not what was sent now"
    assert batch[2].event.duration_ms == 100.0, "also within a batch"
    totals = (await one.summary()).totals
    assert (totals.event_count, totals.cost_nano_usd) == (2, 2 * COST)
    assert await one.ledger() == ["e2", "e1"]


async def test_concurrent_replays_at_two_replicas_book_once(replica_with: MakeReplica) -> None:
    replicas = [await replica_with() for _ in range(2)]
    events = [event(f"e{number}") for number in range(20)]
    batches = await asyncio.gather(
        *(replica.record(*events) for replica in replicas for _ in range(5))
    )
    for position in range(20):
        assert sum(not batch[position].duplicate for batch in batches) == 1
    assert (await replicas[0].summary()).totals.event_count == 20


async def test_sums_by_model_add_up_costliest_first(replica: Replica) -> None:
    await replica.record(
        event("e1"),
        event("e2", model="large"),
        event("e3", provider="nobody", model="knows"),
        event("e4", cached=True),
    )
    summary = await replica.summary()
    large = 1000 * 10_000 + 100 * 30_000
    assert [(m.model, m.totals.cost_nano_usd) for m in summary.models] == [
        ("large", large),
        ("small", COST),
        ("knows", 0),
    ]
    totals = summary.totals
    assert (totals.event_count, totals.cached_count, totals.unpriced_count) == (4, 1, 1)
    assert (totals.cost_nano_usd, totals.saved_nano_usd) == (large + COST, COST)
    assert totals.usage.input_tokens == 3000, "cached answers are not counted"
    for name in ("event_count", "cost_nano_usd", "saved_nano_usd", "unpriced_count"):
        parts = sum(getattr(model.totals, name) for model in summary.models)
        assert parts == getattr(totals, name)


async def test_a_cached_answer_without_a_provider_saves_what_its_model_costs(
    replica: Replica,
) -> None:
    (entry,) = await replica.record(event("e1", provider="", model="gpt-4o", cached=True))
    assert entry.cost.nano_usd == 0
    assert entry.saved.nano_usd > 0
    (entry,) = await replica.record(event("e2", provider="", model="gpt-4o"))
    assert not entry.cost.HasField("nano_usd"), "who is not named is not guessed at for a bill"


async def test_no_tenant_sees_or_books_into_anothers_ledger(replica: Replica) -> None:
    await replica.record(event("e1"), tenant="t1")
    (same_id,) = await replica.record(event("e1", model="large"), tenant="t2")
    assert not same_id.duplicate, "ids are the tenant's own"
    assert await replica.ledger(tenant="t1") == ["e1"]
    assert (await replica.summary(tenant="t3")).totals == pb.Totals(usage=model_pb2.Usage())
    mine = (await replica.page(size=1, tenant="t1")).next_page_token
    assert mine == ""
    await replica.record(event("e2"), tenant="t1")
    token = (await replica.page(size=1, tenant="t1")).next_page_token
    async with rpc_error(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_PAGE_TOKEN):
        await replica.page(token, tenant="t2")
    async with rpc_error(grpc.StatusCode.PERMISSION_DENIED, Reason.TENANT_MISMATCH):
        await replica.record(event("e9", scope=scope_pb2.Scope(tenant="t1")), tenant="t2")
    async with rpc_error(grpc.StatusCode.PERMISSION_DENIED, Reason.TENANT_MISMATCH):
        mixed = event("e9", scope=scope_pb2.Scope(tenant="t1"))
        await replica.record(event("e8"), mixed, tenant="t2")


@pytest.mark.parametrize("size", [1, 7, 500])
async def test_pages_hold_every_entry_once_while_others_book(replica: Replica, size: int) -> None:
    await replica.record(*(event(f"e{number}") for number in range(30)))
    found: list[str] = []
    token, later = "", 0
    while True:
        page = await replica.page(token, size=size)
        found += [entry.event_id for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
        await replica.record(event(f"later{later}"))
        later += 1
    assert found == [f"e{number}" for number in reversed(range(30))]


async def test_an_empty_ledger_has_one_empty_page(replica: Replica) -> None:
    assert await replica.ledger() == []


async def test_percentiles_are_those_of_all_replicas_together(
    replica_with: MakeReplica, clock: ManualClock
) -> None:
    replicas = [await replica_with() for _ in range(2)]
    for number in range(1, 101):
        timed = event(
            f"e{number}",
            duration_ms=float(number),
            time_to_first_token_ms=number / 10,
            stages=[pb.StageTiming(stage="recall", duration_ms=number * 2.0)],
        )
        await replicas[number % 2].record(timed)
    await clock.advance(1.0)  # both have flushed
    summary = await replicas[0].summary()
    found = {(each.kind, each.name): each for each in summary.latencies}
    for key, factor in {
        ("duration", "small"): 1.0,
        ("time_to_first_token", "small"): 0.1,
        ("stage", "recall"): 2.0,
    }.items():
        each = found[key]
        assert each.count == 100
        for share, value in ((50, each.p50_ms), (95, each.p95_ms), (99, each.p99_ms)):
            assert value == pytest.approx(share * factor, rel=RELATIVE_ERROR * 1.001)


async def test_what_was_observed_a_moment_ago_is_in_the_summary(replica: Replica) -> None:
    await replica.record(event("e1"))
    (latency,) = (await replica.summary()).latencies
    assert (latency.kind, latency.count) == ("duration", 1)


async def test_a_flush_whose_reply_was_lost_counts_once(
    replica_with: MakeReplica, redis: RedisServer, clock: ManualClock
) -> None:
    replica = await replica_with(redis_timeout_ms=HASTY_MS)
    await replica.record(event("e0"))
    await replica.summary()  # from now on Redis knows the script, and a single write suffices
    await replica.record(event("e1"))
    await clock.wait_for_sleepers()
    freeze(redis)
    await clock.advance(1.0)
    async with asyncio.timeout(5):
        await clock.wait_for_sleepers()  # the flush has failed and the next one is due later
    assert replica.component.statistics().accounts.failed_flushes == 1
    thaw(redis)
    calm = await replica_with()
    await calm.summary()  # Redis has read what was sent while it was frozen
    await clock.advance(1.0)
    async with asyncio.timeout(5):
        await clock.wait_for_sleepers(2)
    assert replica.component.statistics().accounts.latencies.waiting_counters == 0
    assert (await calm.summary()).latencies[0].count == 2


async def test_windows_leave_out_what_is_older(replica: Replica, clock: ManualClock) -> None:
    await replica.record(event("e1"))
    await clock.advance(3 * 3600)
    await replica.record(event("e2"))
    assert (await replica.summary(window_s=60)).latencies[0].count == 1
    assert (await replica.summary(window_s=7200)).latencies[0].count == 1
    assert (await replica.summary(window_s=86_400)).latencies[0].count == 2
    assert (await replica.summary()).totals.event_count == 2, "sums know no window"


async def test_replays_failures_and_cached_answers_do_not_bend_percentiles(
    replica: Replica,
) -> None:
    await replica.record(event("e1"), event("e1"))
    await replica.record(event("e1"))
    await replica.record(event("e2", outcome=pb.OUTCOME_FAILED), event("e3", cached=True))
    (latency,) = (await replica.summary()).latencies
    assert latency.count == 1


async def test_percentiles_survive_a_restart(replica_with: MakeReplica, clock: ManualClock) -> None:
    replica = await replica_with()
    await replica.record(event("e1"))
    await replica.component.close()
    assert (await (await replica_with()).summary()).latencies[0].count == 1


async def test_without_redis_nothing_is_acknowledged_and_nothing_is_lost(
    replica: Replica, redis: RedisServer, clock: ManualClock
) -> None:
    await replica.record(event("e1"))
    await redis.close()
    for attempt in (replica.record(event("e2")), replica.summary(), replica.page()):
        async with rpc_error(grpc.StatusCode.UNAVAILABLE, Reason.LEDGER_UNAVAILABLE):
            await attempt
    await redis.start()
    await clock.advance(10.0)
    await replica.record(event("e2"))
    assert await replica.ledger() == ["e2", "e1"]
    assert (await replica.summary()).latencies[0].count == 2


async def test_a_frozen_redis_costs_a_bounded_wait_then_nothing(
    replica_with: MakeReplica, redis: RedisServer, clock: ManualClock
) -> None:
    replica = await replica_with(redis_timeout_ms=HASTY_MS)
    await replica.record(event("e0"))
    freeze(redis)
    async with asyncio.timeout(10.0):  # generous: three time limits of 200 ms are due
        for number in range(50):
            async with rpc_error(grpc.StatusCode.UNAVAILABLE, Reason.LEDGER_UNAVAILABLE):
                await replica.record(event(f"e{number % 3}"))
    link = replica.component.statistics().redis
    assert (link.breaker.state, link.troubles["timeout"]) == (BreakerState.OPEN, 3)
    thaw(redis)
    while replica.component.statistics().redis.breaker.state is not BreakerState.CLOSED:
        await clock.advance(10.0)
        try:
            await replica.summary()
        except grpc.aio.AioRpcError:
            continue
    # What was sent while Redis was frozen may have been booked; sending it again settles it.
    for number in range(3):
        await replica.record(event(f"e{number}"))
    totals = (await replica.summary()).totals
    assert (totals.event_count, totals.cost_nano_usd) == (3, 3 * COST)
    assert sorted(await replica.ledger()) == ["e0", "e1", "e2"]


async def test_a_full_redis_books_nothing_rather_than_a_part(
    replica: Replica, redis: RedisServer
) -> None:
    await replica.record(event("e1"))
    link = RedisLink(RedisLinkSettings(url=redis.url, name="test", timeout_s=5.0))
    await link.execute("CONFIG", "SET", "maxmemory", "1")
    async with rpc_error(grpc.StatusCode.UNAVAILABLE, Reason.LEDGER_UNAVAILABLE):
        await replica.record(event("e2"), event("e3"))
    assert await replica.ledger() == ["e1"], "what is there can still be read"
    await link.execute("CONFIG", "SET", "maxmemory", "0")
    await link.close()
    booked = await replica.record(event("e2"), event("e3"))
    assert not any(entry.duplicate for entry in booked)
    totals = (await replica.summary()).totals
    assert (totals.event_count, totals.cost_nano_usd) == (3, 3 * COST)


async def test_a_redis_that_is_killed_keeps_what_it_has_synced(
    replica: Replica, redis: RedisServer, clock: ManualClock
) -> None:
    await replica.record(*(event(f"e{number}") for number in range(100)))
    await redis.kill()
    async with asyncio.timeout(20):
        await redis.wait_ready()
    await clock.advance(10.0)
    # What the last second had not synced would be missing: entries, ids and sums alike.
    ids = await replica.ledger(size=500)
    totals = (await replica.summary()).totals
    assert totals.event_count == len(ids)
    assert totals.cost_nano_usd == len(ids) * COST
    replayed = await replica.record(*(event(f"e{number}") for number in range(100)))
    assert sum(entry.duplicate for entry in replayed) == len(ids)
    assert (await replica.summary()).totals.event_count == 100


async def test_a_killed_process_loses_no_entry_that_was_acknowledged(
    replica: Replica, redis: RedisServer
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BOOK_FOREVER, redis.url),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"},
    )
    assert process.stdout is not None
    acknowledged: list[str] = []
    while len(acknowledged) < 50:
        acknowledged.append((await process.stdout.readline()).decode().strip())
    process.kill()
    rest = await process.stdout.read()
    acknowledged += rest.decode().split("\n")[:-1]
    await process.wait()
    ids = await replica.ledger(size=500)
    assert set(acknowledged) <= set(ids)
    assert len(ids) == len(set(ids)) == (await replica.summary()).totals.event_count


BOOK_FOREVER = """
import asyncio, sys
from mesh.clock import SYSTEM_CLOCK
from plexus.metrics.v1 import metrics_service_pb2 as pb
from services.metrics.build import build
from services.metrics.settings import MetricsSettings

async def main():
    component = await build(MetricsSettings(redis_timeout_ms=5000), redis_url=sys.argv[1])
    await component.start()
    number = 0
    while True:
        number += 1
        event = pb.UsageEvent(event_id=f"p{number}", provider="offline", model="extract")
        await component.accounts.record("t1", [event])
        print(event.event_id, flush=True)

asyncio.run(main())
"""


async def test_prometheus_hears_of_each_event_once(replica: Replica) -> None:
    def value(name: str, **labels: str) -> float:
        return metrics.REGISTRY.get_sample_value(name, labels) or 0.0

    model = {"gen_ai_provider_name": "acme", "gen_ai_response_model": "small"}
    chat = {**model, "gen_ai_operation_name": "chat"}
    samples = [
        ("plexus_cost_usd_total", model, COST / 1e9),
        ("plexus_saved_usd_total", model, COST / 1e9),
        ("gen_ai_client_operation_duration_seconds_sum", chat, 0.1),
        ("gen_ai_client_token_usage_sum", {**chat, "gen_ai_token_type": "input"}, 1000),
        ("gen_ai_client_operation_time_to_first_chunk_seconds_count", chat, 1),
    ]
    before = [value(name, **labels) for name, labels, _ in samples]
    await replica.record(event("e1", time_to_first_token_ms=5.0), event("e2", cached=True))
    await replica.record(event("e1", time_to_first_token_ms=5.0), event("e2", cached=True))
    for (name, labels, added), old in zip(samples, before, strict=True):
        assert value(name, **labels) - old == pytest.approx(added), name


@pytest.mark.parametrize("window_s", [59, 86_401, -1])
async def test_a_window_out_of_range_is_refused(replica: Replica, window_s: int) -> None:
    async with rpc_error(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD):
        await replica.summary(window_s=window_s)


async def test_what_breaks_the_contract_is_refused(replica: Replica) -> None:
    async with rpc_error(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD):
        await replica.record()
    async with rpc_error(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD):
        await replica.record(event("e1"), event(""))
    assert (await replica.summary()).totals.event_count == 0, "a batch is booked whole or not"
    async with rpc_error(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_PAGE_TOKEN):
        await replica.page("made-up")
    async with rpc_error(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD):
        await replica.page(size=-1)
