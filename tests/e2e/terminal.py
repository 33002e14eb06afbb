"""The `plexus` command as people run it: in a shell, and on a terminal of its own."""

import asyncio
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.e2e.processes import COMPONENTS, Mesh, clean_environ

RUN_TIMEOUT_S = 50.0
EXPECT_TIMEOUT_S = 20.0

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x01|\x02")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished command left behind."""

    code: int
    stdout: str
    stderr: str


def environ_of(mesh: Mesh) -> dict[str, str]:
    """Return the variables with which the command finds `mesh`."""
    ports = {
        f"PLEXUS_{name.upper()}_PORT": mesh.addresses[name].rpartition(":")[2]
        for name in COMPONENTS
    }
    http_port = mesh.http_url.rpartition(":")[2]
    data_dir = str(mesh.data_dir)
    return {**ports, "PLEXUS_GATEWAY_HTTP_PORT": http_port, "PLEXUS_DATA_DIR": data_dir}


async def plexus(
    *arguments: str, environ: Mapping[str, str] | None = None, stdin: str | None = None
) -> Outcome:
    """Run `plexus …` without a terminal, to its end."""
    async with running(*arguments, environ=environ, stdin=stdin is not None) as child:
        async with asyncio.timeout(RUN_TIMEOUT_S):
            stdout, stderr = await child.communicate(None if stdin is None else stdin.encode())
    assert child.returncode is not None
    return Outcome(child.returncode, stdout.decode(), stderr.decode())


@asynccontextmanager
async def running(
    *arguments: str, environ: Mapping[str, str] | None = None, stdin: bool = False
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Start `plexus …` without a terminal; what still runs after the block is killed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", *arguments),
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**clean_environ(), **(environ or {})},
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.communicate()


class Terminal:
    """`plexus …` on a pseudo-terminal: type into it, and wait for what it shows."""

    def __init__(self, *arguments: str, environ: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environ = {**clean_environ(), "TERM": "xterm", "COLUMNS": "200", **environ}
        self._raw = b""
        self._shown = ""
        self._seen = 0
        self._grown = asyncio.Event()
        self._master = -1
        self._child: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._master, slave = pty.openpty()
        self._child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", *self._arguments),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self._environ,
            start_new_session=True,
        )
        os.close(slave)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._child is not None
        if self._child.returncode is None:
            self._child.kill()
            await self._child.wait()
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._master, f"{text}\n".encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        assert self._child is not None
        self._child.send_signal(signal.SIGINT)

    async def expect(self, text: str) -> str:
        """Return what is shown after the last match up to `text`, once it is there."""
        try:
            async with asyncio.timeout(EXPECT_TIMEOUT_S):
                while (at := self._shown.find(text, self._seen)) < 0:
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} did not come after {self._shown!r}") from None
        passed = self._shown[self._seen : at + len(text)]
        self._seen = at + len(text)
        return passed

    async def end(self) -> int:
        """Return the exit code once the command has ended."""
        assert self._child is not None
        async with asyncio.timeout(EXPECT_TIMEOUT_S):
            return await self._child.wait()

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65_536)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self._raw += data
        self._shown = _ESCAPES.sub("", self._raw.decode(errors="ignore"))
        self._grown.set()


class Relay:
    """A TCP relay in front of a server, for tests that cut the line."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self.cut_after_bytes: int | None = None
        """Cut the next line to have carried this much to the client, once."""

    @property
    def address(self) -> str:
        """Where the relay listens."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Break every line there is, without a farewell."""
        for writer in tuple(self._lines):
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection(self._host, self._port)
        self._lines |= {writer, back}
        up = asyncio.ensure_future(_copy(reader, back))
        try:
            await self._answer(there, writer)
        finally:
            up.cancel()
            self._lines -= {writer, back}
            writer.transport.abort()
            back.transport.abort()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried = 0
        try:
            while data := await there.read(65_536):
                limit = self.cut_after_bytes
                if limit is not None and carried + len(data) >= limit:
                    self.cut_after_bytes = None
                    writer.write(data[: limit - carried])
                    await writer.drain()
                    # A farewell would let the rest through; this line is broken as cables are.
                    return
                carried += len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return
