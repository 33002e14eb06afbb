"""A Redis of our own: `redis-server` as a child process on a unix socket, its data in one folder.

The child lives and dies with this process. Nothing of it is reachable from the network, what it
acknowledged a second ago is on disk (append-only file, synced every second), and when it dies it
is started again. When this process is killed instead, the kernel ends the child; should one
survive (a frozen child, or a system without that service), the next start takes over from it.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import signal
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import DataLoss, FailedPrecondition, PlexusError, Reason, Unavailable
from mesh.logs import Log
from mesh.redis_binary import find_redis_server
from mesh.redis_probe import is_serving, peer_pid

log = Log("redis_server")

MAX_SOCKET_PATH_BYTES: Final = 107 if sys.platform == "linux" else 103
"""What fits into `sockaddr_un.sun_path` with its closing zero."""

POLL_S: Final = 0.005
"""Between two PINGs to a server that is starting."""

FIRST_RESTART_DELAY_S: Final = 0.05
MAX_RESTART_DELAY_S: Final = 5.0
"""The bounds of the wait before a dead server is started again; it doubles in between."""

STABLE_S: Final = 30.0
"""A server that lived this long died for a new reason: the waits start from the first again."""

MAX_LOG_BYTES: Final = 1 << 20
"""A log larger than this is set aside when the server starts; one old log is kept."""

CORRUPT_MARKS: Final = (
    b"Bad file format reading the append only file",
    b"Unexpected end of file reading the append only file",
    b"Wrong signature trying to load DB",
    b"Fatal error loading",
    b"Unrecoverable error reading the append only file",
    b"Internal error in RDB reading",
)
"""What `redis-server` writes into its log before it refuses to load its data."""

# Run between fork and exec in place of `preexec_fn`, which is unsafe in a process with threads.
# prctl 1 is PR_SET_PDEATHSIG, and 15 is SIGTERM, at which Redis syncs its file and leaves. The
# parent may have died before prctl took effect; then nobody would send the signal.
_TIE_TO_PARENT: Final = """\
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
    if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, kw_only=True)
class RedisServerStatistics:
    """A snapshot of the child."""

    running: bool
    pid: int | None
    restarts: int
    takeovers: int


