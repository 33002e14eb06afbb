"""The cache as its callers see it: through its stubs, over a real Redis."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from mesh.breaker import BreakerState
from mesh.call import Identity, outgoing_call
from mesh.component import Hosted
from mesh.errors import Reason, from_rpc_error
from mesh.redis_link import RedisLink, RedisLinkSettings
from mesh.redis_server import RedisServer
from mesh.server import ComponentServer
from mesh.settings import MeshSettings, Secret
from mesh.testing.clock import ManualClock
from mesh.testing.redis import freeze, temporary_redis, thaw
from plexus.cache.v1 import cache_service_pb2 as pb
from plexus.cache.v1 import cache_service_pb2_grpc as pb_grpc
from plexus.common.v1 import message_pb2, model_pb2, scope_pb2
from services.cache.build import CacheComponent, build
from services.cache.settings import CacheSettings

PATIENT_MS = 10_000
HASTY_MS = 200
STALENESS_S = 1.0


class Replica:
    """One process's cache, called as a tenant."""

    def __init__(self, component: CacheComponent, stub: pb_grpc.CacheServiceStub) -> None:
        self.component = component
        self.stub = stub

    async def look_up(
        self,
        text: str = "question",
        *,
        tenant: str = "acme",
        max_wait_ms: int = 0,
        control: pb.CacheControl | None = None,
    ) -> pb.LookupResponse:
        asked = pb.LookupRequest(
            request=request(text), max_wait_ms=max_wait_ms, control=control or pb.CacheControl()
        )
        with outgoing_call(Identity(tenant, "test")):
            return await self.stub.Lookup(asked)

    async def store(
        self,
        lease: str,
        text: str = "answer",
        *,
        tenant: str = "acme",
        finish: model_pb2.FinishReason = model_pb2.FINISH_REASON_STOP,
        control: pb.CacheControl | None = None,
    ) -> str:
        """Return why not."""
        given = pb.StoreRequest(
            lease=lease, response=answer(text, finish), control=control or pb.CacheControl()
        )
        with outgoing_call(Identity(tenant, "test")):
            response = await self.stub.Store(given)
        assert response.stored is not bool(response.why_not)
        return response.why_not

    async def release(self, lease: str, *, tenant: str = "acme") -> None:
        with outgoing_call(Identity(tenant, "test")):
            await self.stub.Release(pb.ReleaseRequest(lease=lease))

    async def invalidate(self, given: pb.InvalidateRequest, *, tenant: str = "acme") -> int:
        with outgoing_call(Identity(tenant, "test")):
            return (await self.stub.Invalidate(given)).removed_count

    async def fill(self, text: str = "question", *, tenant: str = "acme") -> pb.LookupResponse:
        """Miss, then store."""
        missed = await self.look_up(text, tenant=tenant)
        assert missed.verdict == pb.VERDICT_MISS
        assert await self.store(missed.lease, tenant=tenant) == ""
        return missed


MakeReplica = Callable[..., Awaitable[Replica]]


def request(text: str) -> model_pb2.ModelRequest:
    said = message_pb2.Message(role=message_pb2.ROLE_USER, parts=[message_pb2.Part(text=text)])
    return model_pb2.ModelRequest(model="default", messages=[said])


def answer(
    text: str, finish: model_pb2.FinishReason = model_pb2.FINISH_REASON_STOP
) -> model_pb2.ModelResponse:
    said = message_pb2.Message(role=message_pb2.ROLE_ASSISTANT, parts=[message_pb2.Part(text=text)])
    return model_pb2.ModelResponse(id="r1", message=said, finish_reason=finish)


def text_of(found: pb.LookupResponse) -> str:
    return found.response.message.parts[0].text


@pytest.fixture
async def redis() -> AsyncGenerator[RedisServer]:
    async with temporary_redis() as server:
        yield server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def replica_with(redis: RedisServer, clock: ManualClock) -> AsyncGenerator[MakeReplica]:
    servers: list[ComponentServer] = []

    async def make(**changes: object) -> Replica:
        values = {"redis_timeout_ms": PATIENT_MS, **changes}
        component = await build(CacheSettings(**values), redis_url=redis.url, clock=clock)  # pyright: ignore[reportArgumentType]
        hosted = Hosted("cache", component, pb_grpc.add_CacheServiceServicer_to_server)
        server = ComponentServer(hosted, MeshSettings())
        await server.start()
        servers.append(server)
        return Replica(component, pb_grpc.CacheServiceStub(server.channel))

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


