"""Child processes: started, waited for until ready, measured, and stopped by their own id."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson

from mesh.clock import SYSTEM_CLOCK

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.005
LOG_TAIL_CHARS = 2_000
HIDDEN = ("PLEXUS_", "OPENAI_", "ANTHROPIC_", "OLLAMA_")
"""Settings of the caller's environment that must not reach what is measured."""


class NotStarted(Exception):
    """A process ended, or was silent, before it was ready; says what it printed last."""


@dataclass(slots=True)
class Process:
    """A running child."""

    name: str
    child: asyncio.subprocess.Process
    ready: dict[str, Any] = field(default_factory=dict[str, Any])
    """What it said when it was ready."""
    cold_start_s: float = 0.0
    """From the start to being ready."""

    @property
    def pid(self) -> int:
        return self.child.pid

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL to its whole session when that does not end it in time."""
        if self.child.returncode is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self.child.wait()
        except TimeoutError:
            os.killpg(self.pid, signal.SIGKILL)
            await self.child.wait()


class Processes:
    """Starts children and stops them all, the last one first. Use it as a context manager."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Processes":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def on_stop(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Have something else of this run stopped in its turn."""
        self._stack.push_async_callback(stop)

    async def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        port: int = 0,
        cwd: Path | None = None,
    ) -> Process:
        """Start a child and return once it is ready.

        Ready is one JSON line on its standard output, or, with `port`, an HTTP server there.
        Raises NotStarted with the end of its log.
        """
        log = self._logs / f"{name}.log"
        begun_s = time.perf_counter()
        with log.open("ab") as stderr:
            child = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=stderr if port else asyncio.subprocess.PIPE,
                stderr=stderr,
                env={**clean_environ(), **(environ or {})},
                cwd=cwd,
                start_new_session=True,
                limit=1 << 24,
            )
        process = Process(name, child)
        self._stack.push_async_callback(process.stop)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                process.ready = await (_answers(process, port) if port else _says(process))
        except (TimeoutError, orjson.JSONDecodeError, EOFError) as error:
            tail = log.read_text(errors="replace")[-LOG_TAIL_CHARS:]
            raise NotStarted(f"{name} did not start: {tail}") from error
        process.cold_start_s = time.perf_counter() - begun_s
        return process


async def _says(process: Process) -> dict[str, Any]:
    assert process.child.stdout is not None
    line = await process.child.stdout.readline()
    if not line:
        raise EOFError
    return cast("dict[str, Any]", orjson.loads(line))


async def _answers(process: Process, port: int) -> dict[str, Any]:
    while process.child.returncode is None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            said = await reader.readline()
            writer.close()
            if said.startswith(b"HTTP/"):
                return {"http_url": f"http://127.0.0.1:{port}"}
        except OSError:
            pass
        await SYSTEM_CLOCK.sleep(POLL_S)
    raise EOFError


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where there is one, as `plexus up` does."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def clean_environ() -> dict[str, str]:
    """Return this environment without what would point a system elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}


def free_port() -> int:
    """Return a loopback port that nobody holds now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Sample:
    """What the operating system says of one process."""

    pid: int
    parent: int
    resident_bytes: int
    cpu_s: float
    command: str


def tree(*roots: int) -> list[Sample]:
    """Return these processes and everything they started, parents first."""
    by_parent: dict[int, list[Sample]] = {}
    found: list[Sample] = []
    for sample in _samples():
        by_parent.setdefault(sample.parent, []).append(sample)
        if sample.pid in roots:
            found.append(sample)
    for sample in found:
        found.extend(by_parent.get(sample.pid, ()))
    return found


def resident_bytes(*roots: int) -> int:
    """Return the resident memory of these processes and their children."""
    return sum(sample.resident_bytes for sample in tree(*roots))


def cpu_s(*roots: int) -> float:
    """Return the processor time these processes and their children have used."""
    return sum(sample.cpu_s for sample in tree(*roots))


def _samples() -> list[Sample]:
    if not Path("/proc/self/stat").exists():
        return _samples_of_ps()
    tick = os.sysconf("SC_CLK_TCK")
    page = os.sysconf("SC_PAGE_SIZE")
    found: list[Sample] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        folder = Path("/proc") / name
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue  # it has ended meanwhile
        used_s = (int(stat[11]) + int(stat[12])) / tick
        found.append(Sample(int(name), int(stat[1]), int(stat[21]) * page, used_s, command))
    return found


def _samples_of_ps() -> list[Sample]:
    columns = ["ps", "-A", "-o", "pid=,ppid=,rss=,time=,command="]
    listed = subprocess.run(columns, capture_output=True, text=True, check=True)
    found: list[Sample] = []
    for line in listed.stdout.splitlines():
        pid, parent, kib, clock, command = [*line.split(None, 4), ""][:5]
        seconds = 0.0
        for part in clock.replace("-", ":").split(":"):
            seconds = seconds * 60 + float(part)
        found.append(Sample(int(pid), int(parent), int(kib) * 1024, seconds, command))
    return found