class RedisServer:
    """Owns one `redis-server` child. `start`, then `url`; `close` is safe to call twice.

    One owner per folder: a lock file refuses a second one, in this process or another.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock = SYSTEM_CLOCK,
        max_memory_bytes: int = 1 << 30,
        start_timeout_s: float = 30.0,
        stop_timeout_s: float = 10.0,
    ) -> None:
        """Keep data, socket, lock and log in `folder`, which is made with mode 0700.

        Past `max_memory_bytes` Redis drops the least recently used keys that have an expiry, and
        refuses writes when none is left. `start_timeout_s` covers loading the data, too.
        """
        self._folder = folder.resolve()
        self._clock = clock
        self._max_memory_bytes = max_memory_bytes
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._log_file = self._folder / "redis.log"
        self._socket = socket_path(self._folder)
        self._binary: Path | None = None
        self._lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watchdog: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._restarts = 0
        self._takeovers = 0

    @property
    def url(self) -> str:
        """Where clients find the server, as redis clients write it."""
        return f"unix://{urllib.parse.quote(str(self._socket))}"

    @property
    def socket(self) -> Path:
        """The unix socket."""
        return self._socket

    @property
    def pid(self) -> int | None:
        """The child's process id while one runs; it changes with every restart."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process is not None and running else None

    def readiness(self) -> bool:
        """Whether a child runs that has answered PING since it started."""
        return self._ready.is_set()

    async def wait_ready(self) -> None:
        """Return when `readiness()` holds; unbounded, so put it under a timeout."""
        await self._ready.wait()

    def statistics(self) -> RedisServerStatistics:
        """A snapshot."""
        return RedisServerStatistics(
            running=self.readiness(),
            pid=self.pid,
            restarts=self._restarts,
            takeovers=self._takeovers,
        )

    async def start(self) -> None:
        """Return once the server answers PING.

        Raises FailedPrecondition (no binary, folder not usable or in use), DataLoss (the
        append-only file is corrupt) or Unavailable (not ready in time); nothing is left running.
        """
        try:
            self._binary = await asyncio.to_thread(self._prepare)
            await self._take_over()
            await self._launch()
        except BaseException:
            await self._end_child()
            self._unlock()
            raise
        self._watchdog = asyncio.create_task(self._watch(), name="redis-watchdog")

    async def close(self) -> None:
        """Stop the server in an orderly way: everything acknowledged is on disk afterwards."""
        self._ready.clear()
        if self._watchdog is not None:
            self._watchdog.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watchdog
            self._watchdog = None
        await self._end_child()
        self._unlock()

    async def kill(self) -> None:
        """Kill the child as `kill -9` would and return when it is gone; the watchdog stays."""
        process = self._process
        if process is not None and process.returncode is None:
            self._ready.clear()
            process.kill()
            await process.wait()

    def _prepare(self) -> Path:
        """Everything before the child that may block: folder, lock, log, binary."""
        _make_private(self._folder)
        _make_private(self._socket.parent)
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise _unusable(self._folder, "it is not writable")
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _unusable(self._folder, "another Plexus is using it") from error
        if self._log_file.exists() and self._log_file.stat().st_size > MAX_LOG_BYTES:
            self._log_file.replace(self._log_file.with_suffix(".log.1"))
        binary = find_redis_server()
        if binary.version < (7, 0) and (self._folder / "appendonlydir").exists():
            raise _unusable(
                self._folder, "a newer Redis wrote it, and only Redis 7.0 or later reads it"
            )
        return binary.path

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _launch(self) -> None:
        """Start a child and wait until it answers; on failure the child is gone."""
        assert self._binary is not None
        fd = os.open(self._log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            log_start = os.fstat(fd).st_size
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _TIE_TO_PARENT, str(os.getpid())),
                str(self._binary),
                *self._arguments(),
                cwd=self._folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=fd,
                stderr=fd,
                start_new_session=True,  # Ctrl-C is for us: we drain first, then end the child
            )
        finally:
            os.close(fd)
        try:
            await self._await_pong(self._process, log_start)
        except BaseException:
            await self._end_child()
            raise
        self._ready.set()

    def _arguments(self) -> list[str]:
        return [
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "600"),
            *("--dir", str(self._folder), "--save", "", "--databases", "1"),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--aof-load-truncated", "yes"),
            *("--maxmemory", str(self._max_memory_bytes), "--maxmemory-policy", "volatile-lru"),
            *("--daemonize", "no", "--loglevel", "notice"),
        ]

    async def _await_pong(self, process: asyncio.subprocess.Process, log_start: int) -> None:
        gone = asyncio.ensure_future(process.wait())
        deadline_s = self._clock.monotonic_s() + self._start_timeout_s
        try:
            while not await is_serving(self._socket, timeout_s=self._start_timeout_s):
                if gone.done():
                    raise await asyncio.to_thread(_why_gone, self._log_file, log_start)
                if self._clock.monotonic_s() > deadline_s:
                    raise Unavailable(
                        f"redis-server was not ready within {self._start_timeout_s:g} s; "
                        f"see {self._log_file}."
                    )
                await self._clock.sleep(POLL_S)
        finally:
            gone.cancel()

    async def _take_over(self) -> None:
        """End the server that a killed owner of this folder left behind.

        We hold the lock, so its owner is gone; it is asked to sync and leave, then made to.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            self._socket.unlink(missing_ok=True)
            return
        self._takeovers += 1
        pid = peer_pid(writer)
        log.warning("redis_takeover", folder=self._folder, pid=pid)
        try:
            writer.write(b"SHUTDOWN\r\n")
            async with asyncio.timeout(self._stop_timeout_s):
                await reader.read()  # ends when the old server has exited
        except (TimeoutError, OSError):
            if pid is None:
                raise _unusable(
                    self._folder, "an old redis-server is using it and does not leave; end it"
                ) from None
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                await reader.read()
        finally:
            writer.close()
        self._socket.unlink(missing_ok=True)

    async def _watch(self) -> None:
        """Start the child again whenever it dies; one log line for each death and recovery."""
        delay_s = FIRST_RESTART_DELAY_S
        while True:
            assert self._process is not None
            since_s = self._clock.monotonic_s()
            code = await self._process.wait()
            self._ready.clear()
            if self._clock.monotonic_s() - since_s >= STABLE_S:
                delay_s = FIRST_RESTART_DELAY_S
            log.warning("redis_died", code=code, restart_in_s=delay_s)
            delay_s = await self._relaunch(delay_s)
            log.warning("redis_restarted", pid=self._process.pid)

    async def _relaunch(self, delay_s: float) -> float:
        """Try until a child is ready; return how long to wait should that one die soon."""
        complaint = ""
        while True:
            await self._clock.sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_RESTART_DELAY_S)
            try:
                await self._launch()
            except (PlexusError, OSError) as error:
                if str(error) != complaint:
                    complaint = str(error)
                    log.warning("redis_restart_failed", why=complaint)
            else:
                self._restarts += 1
                return delay_s

    async def _end_child(self) -> None:
        """Ask the child to sync and leave; after `stop_timeout_s` make it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._stop_timeout_s):
                await process.wait()
        except TimeoutError:
            log.warning("redis_killed", pid=process.pid, why="did not stop")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        finally:
            self._socket.unlink(missing_ok=True)


def socket_path(folder: Path) -> Path:
    """The socket of a data folder: inside it, or in the runtime folder when the path is too long.

    The same folder always gives the same socket, so that a leftover server is found.
    """
    inside = folder / "redis.sock"
    if len(os.fsencode(inside)) <= MAX_SOCKET_PATH_BYTES:
        return inside
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")
    name = hashlib.blake2b(os.fsencode(folder), digest_size=10).hexdigest()
    return runtime / f"plexus-{os.getuid()}" / f"{name}.sock"


def _make_private(folder: Path) -> None:
    """Make `folder` with mode 0700 and refuse one that somebody else controls."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise _unusable(folder, "it belongs to another user or is a link")
        folder.chmod(0o700)
    except OSError as error:
        raise _unusable(folder, error.strerror or "it cannot be made") from error


def _unusable(folder: Path, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"Redis cannot keep its data in {folder}: {why}; set PLEXUS_DATA_DIR to another folder.",
        reason=Reason.INVALID_SETTINGS,
    )


def _why_gone(log_file: Path, log_start: int) -> PlexusError:
    """Why a child that never got ready left, from what it wrote to its log."""
    with log_file.open("rb") as file:
        file.seek(log_start)
        said = file.read(MAX_LOG_BYTES)
    if any(mark in said for mark in CORRUPT_MARKS):
        return DataLoss(
            f"Redis' append-only file in {log_file.parent} is corrupt: keep a copy and repair it "
            f"with `redis-check-aof --fix`, or move it away to start empty; see {log_file}.",
            reason=Reason.DATA_CORRUPT,
        )
    return Unavailable(f"redis-server ended before it was ready; see the end of {log_file}.")