async def test_a_stored_answer_is_found_in_the_process_and_by_other_replicas(
    replica_with: MakeReplica,
) -> None:
    one, other = await replica_with(), await replica_with()
    missed = await one.fill()
    near, far = await one.look_up(), await other.look_up()
    assert [(hit.verdict, hit.level, text_of(hit)) for hit in (near, far)] == [
        (pb.VERDICT_EXACT_HIT, "l1", "answer"),
        (pb.VERDICT_EXACT_HIT, "l2", "answer"),
    ]
    assert near.response == answer("answer"), "whole, as it was given"
    assert near.entry_id == far.entry_id == missed.entry_id
    assert near.HasField("store_time")
    assert not near.lease
    assert (await other.look_up()).level == "l1", "promoted"


async def test_entries_survive_a_killed_redis(
    replica_with: MakeReplica, redis: RedisServer
) -> None:
    await (await replica_with()).fill()
    await redis.close()
    await redis.start()
    assert (await (await replica_with()).look_up()).verdict == pb.VERDICT_EXACT_HIT


async def test_no_tenant_sees_anothers_answer(replica: Replica, clock: ManualClock) -> None:
    missed = await replica.fill(tenant="acme")
    theirs = await replica.look_up(tenant="evil")
    assert theirs.verdict == pb.VERDICT_MISS
    assert theirs.entry_id != missed.entry_id
    removal = asyncio.create_task(
        replica.invalidate(pb.InvalidateRequest(entry_id=missed.entry_id), tenant="evil")
    )
    await clock.wait_for_sleepers()
    await clock.advance(STALENESS_S)
    assert await removal == 0, "an id is no capability"
    assert (await replica.look_up(tenant="acme")).verdict == pb.VERDICT_EXACT_HIT


async def test_no_tenant_stores_for_another(replica: Replica) -> None:
    lease = (await replica.look_up(tenant="acme")).lease
    await replica.store(lease, "poison", tenant="evil")
    assert (await replica.look_up(tenant="acme")).verdict == pb.VERDICT_MISS
    await replica.release(lease, tenant="evil")
    assert await replica.store(lease, tenant="acme") == ""


async def test_a_scope_of_another_tenant_is_refused(replica: Replica) -> None:
    asked = pb.LookupRequest(request=request("q"), scope=scope_pb2.Scope(tenant="acme"))
    async with rpc_error(grpc.StatusCode.PERMISSION_DENIED, Reason.TENANT_MISMATCH):
        with outgoing_call(Identity("evil", "test")):
            await replica.stub.Lookup(asked)


async def test_many_equal_lookups_have_one_leader(replica: Replica, clock: ManualClock) -> None:
    leader = await replica.look_up()
    waiting = [asyncio.create_task(replica.look_up(max_wait_ms=10_000)) for _ in range(20)]
    await clock.wait_for_sleepers(20)
    assert await replica.store(leader.lease) == ""
    found = await asyncio.gather(*waiting)
    assert {(hit.verdict, text_of(hit)) for hit in found} == {(pb.VERDICT_JOINED_HIT, "answer")}
    assert replica.component.statistics().cache.flights.led == 1


async def test_a_leader_that_gives_up_hands_over_to_one(
    replica: Replica, clock: ManualClock
) -> None:
    leader = await replica.look_up()
    waiting = [asyncio.create_task(replica.look_up(max_wait_ms=10_000)) for _ in range(5)]
    await clock.wait_for_sleepers(5)
    await replica.release(leader.lease)
    await replica.release(leader.lease)
    async with asyncio.timeout(5):
        done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().verdict for task in done] == [pb.VERDICT_MISS]
    assert await replica.store(done.pop().result().lease, "second try") == ""
    assert {text_of(hit) for hit in await asyncio.gather(*rest)} == {"second try"}


async def test_a_leader_that_vanishes_is_replaced_and_its_lease_is_lost(
    replica_with: MakeReplica, clock: ManualClock
) -> None:
    replica = await replica_with(lease_ms=60_000)
    leader = await replica.look_up()
    waiting = asyncio.create_task(replica.look_up(max_wait_ms=120_000))
    await clock.wait_for_sleepers()
    await clock.advance(60.0)
    async with asyncio.timeout(5):
        successor = await waiting
    assert successor.verdict == pb.VERDICT_MISS
    assert await replica.store(leader.lease, "late") == "lease_lost"
    assert await replica.store(successor.lease, "in time") == ""
    assert text_of(await replica.look_up()) == "in time"


