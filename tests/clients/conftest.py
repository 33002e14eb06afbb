"""Meshes for the example clients: the offline one of the README, and one that asks for keys."""

import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from mesh.testing.upstream import ScriptedUpstream
from tests.clients.examples import EXAMPLES, Example, built
from tests.e2e.processes import Mesh, start_embedded


def require(missing: str) -> None:
    """Skip where a toolchain is missing; in CI, where it must be, fail."""
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing, pytrace=False)
    if missing:
        pytest.skip(missing)


def key_of(language: str) -> str:
    """Return the API key of an example; each is a tenant of its own."""
    return f"key-of-{language}"


@pytest.fixture(scope="session", params=EXAMPLES, ids=lambda example: example.language)
def example(request: pytest.FixtureRequest) -> Example:
    """An example that has been built."""
    chosen: Example = request.param
    require(chosen.missing())
    built(chosen)
    return chosen


@pytest.fixture(scope="session")
def short_tmp() -> Generator[Path]:
    """A folder whose path leaves room for the names of unix sockets."""
    with tempfile.TemporaryDirectory(prefix="plx-") as folder:
        yield Path(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def offline_mesh(short_tmp: Path) -> AsyncGenerator[Mesh]:
    """A mesh as `make run` starts it."""
    running = await start_embedded(short_tmp / "offline", {})
    yield running
    await running.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream() -> AsyncGenerator[ScriptedUpstream]:
    async with ScriptedUpstream() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def keyed_mesh(short_tmp: Path, upstream: ScriptedUpstream) -> AsyncGenerator[Mesh]:
    """A mesh that asks for a key and gets its answers from the scripted upstream."""
    keys = {
        example.language: {
            "tenant": example.language,
            "sha256": hashlib.sha256(key_of(example.language).encode()).hexdigest(),
        }
        for example in EXAMPLES
    }
    providers = {"up": {"kind": "openai", "base_url": upstream.openai_url}}
    environ = {
        "PLEXUS_AUTH": "keys",
        "PLEXUS_KEYS": orjson.dumps(keys).decode(),
        "PLEXUS_ROUTER_PROVIDERS": orjson.dumps(providers).decode(),
        "PLEXUS_ROUTER_GROUPS": orjson.dumps({"default": ["up/first"]}).decode(),
    }
    running = await start_embedded(short_tmp / "keyed", environ)
    yield running
    await running.stop()
