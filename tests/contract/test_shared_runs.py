"""Runs over replicas of a gateway and a real Redis: read, resume, cancel and repeat anywhere."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.runs import Run, RunRegistry
from gateway.settings import GatewaySettings
from gateway.shared_log import SharedLog
from gateway.shared_runs import Readable, SharedRuns
from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import InvalidArgument, Reason
from mesh.redis_link import RedisLink, RedisLinkSettings, RedisUnavailable
from mesh.redis_server import RedisServer
from mesh.settings import Secret
from mesh.testing.clock import ManualClock
from mesh.testing.redis import freeze, temporary_redis, thaw
from plexus.common.v1 import error_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb

TENANT = "acme"
RESUMABLE = pb.Turn(resume_window_ms=60_000)
KEYED = pb.Turn(idempotency_key="key", resume_window_ms=60_000)
LEASE_MS = 500
PATIENT_MS = 10_000
HASTY_MS = 200

pytestmark = pytest.mark.timeout(30)


@dataclass
class Script:
    """A turn that does as the test says."""

    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    executions: int = 0
    end: pb.ChatResponse = field(default_factory=lambda: pb.ChatResponse(completed=pb.Completed()))

    async def execute(self, run: Run) -> None:
        self.executions += 1
        run.append(pb.ChatResponse(started=pb.Started(resume_token=run.resume_token)))
        run.append(pb.ChatResponse(text="hel"))
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            run.append(pb.ChatResponse(failed=error_pb2.Failure(reason=Reason.CANCELLED)))
            return
        run.append(pb.ChatResponse(text="lo"))
        run.append(self.end)


Replicas = Callable[..., Coroutine[Any, Any, SharedRuns]]


@pytest.fixture
async def redis() -> AsyncGenerator[RedisServer]:
    async with temporary_redis() as server:
        yield server


@pytest.fixture
async def replica(redis: RedisServer) -> AsyncGenerator[Replicas]:
    """Makes replicas of the gateway's runs over one Redis."""
    made: list[SharedRuns] = []

    async def make(*, clock: Clock = SYSTEM_CLOCK, **changes: Any) -> SharedRuns:
        values: dict[str, Any] = {
            "redis_url": Secret(redis.url),
            "redis_timeout_ms": PATIENT_MS,
            "run_lease_ms": LEASE_MS,
            "follow_poll_ms": 5,
            **changes,
        }
        settings = GatewaySettings(**values)
        runs = SharedRuns(RunRegistry(settings, clock), settings, clock, redis_url="")
        await runs.start()
        made.append(runs)
        return runs

    yield make
    for each in made:
        await each.close()


@pytest.fixture
async def log(redis: RedisServer) -> AsyncGenerator[SharedLog]:
    """What an owner writes; a test that stops writing is an owner that died."""
    link = RedisLink(RedisLinkSettings(url=redis.url, name="test", timeout_s=10))
    yield SharedLog(link, lease_s=LEASE_MS / 1000, retention_s=60)
    await link.close()


async def read(run: Readable, after: int = 0) -> list[tuple[int, str]]:
    """Return the sequence numbers with text, or the kind of what is no text."""
    return [(e.sequence, e.text or str(e.WhichOneof("event"))) async for e in run.follow(after)]


async def found(runs: SharedRuns, token: str) -> Readable:
    """Return the run of a token once its first events have reached Redis."""
    while True:
        try:
            return await runs.find(TENANT, token)
        except InvalidArgument:
            await asyncio.sleep(0)


async def started(runs: SharedRuns, script: Script, turn: pb.Turn = RESUMABLE) -> Run:
    run = await runs.begin(TENANT, turn, script.execute)
    assert isinstance(run, Run)
    return run


WHOLE = [(1, "started"), (2, "hel"), (3, "lo"), (4, "completed")]


async def test_another_replica_reads_what_was_and_what_comes(replica: Replicas) -> None:
    here, there, script = await replica(), await replica(), Script()
    run = await started(here, script)
    elsewhere = await found(there, run.resume_token)
    assert not isinstance(elsewhere, Run)
    following = elsewhere.follow(1)
    assert (await anext(following)).text == "hel"
    script.go_on.set()
    assert [event.sequence async for event in following] == [3, 4]
    assert await read(run) == await read(elsewhere) == WHOLE


