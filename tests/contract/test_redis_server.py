"""The child Redis: private, durable, restarted when it dies, gone when its parent is."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from mesh import redis_binary, redis_server
from mesh.errors import DataLoss, FailedPrecondition, PlexusError
from mesh.redis_link import RedisLink, RedisLinkSettings, Reply
from mesh.redis_server import MAX_SOCKET_PATH_BYTES, RedisServer, socket_path
from mesh.testing.redis import temporary_redis

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="plexus-redis-") as path:
        yield Path(path) / "redis"


@pytest.fixture
async def redis() -> AsyncGenerator[RedisServer]:
    async with temporary_redis() as server:
        yield server


async def ask(server: RedisServer, *command: str) -> Reply:
    link = RedisLink(RedisLinkSettings(url=server.url, name="test", timeout_s=10.0))
    try:
        return await link.execute(*command)
    finally:
        await link.close()


async def test_only_this_user_on_this_machine_reaches_it(redis: RedisServer) -> None:
    assert redis.socket.parent.stat().st_mode & 0o777 == 0o700
    assert await ask(redis, "CONFIG", "GET", "port") == [b"port", b"0"]
    assert await ask(redis, "CONFIG", "GET", "appendonly") == [b"appendonly", b"yes"]
    assert await ask(redis, "CONFIG", "GET", "appendfsync") == [b"appendfsync", b"everysec"]


async def test_what_was_written_is_there_after_a_restart(folder: Path) -> None:
    server = RedisServer(folder)
    await server.start()
    await ask(server, "SET", "key", "value")
    await server.close()
    await server.close()
    assert not server.readiness()
    await server.start()
    assert await ask(server, "GET", "key") == b"value"
    await server.close()


async def test_a_killed_server_comes_back_with_its_data(redis: RedisServer) -> None:
    await ask(redis, "SET", "key", "value")
    first = redis.pid
    await redis.kill()
    assert not redis.readiness()
    async with asyncio.timeout(20):
        await redis.wait_ready()
    assert redis.pid != first
    assert await ask(redis, "GET", "key") == b"value"
    assert redis.statistics().restarts == 1


async def test_a_server_that_keeps_dying_keeps_coming_back(redis: RedisServer) -> None:
    for deaths in range(1, 4):
        await redis.kill()
        async with asyncio.timeout(20):
            await redis.wait_ready()
        assert redis.statistics().restarts == deaths


async def test_close_ends_a_frozen_server_in_bounded_time(folder: Path) -> None:
    server = RedisServer(folder, stop_timeout_s=0.2)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await server.close()
    assert not exists(pid)


async def test_a_second_owner_of_a_folder_is_refused(redis: RedisServer) -> None:
    second = RedisServer(redis.socket.parent)
    with pytest.raises(FailedPrecondition, match="another Plexus is using it"):
        await second.start()
    assert await ask(redis, "PING") == b"PONG"


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
async def test_it_dies_with_its_parent_and_the_next_start_finds_the_data(folder: Path) -> None:
    parent, pid = await start_in_another_process(folder)
    parent.kill()
    await parent.wait()
    await ended(pid)
    server = RedisServer(folder)
    await server.start()
    assert await ask(server, "GET", "key") == b"value"
    await server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs SO_PEERCRED")
@pytest.mark.parametrize("frozen", [False, True])
async def test_a_server_that_outlived_its_parent_is_taken_over(folder: Path, frozen: bool) -> None:
    # A frozen child cannot act on the signal that its parent's death sends; one whose signal
    # is masked stands for systems that send none.
    parent, pid = await start_in_another_process(folder, tied=frozen)
    if frozen:
        os.kill(pid, signal.SIGSTOP)
    parent.kill()
    await parent.wait()
    assert exists(pid)
    server = RedisServer(folder, stop_timeout_s=1.0)
    await server.start()
    assert server.statistics().takeovers == 1
    assert not exists(pid)
    assert await ask(server, "GET", "key") == b"value"
    await server.close()


async def test_a_stale_socket_file_is_no_obstacle(folder: Path) -> None:
    put_file(folder / "redis.sock")
    server = RedisServer(folder)
    await server.start()
    await server.close()


async def test_a_long_folder_gets_a_short_socket(folder: Path) -> None:
    deep = folder / ("x" * 60) / ("y" * 60)
    server = RedisServer(deep)
    assert len(str(server.socket)) <= MAX_SOCKET_PATH_BYTES
    assert server.socket == socket_path(deep)
    await server.start()
    assert await ask(server, "PING") == b"PONG"
    assert server.socket.parent.stat().st_mode & 0o777 == 0o700
    await server.close()


async def test_a_folder_may_have_any_name(folder: Path) -> None:
    server = RedisServer(folder / "my data?50% of it#1")
    await server.start()
    assert await ask(server, "PING") == b"PONG"
    await server.close()


async def test_no_binary_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_candidates() -> list[Path]:
        return []

    monkeypatch.setattr(redis_binary, "_candidates", no_candidates)
    await fails_with(RedisServer(folder), FailedPrecondition, "apt-get install redis-server")


async def test_an_old_binary_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = folder.parent / "bin" / "redis-server"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.7 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(old.parent), prepend=os.pathsep)
    found = redis_binary.find_redis_server()
    assert found.path != old
    assert found.version >= (6, 2)


async def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    put_file(folder)
    await fails_with(RedisServer(folder), FailedPrecondition, f"{folder}.*PLEXUS_DATA_DIR")


async def test_data_of_a_newer_redis_is_not_ignored(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older() -> redis_binary.RedisBinary:
        return redis_binary.RedisBinary(Path("/usr/bin/false"), (6, 2))

    monkeypatch.setattr(redis_server, "find_redis_server", older)
    put_file(folder / "appendonlydir" / "appendonly.aof.manifest")
    await fails_with(RedisServer(folder), FailedPrecondition, "Redis 7.0 or later")


async def test_a_corrupt_append_only_file_says_what_to_do(folder: Path) -> None:
    server = RedisServer(folder)
    await server.start()
    await ask(server, "SET", "key", "value" * 100)
    await server.close()
    spoil_append_only_file(folder)
    await fails_with(RedisServer(folder), DataLoss, "redis-check-aof --fix")


def spoil_append_only_file(folder: Path) -> None:
    """Write nonsense where Redis 6 or Redis 7 keeps its commands."""
    files = [folder / "appendonly.aof", *folder.glob("appendonlydir/*.incr.aof")]
    (written,) = (file for file in files if file.exists())
    written.write_bytes(b"*3\r\n$3\r\nSET\r\n$nonsense\r\n" * 10)


async def fails_with(server: RedisServer, error: type[PlexusError], words: str) -> None:
    """`start` fails with one sentence, and leaves nothing behind."""
    with pytest.raises(error, match=words) as caught:
        await server.start()
    assert "\n" not in str(caught.value)
    assert server.pid is None
    await server.close()


START = """
import asyncio, signal, sys
from pathlib import Path
from mesh import redis_server
from mesh.redis_link import RedisLink, RedisLinkSettings

async def main():
    if sys.argv[2] == "untied":
        redis_server._TIE_TO_PARENT = "import os, sys; os.execv(sys.argv[2], sys.argv[2:])"
    server = redis_server.RedisServer(Path(sys.argv[1]))
    await server.start()
    link = RedisLink(RedisLinkSettings(url=server.url, name="test", timeout_s=10.0))
    await link.execute("SET", "key", "value")
    await link.close()
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def start_in_another_process(
    folder: Path, *, tied: bool = True
) -> tuple[asyncio.subprocess.Process, int]:
    """A process that owns a server holding `key`, and that server's process id."""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", START, str(folder), "tied" if tied else "untied"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"},
    )
    assert parent.stdout is not None
    return parent, int(await parent.stdout.readline())


async def ended(pid: int) -> None:
    """Return when a process that is not our child has ended."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop.add_reader(fd, gone.set)
    try:
        async with asyncio.timeout(20):
            await gone.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def put_file(path: Path) -> None:
    """Leave an ordinary file where something else is expected."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def exists(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be reaped by its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
