"""The link against a real Redis: batched, bounded, and boring when Redis is not there."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from mesh.breaker import BreakerState
from mesh.redis_link import RedisLink, RedisLinkSettings, RedisUnavailable, Script
from mesh.redis_server import RedisServer
from mesh.testing.clock import ManualClock
from mesh.testing.redis import freeze, temporary_redis, thaw

OPEN_S = 5.0
PATIENT_S = 10.0
HASTY_S = 0.2

LinkFactory = Callable[..., RedisLink]


@pytest.fixture
async def redis() -> AsyncGenerator[RedisServer]:
    async with temporary_redis() as server:
        yield server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def link_with(redis: RedisServer, clock: ManualClock) -> AsyncGenerator[LinkFactory]:
    links: list[RedisLink] = []

    def make(**changes: object) -> RedisLink:
        values = {"url": redis.url, "name": "test", "timeout_s": PATIENT_S, "open_s": OPEN_S}
        links.append(RedisLink(RedisLinkSettings(**{**values, **changes}), clock=clock))  # pyright: ignore[reportArgumentType]
        return links[-1]

    yield make
    for link in links:
        await link.close()


async def trouble_of(link: RedisLink) -> str:
    with pytest.raises(RedisUnavailable) as caught:
        await link.execute("GET", "key")
    return caught.value.trouble


async def test_replies_come_as_redis_sends_them(link_with: LinkFactory) -> None:
    link = link_with()
    assert await link.execute("SET", "key", b"\x00\xff") == b"OK"
    assert await link.execute("GET", "key") == b"\x00\xff"
    assert await link.execute("GET", "other") is None
    assert await link.execute("INCRBY", "count", 7) == 7
    assert await link.execute("MGET", "key", "count") == [b"\x00\xff", b"7"]


async def test_commands_of_one_tick_share_a_round_trip(link_with: LinkFactory) -> None:
    link = link_with()
    replies = await asyncio.gather(*(link.execute("INCR", "count") for _ in range(100)))
    assert replies == list(range(1, 101))
    assert link.statistics().round_trips == 1
    assert await link.execute_many([("INCR", "count"), ("INCR", "count")]) == [101, 102]
    assert link.statistics().round_trips == 2


async def test_a_cancelled_caller_breaks_nobody_else(link_with: LinkFactory) -> None:
    link = link_with()
    await link.execute("SET", "a", "1")
    callers = [asyncio.create_task(link.execute("INCR", "count")) for _ in range(3)]
    await asyncio.sleep(0)
    callers[1].cancel()
    assert await callers[0] == 1
    assert await callers[2] == 3, "the cancelled command ran, its reply was dropped"
    assert await link.execute("GET", "a") == b"1"
    assert link.statistics().pending == 0


async def test_a_script_is_loaded_when_redis_does_not_know_it(
    link_with: LinkFactory, redis: RedisServer
) -> None:
    link = link_with()
    script = Script("redis.call('INCRBY', KEYS[1], ARGV[1]); return {KEYS[1], ARGV[1]}")
    assert await link.run(script, keys=["{t}n"], arguments=[2]) == [b"{t}n", b"2"]
    before = link.statistics().round_trips
    await link.run(script, keys=["{t}n"], arguments=[2])
    assert link.statistics().round_trips == before + 1, "run by its hash"
    await link.execute("SCRIPT", "FLUSH")
    await link.run(script, keys=["{t}n"], arguments=[2])
    assert await link.execute("GET", "{t}n") == b"6"


async def test_a_refused_command_is_typed_and_says_nothing_against_redis(
    link_with: LinkFactory,
) -> None:
    link = link_with(failure_threshold=1)
    await link.execute("SET", "text", "x")
    with pytest.raises(RedisUnavailable) as caught:
        await link.execute_many([("INCR", "text"), ("SET", "after", "1")])
    assert caught.value.trouble == "refused"
    assert await link.execute("GET", "after") == b"1"
    assert link.statistics().breaker.state is BreakerState.CLOSED


async def test_a_frozen_redis_costs_one_time_limit_then_nothing(
    link_with: LinkFactory, redis: RedisServer, clock: ManualClock
) -> None:
    link = link_with(timeout_s=HASTY_S, failure_threshold=2)
    await link.execute("SET", "key", "1")
    freeze(redis)
    async with asyncio.timeout(10.0):  # generous: two time limits of 200 ms are due
        assert [await trouble_of(link) for _ in range(2)] == ["timeout", "timeout"]
    commands = link.statistics().commands
    assert [await trouble_of(link) for _ in range(100)] == ["open"] * 100
    assert link.statistics().commands == commands, "an open breaker sends nothing"

    await clock.advance(OPEN_S)
    assert await trouble_of(link) == "timeout", "the probe found it frozen still"
    assert await trouble_of(link) == "open"

    thaw(redis)
    assert await recovered(link, clock) == b"1"
    assert link.statistics().breaker.state is BreakerState.CLOSED


async def recovered(link: RedisLink, clock: ManualClock) -> object:
    """What a GET gives once Redis works again; a busy machine may need more than one hasty try."""
    while True:
        await clock.advance(OPEN_S)
        try:
            return await link.execute("GET", "key")
        except RedisUnavailable:
            continue


async def test_callers_behind_a_busy_connection_wait_no_longer_than_the_first(
    link_with: LinkFactory, redis: RedisServer
) -> None:
    link = link_with(timeout_s=HASTY_S, failure_threshold=1000, connections=1)
    await link.execute("SET", "key", "1")
    freeze(redis)
    async with asyncio.timeout(10.0):
        tasks: list[asyncio.Task[str]] = []
        for _ in range(20):
            tasks.append(asyncio.create_task(trouble_of(link)))
            await asyncio.sleep(0)
        assert set(await asyncio.gather(*tasks)) == {"timeout"}
    thaw(redis)
    assert link.statistics().pending == 0


async def test_a_dead_redis_is_noticed_at_once_and_found_again(
    link_with: LinkFactory, redis: RedisServer, clock: ManualClock
) -> None:
    link = link_with(failure_threshold=1)
    await link.execute("SET", "key", "1")
    await redis.close()
    assert await trouble_of(link) == "connection"
    assert await trouble_of(link) == "open"
    await redis.start()
    await clock.advance(OPEN_S)
    assert await link.execute("GET", "key") == b"1"


async def test_an_idle_connection_that_redis_closed_is_replaced_unseen(
    link_with: LinkFactory, redis: RedisServer
) -> None:
    link = link_with(failure_threshold=1)
    await link.execute("SET", "key", "1")
    await redis.kill()
    await redis.wait_ready()
    assert await link.execute("GET", "key") in (b"1", None)
    assert link.statistics().troubles == {}


async def test_a_full_queue_refuses(link_with: LinkFactory) -> None:
    link = link_with(max_pending=10)
    tasks = [asyncio.create_task(link.execute("INCR", "count")) for _ in range(12)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[:10] == list(range(1, 11))
    assert [getattr(result, "trouble", None) for result in results[10:]] == ["overloaded"] * 2
    assert await link.execute("INCR", "count") == 11


async def test_closing_fails_what_waits(link_with: LinkFactory, redis: RedisServer) -> None:
    link = link_with()
    await link.execute("PING")
    freeze(redis)
    waiting = asyncio.create_task(trouble_of(link))
    await asyncio.sleep(0)
    await link.close()
    thaw(redis)
    assert await waiting == "closed"
    assert await trouble_of(link) == "closed"


async def test_neither_errors_nor_settings_show_the_password() -> None:
    settings = RedisLinkSettings(url="redis://user:hunter2@127.0.0.1:1/0", name="test")
    link = RedisLink(settings)
    with pytest.raises(RedisUnavailable) as caught:
        await link.execute("PING")
    assert "hunter2" not in repr(settings) + str(caught.value) + repr(caught.value)
    await link.close()