async def test_a_cancelled_leader_and_a_cancelled_waiter_strand_nobody(
    replica: Replica, clock: ManualClock
) -> None:
    leader = await replica.look_up()
    waiting = [asyncio.create_task(replica.look_up(max_wait_ms=10_000)) for _ in range(3)]
    await clock.wait_for_sleepers(3)
    waiting[1].cancel()
    assert await replica.store(leader.lease) == ""
    assert text_of(await waiting[0]) == text_of(await waiting[2]) == "answer"


async def test_a_lease_is_good_at_every_replica(replica_with: MakeReplica) -> None:
    one, other = await replica_with(), await replica_with()
    lease = (await one.look_up()).lease
    assert await other.store(lease) == ""
    assert (await one.look_up()).verdict == pb.VERDICT_EXACT_HIT


async def test_an_entry_ends_at_its_time_in_both_levels(
    replica_with: MakeReplica, clock: ManualClock, redis: RedisServer
) -> None:
    one, other = await replica_with(), await replica_with()
    missed = await one.look_up()
    await one.store(missed.lease, control=pb.CacheControl(ttl_ms=30_000))
    assert (await other.look_up()).level == "l2"
    ttl_ms = await in_redis(redis, "PTTL", "e")
    assert 27_000 - 5_000 <= ttl_ms <= 30_000, "varied downwards, never longer than asked for"
    await clock.advance(26.0)
    assert (await one.look_up()).level == "l1"
    await clock.advance(4.0)
    assert (await one.look_up()).level == "l2", "Redis has its own clock, which did not move"


