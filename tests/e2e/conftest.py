"""One running mesh per topology for the tests that break nothing; fresh ones for those that do."""

import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.calls import embedder_ready
from tests.e2e.processes import Mesh, start_distributed, start_embedded

TOPOLOGIES = {"embedded": start_embedded, "distributed": start_distributed}

Start = Callable[..., Awaitable[Mesh]]


@pytest.fixture(scope="session")
def short_tmp() -> Generator[Path]:
    """A folder whose path leaves room for the names of unix sockets."""
    with tempfile.TemporaryDirectory(prefix="plx-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session", params=list(TOPOLOGIES))
def topology(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mesh(topology: str, short_tmp: Path) -> AsyncGenerator[Mesh]:
    """A mesh with the offline model, shared by the session; tests keep to tenants of their own."""
    running = await TOPOLOGIES[topology](short_tmp / f"shared-{topology}", {})
    await embedder_ready(running)
    yield running
    await running.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def start(topology: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Start]:
    """Starts meshes of this topology; what still runs at the end of the test is killed."""
    started: list[Mesh] = []
    with tempfile.TemporaryDirectory(prefix="plx-") as folder:

        async def start_one(environ: dict[str, str] | None = None, data: str = "data") -> Mesh:
            running = await TOPOLOGIES[topology](Path(folder) / data, environ or {})
            started.append(running)
            return running

        yield start_one
        for running in started:
            await running.kill()
