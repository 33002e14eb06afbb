"""What keeps a mesh from starting is said in one sentence that says what to do."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.processes import COMPONENTS, Mesh, clean_environ, start_embedded

pytestmark = pytest.mark.asyncio(loop_scope="session")

FREE = {f"PLEXUS_{name.upper()}_PORT": "0" for name in COMPONENTS}
FREE["PLEXUS_GATEWAY_HTTP_PORT"] = "0"


async def plexus(*arguments: str, **environ: str) -> tuple[int, str]:
    """Run `plexus` to its end and return its exit code and what it says on standard error."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli.main",
        *arguments,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**clean_environ(), **FREE, **environ},
    )
    _, said = await child.communicate()
    return child.returncode or 0, said.decode()


def one_sentence(said: str, *parts: str) -> None:
    """Assert that a person reads one line without a traceback, holding these parts."""
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 1, said
    for part in parts:
        assert part in said


@pytest_asyncio.fixture(loop_scope="session")
async def running(short_tmp: Path) -> AsyncGenerator[Mesh]:
    mesh = await start_embedded(short_tmp / "startup", {})
    yield mesh
    await mesh.stop()


async def test_a_second_mesh_on_the_same_folder_is_refused(running: Mesh) -> None:
    code, said = await plexus("up", PLEXUS_DATA_DIR=str(running.data_dir))
    assert code == 1
    one_sentence(said, "another mesh is running", "PLEXUS_DATA_DIR")


@pytest.mark.parametrize("name", ["GATEWAY", "MEMORY", "GATEWAY_HTTP"])
async def test_a_port_in_use_is_named_with_its_setting(short_tmp: Path, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environ = {f"PLEXUS_{name}_PORT": port, "PLEXUS_DATA_DIR": str(short_tmp / f"p{name}")}
        code, said = await plexus("up", **environ)
    assert code == 1
    one_sentence(said, port, "in use", f"PLEXUS_{name}_PORT")


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, said = await plexus("up", PLEXUS_DATA_DIR=str(tmp_path / "file" / "data"))
    assert code == 1
    one_sentence(said, "data folder", "PLEXUS_DATA_DIR")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)  # noqa: ASYNC240 -- nothing else runs here
    code, said = await plexus("up", PLEXUS_DATA_DIR=str(tmp_path / "data"))
    assert code == 1
    one_sentence(said, "cannot write", "PLEXUS_DATA_DIR")


@pytest.mark.parametrize("pattern", ["memory/**/*.json", "redis/**/*.aof"])
async def test_corrupt_data_is_said_and_not_overwritten(short_tmp: Path, pattern: str) -> None:
    folder = short_tmp / f"corrupt-{pattern[:5]}"
    mesh = await start_embedded(folder, {})
    await mesh.stop()
    victims = [path for path in folder.glob(pattern) if path.is_file()]
    assert victims, f"nothing matches {pattern}: {list(folder.rglob('*'))}"
    for path in victims:
        path.write_bytes(b"\x00garbage\xff" * 50)
    code, said = await plexus("up", PLEXUS_DATA_DIR=str(folder), PLEXUS_LOG_LEVEL="error")
    assert code == 1
    one_sentence(said, str(folder))
    assert all(path.read_bytes().startswith(b"\x00garbage") for path in victims)


async def test_wrong_settings_are_named(tmp_path: Path) -> None:
    for name, value in (
        ("PLEXUS_GATEWAY_FLUSH_INTERVAL_MS", "soon"),
        ("PLEXUS_AUTH", "maybe"),
        ("PLEXUS_HOST", "0.0.0.0"),
    ):
        code, said = await plexus("up", PLEXUS_DATA_DIR=str(tmp_path / "d"), **{name: value})
        assert code == 1, said
        one_sentence(said)


async def test_an_unknown_component_is_wrong_usage() -> None:
    code, said = await plexus("serve", "nonsense")
    assert code == 2
    assert "Traceback" not in said


async def test_a_mistyped_variable_is_refused_and_the_right_one_named(tmp_path: Path) -> None:
    code, said = await plexus("up", PLEXUS_DATA_DIR=str(tmp_path / "d"), PLEXUS_MESH_AUTH="keys")
    assert code == 1
    one_sentence(said, "PLEXUS_MESH_AUTH", "PLEXUS_AUTH")