async def test_lifetimes_are_clamped_and_vary(
    replica_with: MakeReplica, redis: RedisServer
) -> None:
    replica = await replica_with(default_ttl_ms=1_000_000, max_ttl_ms=2_000_000)
    lifetimes: set[int] = set()
    for number in range(10):
        missed = await replica.look_up(f"q{number}")
        await replica.store(missed.lease, control=pb.CacheControl(ttl_ms=9_000_000_000))
    for number in range(10, 20):
        await replica.store((await replica.look_up(f"q{number}")).lease)
    for key in await keys_in(redis):
        if ":e:" in key:
            lifetimes.add(await number_in(redis, "PTTL", key))
    assert max(lifetimes) <= 2_000_000
    assert len({lifetime // 10_000 for lifetime in lifetimes}) > 5, "they do not end together"


async def test_a_caller_may_ask_for_younger_answers(replica: Replica, clock: ManualClock) -> None:
    await replica.fill()
    await clock.advance(10.0)
    young = pb.CacheControl(max_age_ms=9_999)
    assert (await replica.look_up(control=young)).verdict == pb.VERDICT_MISS
    old = pb.CacheControl(max_age_ms=10_000)
    assert (await replica.look_up(control=old)).verdict == pb.VERDICT_EXACT_HIT


async def test_a_caller_may_bypass_the_cache_and_still_refresh_it(replica: Replica) -> None:
    await replica.fill()
    bypass = await replica.look_up(control=pb.CacheControl(no_cache=True))
    assert bypass.verdict == pb.VERDICT_BYPASS
    assert await replica.store(bypass.lease, "newer") == ""
    assert text_of(await replica.look_up()) == "newer"
    neither = await replica.look_up(control=pb.CacheControl(no_cache=True, no_store=True))
    assert (neither.verdict, neither.lease) == (pb.VERDICT_BYPASS, "")


@pytest.mark.parametrize(
    ("finish", "why_not"),
    [
        (model_pb2.FINISH_REASON_STOP, ""),
        (model_pb2.FINISH_REASON_TOOL_CALLS, ""),
        (model_pb2.FINISH_REASON_LENGTH, ""),
        (model_pb2.FINISH_REASON_CONTENT_FILTER, "incomplete"),
        (model_pb2.FINISH_REASON_UNSPECIFIED, "incomplete"),
    ],
)
async def test_only_complete_answers_are_stored(
    replica: Replica, finish: model_pb2.FinishReason, why_not: str
) -> None:
    lease = (await replica.look_up()).lease
    assert await replica.store(lease, finish=finish) == why_not
    hit = (await replica.look_up()).verdict == pb.VERDICT_EXACT_HIT
    assert hit is (why_not == "")


async def test_what_is_not_to_be_stored_is_not(replica_with: MakeReplica) -> None:
    replica = await replica_with(max_entry_bytes=1000)
    lease = (await replica.look_up()).lease
    assert await replica.store(lease, control=pb.CacheControl(no_store=True)) == "no_store"
    lease = (await replica.look_up()).lease
    assert await replica.store(lease, "x" * 1000) == "too_large"
    assert await replica.store("00", "x") == "lease_lost"
    assert (await replica.look_up()).verdict == pb.VERDICT_MISS


async def test_large_answers_are_packed_and_come_back(replica_with: MakeReplica) -> None:
    one, other = await replica_with(), await replica_with()
    text = "over and over " * 20_000
    assert await one.store((await one.look_up()).lease, text) == ""
    assert text_of(await other.look_up()) == text


async def test_no_replica_serves_anything_after_invalidate_all(
    replica_with: MakeReplica, clock: ManualClock
) -> None:
    one, other = await replica_with(), await replica_with()
    await one.fill("a")
    await one.fill("b", tenant="other")
    assert (await other.look_up("a")).verdict == pb.VERDICT_EXACT_HIT
    running = asyncio.create_task(one.invalidate(pb.InvalidateRequest(all=True)))
    await clock.wait_for_sleepers()
    await clock.advance(STALENESS_S)
    assert await running == 0
    for replica in (one, other):
        assert (await replica.look_up("a")).verdict == pb.VERDICT_MISS
        found = await replica.look_up("b", tenant="other")
        assert found.verdict == pb.VERDICT_EXACT_HIT


async def test_no_replica_serves_an_entry_after_its_removal(
    replica_with: MakeReplica, clock: ManualClock
) -> None:
    one, other = await replica_with(), await replica_with()
    removed, kept = await one.fill("a"), await one.fill("b")
    for text in ("a", "b"):
        assert (await other.look_up(text)).verdict == pb.VERDICT_EXACT_HIT
    target = pb.InvalidateRequest(entry_id=removed.entry_id)
    running = asyncio.create_task(one.invalidate(target))
    await clock.wait_for_sleepers()
    await clock.advance(STALENESS_S)
    assert await running == 1
    for replica in (one, other):
        assert (await replica.look_up("a")).verdict == pb.VERDICT_MISS
        assert (await replica.look_up("b")).entry_id == kept.entry_id
        assert (await replica.look_up("b")).verdict == pb.VERDICT_EXACT_HIT


async def test_an_answer_begun_before_an_invalidation_is_not_stored_after_it(
    replica_with: MakeReplica, clock: ManualClock
) -> None:
    one, other = await replica_with(), await replica_with()
    begun = await one.look_up()
    running = asyncio.create_task(other.invalidate(pb.InvalidateRequest(all=True)))
    await clock.wait_for_sleepers()
    await clock.advance(STALENESS_S)
    await running
    assert await one.store(begun.lease, "stale") == "lease_lost"
    for replica in (one, other):
        assert (await replica.look_up()).verdict == pb.VERDICT_MISS


async def test_a_redis_that_forgot_everything_is_a_miss(
    replica: Replica, redis: RedisServer, clock: ManualClock
) -> None:
    await replica.fill()
    await in_redis_all(redis, "FLUSHALL")
    await clock.advance(STALENESS_S)
    again = await replica.look_up()
    assert again.verdict == pb.VERDICT_MISS
    assert await replica.store(again.lease) == ""


async def test_damage_in_redis_is_a_miss(replica_with: MakeReplica, redis: RedisServer) -> None:
    await (await replica_with()).fill()
    for key in await keys_in(redis):
        if ":e:" in key:
            await in_redis_all(redis, "SET", key, "rubbish", "PX", "60000")
    reader = await replica_with()
    assert (await reader.look_up()).verdict == pb.VERDICT_MISS
    assert reader.component.statistics().cache.unreadable == 1


async def test_without_redis_the_process_still_serves(
    replica: Replica, redis: RedisServer, clock: ManualClock
) -> None:
    await replica.fill("known")
    await redis.close()
    await clock.advance(STALENESS_S)
    assert (await replica.look_up("known")).level == "l1"

    leader = await replica.look_up("new")
    assert leader.verdict == pb.VERDICT_UNAVAILABLE
    waiting = asyncio.create_task(replica.look_up("new", max_wait_ms=10_000))
    await clock.wait_for_sleepers()
    assert await replica.store(leader.lease) == "unavailable"
    assert (await waiting).verdict == pb.VERDICT_JOINED_HIT
    assert (await replica.look_up("new")).level == "l1"

    async with rpc_error(grpc.StatusCode.UNAVAILABLE, Reason.CACHE_UNAVAILABLE):
        await replica.invalidate(pb.InvalidateRequest(all=True))


async def test_a_process_that_never_saw_redis_serves_its_own_answers(
    replica_with: MakeReplica, redis: RedisServer
) -> None:
    await redis.close()
    replica = await replica_with()
    missed = await replica.look_up()
    assert missed.verdict == pb.VERDICT_UNAVAILABLE
    assert await replica.store(missed.lease) == "unavailable"
    assert (await replica.look_up()).level == "l1"


async def test_a_lookup_that_reaches_redis_halfway_may_store_all_the_same(
    replica_with: MakeReplica, redis: RedisServer, clock: ManualClock
) -> None:
    replica = await replica_with()
    await redis.close()
    leader = await replica.look_up()
    waiting = asyncio.create_task(replica.look_up(max_wait_ms=10_000))
    await clock.wait_for_sleepers()
    await redis.start()
    await clock.advance(2.0)
    await replica.release(leader.lease)  # the waiter leads, and finds Redis and new tokens
    successor = await waiting
    assert successor.verdict == pb.VERDICT_MISS
    assert await replica.store(successor.lease) == ""
    assert (await (await replica_with()).look_up()).level == "l2"


async def test_a_frozen_redis_costs_little_then_nothing_and_is_found_again(
    replica_with: MakeReplica, redis: RedisServer, clock: ManualClock
) -> None:
    replica = await replica_with(redis_timeout_ms=HASTY_MS)
    freeze(redis)
    async with asyncio.timeout(10.0):  # generous: three time limits of 200 ms are due
        for number in range(200):
            found = await replica.look_up(f"q{number}")
            assert found.verdict == pb.VERDICT_UNAVAILABLE
            await replica.store(found.lease)
    link = replica.component.statistics().redis
    assert link.breaker.state is BreakerState.OPEN
    assert link.troubles["timeout"] == 3
    thaw(redis)
    await clock.advance(10.0)
    for number in range(1000, 2000):
        if (await replica.look_up(f"q{number}")).verdict == pb.VERDICT_MISS:
            break
        await clock.advance(10.0)
    assert replica.component.statistics().redis.breaker.state is BreakerState.CLOSED


async def test_what_breaks_the_contract_is_refused(replica: Replica) -> None:
    async with rpc_error(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD):
        with outgoing_call(Identity("acme", "test")):
            await replica.stub.Lookup(pb.LookupRequest())
    async with rpc_error(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD):
        await replica.look_up(max_wait_ms=-1)
    async with rpc_error(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD):
        await replica.store("")
    for target in (pb.InvalidateRequest(), pb.InvalidateRequest(entry_id="nonsense")):
        async with rpc_error(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD):
            await replica.invalidate(target)


async def test_a_request_from_the_future_is_not_looked_up(replica: Replica) -> None:
    newer = model_pb2.ModelRequest.FromString(request("q").SerializeToString() + b"\xaa\x06\x01x")
    with outgoing_call(Identity("acme", "test")):
        found = await replica.stub.Lookup(pb.LookupRequest(request=newer))
    assert (found.verdict, found.lease) == (pb.VERDICT_BYPASS, "")


async def test_a_secret_separates_what_else_would_be_equal(replica_with: MakeReplica) -> None:
    await (await replica_with(key_secret=Secret("a" * 16))).fill()
    assert (await (await replica_with()).look_up()).verdict == pb.VERDICT_MISS


async def in_redis_all(redis: RedisServer, *command: str) -> object:
    link = RedisLink(RedisLinkSettings(url=redis.url, name="test", timeout_s=5.0))
    try:
        return await link.execute(*command)
    finally:
        await link.close()


async def keys_in(redis: RedisServer) -> list[str]:
    found = await in_redis_all(redis, "KEYS", "*")
    assert isinstance(found, list)
    return [str(key, "ascii") for key in found if isinstance(key, bytes)]  # pyright: ignore[reportUnknownVariableType]


async def number_in(redis: RedisServer, *command: str) -> int:
    found = await in_redis_all(redis, *command)
    assert isinstance(found, int)
    return found


async def in_redis(redis: RedisServer, command: str, kind: str) -> int:
    """Ask about the only key of a kind."""
    key = next(key for key in await keys_in(redis) if f":{kind}:" in key)
    return await number_in(redis, command, key)