async def test_an_ended_run_is_read_again_from_any_position_it_has(replica: Replicas) -> None:
    here, there, script = await replica(), await replica(), Script()
    script.go_on.set()
    run = await started(here, script)
    elsewhere = await found(there, run.resume_token)
    assert await read(elsewhere, 3) == [(4, "completed")]
    assert await read(elsewhere, 4) == []
    with pytest.raises(InvalidArgument):
        await read(elsewhere, 5)


async def test_a_cancellation_reaches_the_owner(replica: Replicas) -> None:
    here, there = await replica(), await replica()
    run = await started(here, Script())
    elsewhere = await found(there, run.resume_token)
    assert await there.cancel(TENANT, run.resume_token)
    assert (await read(elsewhere))[-1] == (3, "failed")
    assert run.ended
    assert not await there.cancel(TENANT, run.resume_token)


async def test_tokens_are_their_tenants_alone_everywhere(replica: Replicas) -> None:
    here, there = await replica(), await replica()
    run = await started(here, Script())
    await found(there, run.resume_token)
    for tenant, token in (
        ("rival", run.resume_token),
        (TENANT, run.booking_id),
        (TENANT, run.booking_id + ".guess"),
    ):
        for action in (there.find, there.cancel):
            with pytest.raises(InvalidArgument) as raised:
                await action(tenant, token)
            assert raised.value.reason == Reason.INVALID_RESUME_TOKEN


async def test_one_key_is_one_run_on_all_replicas(replica: Replicas) -> None:
    replicas, script = [await replica() for _ in range(3)], Script()
    runs = await asyncio.gather(
        *(each.begin(TENANT, KEYED, script.execute) for each in replicas for _ in range(3))
    )
    script.go_on.set()
    assert [await read(run) for run in runs] == [WHOLE] * 9
    assert script.executions == 1
    again = await replicas[1].begin(TENANT, KEYED, script.execute)
    assert await read(again) == WHOLE
    assert script.executions == 1


async def test_a_key_with_another_turn_is_refused_everywhere(replica: Replicas) -> None:
    here, there, script = await replica(), await replica(), Script()
    await started(here, script, KEYED)
    other = pb.Turn(idempotency_key="key", quiet=True)
    with pytest.raises(InvalidArgument) as raised:
        await there.begin(TENANT, other, script.execute)
    assert raised.value.reason == Reason.IDEMPOTENCY_KEY_REUSED
    assert isinstance(await there.begin("rival", other, script.execute), Run)


async def test_a_failed_run_frees_its_key_everywhere(replica: Replicas) -> None:
    here, there = await replica(), await replica()
    failing = Script(end=pb.ChatResponse(failed=error_pb2.Failure(reason=Reason.INTERNAL)))
    failing.go_on.set()
    assert (await read(await started(here, failing, KEYED)))[-1] == (4, "failed")
    repeated = Script()
    repeated.go_on.set()
    while True:  # until the end has reached Redis
        run = await there.begin(TENANT, KEYED, repeated.execute)
        if isinstance(run, Run):
            break
        assert (await read(run))[-1] == (4, "failed")
    assert await read(run) == WHOLE


async def test_a_repeat_does_not_wait_for_a_run_that_settles(replica: Replicas) -> None:
    here = await replica()
    lost = await started(here, Script(), KEYED)
    lost.cancel()
    repeated = Script()
    repeated.go_on.set()
    assert await read(await here.begin(TENANT, KEYED, repeated.execute)) == WHOLE


async def test_a_caller_that_leaves_while_it_claims_its_key_leaves_a_run(
    replica: Replicas, redis: RedisServer
) -> None:
    here, there, script = await replica(), await replica(), Script()
    script.go_on.set()
    # Connected, and its scripts are known to Redis.
    await read(await here.begin(TENANT, pb.Turn(idempotency_key="first"), script.execute))
    freeze(redis)
    leaving = asyncio.create_task(here.begin(TENANT, KEYED, script.execute))
    for _ in range(20):
        await asyncio.sleep(0)  # its claim is on its way
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    thaw(redis)
    assert await read(await there.begin(TENANT, KEYED, script.execute)) == WHOLE
    assert await read(await here.begin(TENANT, KEYED, script.execute)) == WHOLE
    assert script.executions == 2


