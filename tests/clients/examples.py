"""The example clients: how each is built, once, and how it is run."""

import asyncio
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.processes import clean_environ

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples"
MADE = {"build", "node_modules", "target"}
BUILD_TIMEOUT_S = 540.0
RUN_TIMEOUT_S = 50.0
END_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Example:
    """One client in its folder under examples/."""

    language: str
    build: tuple[tuple[str, ...], ...]
    """Commands that make it, run in its folder."""
    run: tuple[str, ...]
    """The command that starts it; the address may follow."""
    product: str
    """What the last build command leaves behind."""
    missing: Callable[[], str]
    """Says what to install before it can be built; empty when all is there."""

    @property
    def folder(self) -> Path:
        return FOLDER / self.language


@dataclass(slots=True)
class Program:
    """A running client, and what it has printed so far."""

    child: asyncio.subprocess.Process
    printed: str = ""
    complaints: str = ""
    _grown: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def prints(self, text: str) -> None:
        """Return once the client has printed `text`; fail if it ends without."""
        async with self._grown:
            await self._grown.wait_for(lambda: text in self.printed or self._ended)
        assert text in self.printed, f"{text!r} was not printed: {self.printed} {self.complaints}"

    async def follow(self) -> None:
        """Collect what is printed, to the end."""
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        while chunk := await self.child.stdout.read(4096):
            async with self._grown:
                self.printed += chunk.decode()
                self._grown.notify_all()
        self.complaints = (await self.child.stderr.read()).decode()
        await self.child.wait()
        async with self._grown:
            self._grown.notify_all()

    @property
    def _ended(self) -> bool:
        return self.child.returncode is not None


@asynccontextmanager
async def running(
    command: tuple[str, ...], folder: Path, environ: Mapping[str, str]
) -> AsyncGenerator[Program]:
    """Start a client; leaving the block waits for its end, and kills it when the block failed."""
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**clean_environ(), **environ},
    )
    program = Program(child)
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S), asyncio.TaskGroup() as group:
            group.create_task(program.follow())
            yield program
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def built(example: Example) -> None:
    """Build the example unless its sources are those of the last build; raise with its output."""
    stamp = example.folder / "build" / ".sources"
    sources = _fingerprint(example.folder)
    if (
        stamp.exists()
        and stamp.read_text() == sources
        and (example.folder / example.product).exists()
    ):
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**clean_environ(), "PATH": path, "GOFLAGS": "-buildvcs=false"}
    for command in example.build:
        done = subprocess.run(
            command,
            cwd=example.folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stdout[-4000:]}")
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(sources)


def _fingerprint(folder: Path) -> str:
    """Return a digest of all that decides a build: the example's own files and the protos."""
    digest = hashlib.blake2b(digest_size=16)
    own = (path for path in folder.rglob("*") if not MADE & set(path.relative_to(folder).parts))
    for path in sorted([*own, *(ROOT / "protos").rglob("*.proto")]):
        if path.is_file():
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _python_missing() -> str:
    if importlib.util.find_spec("ensurepip") is None:
        return "the Python example needs python3-venv"
    return "" if shutil.which("make") else "the Python example needs make"


def go_missing() -> str:
    """From 1.21 on, go fetches the version that go.mod names by itself."""
    if _version("go", "version", pattern=r"go1\.(\d+)") >= 21:
        return ""
    return "Go 1.24 or newer is needed (Debian 13: apt-get install golang-go)"


def _node_missing() -> str:
    if _version("node", "--version", pattern=r"v(\d+)") >= 18 and shutil.which("npm"):
        return ""
    return "the Node example needs Node 18 or newer and npm (apt-get install nodejs npm)"


def _java_missing() -> str:
    if _version("javac", "-version", pattern=r"javac (\d+)") >= 17 and shutil.which("mvn"):
        return ""
    return "the Java example needs JDK 17 and Maven (apt-get install default-jdk-headless maven)"


def _version(*command: str, pattern: str) -> int:
    """Return the number that a tool gives as its version; 0 when it is not there."""
    if shutil.which(command[0]) is None:
        return 0
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(pattern, said.stdout + said.stderr)
    return int(found[1]) if found else 0


EXAMPLES = (
    Example(
        language="python",
        build=(("make", f"PYTHON={sys.executable}"),),
        run=("env", "PYTHONPATH=build/gen", "build/venv/bin/python", "client.py"),
        product="build/.generated",
        missing=_python_missing,
    ),
    Example(
        language="go",
        build=(("go", "generate", "./..."), ("go", "build", "-o", "build/client", ".")),
        run=("build/client",),
        product="build/client",
        missing=go_missing,
    ),
    Example(
        language="node",
        build=(("npm", "ci", "--prefer-offline"),),
        run=("node", "client.js"),
        product="node_modules/.package-lock.json",
        missing=_node_missing,
    ),
    Example(
        language="java",
        build=(("mvn", "-B", "-q", "package"),),
        run=("java", "-jar", "target/client.jar"),
        product="target/client.jar",
        missing=_java_missing,
    ),
)