@pytest.mark.parametrize("after", [0, 2, 7])
async def test_a_dead_owner_is_one_failure(replica: Replicas, log: SharedLog, after: int) -> None:
    there = await replica()
    events = [pb.ChatResponse(sequence=at, text="x").SerializeToString() for at in (1, 2)]
    await log.append("dead", tenant=TENANT, token="dead.token", first=1, events=events)
    run = await there.find(TENANT, "dead.token")
    got = [event async for event in run.follow(after)]
    assert [event.WhichOneof("event") for event in got] == ["text"] * max(0, 2 - after) + ["failed"]
    # A reader may have seen more than reached Redis; its count goes on without a gap.
    assert [event.sequence for event in got] == list(range(after + 1, after + 1 + len(got)))
    assert got[-1].failed.reason == Reason.STREAM_INTERRUPTED
    assert not await there.cancel(TENANT, "dead.token")


async def test_an_owner_that_died_before_its_first_event_is_one_failure(
    replica: Replicas, log: SharedLog
) -> None:
    there, script = await replica(), Script()
    owner = await replica()
    held = await started(owner, script, KEYED)
    await log.settle_key(TENANT, "key", execution=held.booking_id, keep=False)
    await log.claim(TENANT, "key", fingerprint=held.fingerprint, execution="dead")
    run = await there.begin(TENANT, KEYED, script.execute)
    assert await read(run) == [(1, "failed")]
    # The key is free again once the lease of the dead has ended.
    assert isinstance(await there.begin(TENANT, KEYED, script.execute), Run)


async def test_a_plain_turn_costs_redis_nothing(replica: Replicas) -> None:
    here, script = await replica(), Script()
    script.go_on.set()
    assert await read(await started(here, script, pb.Turn())) == WHOLE
    await here.close()
    assert here.link is not None
    assert here.link.statistics().commands == 0


async def test_without_redis_a_run_goes_on_and_says_so_once(
    replica: Replicas, redis: RedisServer
) -> None:
    here, there = await replica(redis_timeout_ms=HASTY_MS), await replica()
    script = Script()
    freeze(redis)
    run = await started(here, script, KEYED)
    events = run.follow()
    kinds = [(await anext(events)).WhichOneof("event") for _ in range(3)]
    script.go_on.set()
    kinds += [event.WhichOneof("event") async for event in events]
    assert kinds == ["started", "text", "warning", "text", "completed"]
    thaw(redis)
    # What was missed is sent once Redis is back.
    assert (await read(await found(there, run.resume_token)))[-1] == (5, "completed")


async def test_what_redis_forgot_is_sent_again(replica: Replicas, redis: RedisServer) -> None:
    here, there, script = await replica(), await replica(), Script()
    run = await started(here, script)
    await found(there, run.resume_token)
    link = RedisLink(RedisLinkSettings(url=redis.url, name="test", timeout_s=10))
    await link.execute("FLUSHALL")
    script.go_on.set()
    assert await read(await found(there, run.resume_token)) == WHOLE
    await link.close()


async def test_a_frozen_redis_ends_a_follower_with_one_failure(
    replica: Replicas, redis: RedisServer
) -> None:
    here, there = await replica(), await replica(redis_timeout_ms=HASTY_MS)
    run = await started(here, Script())
    elsewhere = await found(there, run.resume_token)
    following = elsewhere.follow(1)
    await anext(following)
    freeze(redis)
    try:
        rest = [event async for event in following]
        with pytest.raises(RedisUnavailable):
            await there.find(TENANT, run.resume_token)
    finally:
        thaw(redis)
    assert [event.failed.reason for event in rest] == [Reason.STREAM_INTERRUPTED]
    assert not run.ended


async def test_a_reader_elsewhere_keeps_a_run_alive(replica: Replicas) -> None:
    clock = ManualClock()
    here, there, script = await replica(clock=clock), await replica(), Script()
    run = await started(here, script)
    here.attach(run)
    elsewhere = await found(there, run.resume_token)
    following = elsewhere.follow()
    await anext(following)
    here.detach(run)
    for _ in range(50):
        await clock.advance(0.1)
        await there.find(TENANT, run.resume_token)
        if run.reader_count:
            break
    assert run.timer is None
    script.go_on.set()
    assert [event.sequence async for event in following] == [2, 3, 4]
