"""Doctor's checks of the machine and of what a mesh would find here."""

import os
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from importlib import metadata
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from cli.checks import FAILED, OK, SKIPPED
from cli.machine import dependencies, machine_findings, pinned
from cli.main import build_app
from cli.running import FOREIGN, FREE, NOT_READY, component, http_edge, state_of
from cli.surroundings import data_folder, generated_code, redis_server
from mesh.data_folder import DataFolder

COMPONENTS = ("gateway", "memory", "router", "cache", "metrics")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but those of the test, and ports that no mesh of this machine uses."""
    for name in [name for name in os.environ if name.startswith("PLEXUS_")]:
        monkeypatch.delenv(name)
    for name in (*COMPONENTS, "gateway_http"):
        monkeypatch.setenv(f"PLEXUS_{name.upper()}_PORT", str(free_port()))
    monkeypatch.chdir(tmp_path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def listener() -> Generator[str]:
    """Something that listens and speaks no gRPC."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@asynccontextmanager
async def refuser() -> AsyncGenerator[str]:
    """Something that hangs up on everybody."""
    import asyncio

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), ["doctor", *arguments])


def lock(root: Path, text: str) -> Path:
    (root / "requirements").mkdir()
    (root / "requirements" / "runtime.txt").write_text(text)
    return root


def test_this_python_is_new_enough() -> None:
    assert [finding.status for finding in machine_findings()] == [OK]


def test_pins_are_read_with_their_markers(tmp_path: Path) -> None:
    root = lock(
        tmp_path,
        "orjson==1.2 \\\n    --hash=sha256:abc\n"
        "never==1 ; sys_platform == 'plan9' \\\n    --hash=sha256:abc\n"
        "always==2 ; python_version >= '3'\n",
    )
    assert pinned(root) == {"orjson": "1.2", "always": "2"}


def test_another_version_than_the_locked_one_is_a_failure_with_a_remedy(tmp_path: Path) -> None:
    finding = dependencies(lock(tmp_path, "orjson==0.0.1\nabsent-package==1\n"))
    assert finding.status == FAILED
    assert f"orjson {metadata.version('orjson')} (needed: 0.0.1)" in finding.detail
    assert "absent-package is missing" in finding.detail
    assert "make install" in finding.remedy


def test_the_locked_versions_are_fine(tmp_path: Path) -> None:
    finding = dependencies(lock(tmp_path, f"orjson=={metadata.version('orjson')}\n"))
    assert finding.status == OK


def test_without_a_lock_presence_is_enough(tmp_path: Path) -> None:
    assert dependencies(tmp_path).status == OK


def test_a_redis_that_is_configured_is_not_looked_for() -> None:
    assert redis_server("redis://somewhere").status == SKIPPED


def test_a_missing_redis_server_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("sys.path", [])
    finding = redis_server("")
    assert finding.status == FAILED
    assert "PLEXUS_" in finding.remedy


def test_the_data_folder_is_not_made_by_looking(tmp_path: Path) -> None:
    assert data_folder(tmp_path / "a" / "b").status == OK
    assert not (tmp_path / "a").exists()


def test_a_mesh_that_uses_the_data_folder_is_seen(tmp_path: Path) -> None:
    owned = DataFolder.own(tmp_path)
    assert "in use by a mesh" in data_folder(tmp_path).detail
    owned.release()
    assert "free" in data_folder(tmp_path).detail


def test_a_file_in_place_of_the_data_folder_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = data_folder(tmp_path / "file" / "data")
    assert finding.status == FAILED
    assert "PLEXUS_DATA_DIR" in finding.remedy


def test_outside_a_checkout_the_contract_is_not_checked(tmp_path: Path) -> None:
    assert generated_code(tmp_path).status == SKIPPED


async def test_a_port_is_free_or_taken_by_something_else() -> None:
    assert await state_of(f"127.0.0.1:{free_port()}") == FREE
    async with refuser() as address:
        assert await state_of(address) == FOREIGN


async def test_each_state_of_a_component_says_what_to_do() -> None:
    free = await component("memory", "127.0.0.1:1", FREE, mesh_runs=False)
    alone = await component("memory", "127.0.0.1:1", FREE, mesh_runs=True)
    foreign = await component("memory", "127.0.0.1:1", FOREIGN, mesh_runs=False)
    starting = await component("memory", "127.0.0.1:1", NOT_READY, mesh_runs=True)
    assert [f.status for f in (free, alone, foreign, starting)] == [OK, FAILED, FAILED, FAILED]
    assert "plexus serve memory" in alone.remedy
    assert "PLEXUS_MEMORY_PORT" in foreign.remedy
    assert starting.remedy


async def test_the_http_edge_belongs_to_its_gateway() -> None:
    free = f"http://127.0.0.1:{free_port()}"
    assert (await http_edge(free, gateway_serves=False)).status == OK
    assert (await http_edge(free, gateway_serves=True)).status == FAILED
    with listener() as address:
        assert (await http_edge(f"http://{address}", gateway_serves=True)).status == OK
        taken = await http_edge(f"http://{address}", gateway_serves=False)
        assert taken.status == FAILED
        assert "PLEXUS_GATEWAY_HTTP_PORT" in taken.remedy


@pytest.mark.timeout(60)  # protoc compiles every proto
def test_without_a_mesh_all_is_well_and_nothing_secret_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-seen")
    result = run("--json")
    shown = orjson.loads(result.stdout)
    assert shown["healthy"], result.stdout
    assert result.exit_code == 0
    status = {check["name"]: check["status"] for check in shown["checks"]}
    assert status["settings"] == OK
    assert status["mesh"] == SKIPPED
    assert {status[name] for name in COMPONENTS} == {OK}
    assert "OPENAI_API_KEY" in result.stdout
    assert "sk-not-to-be-seen" not in result.output


@pytest.mark.timeout(60)  # protoc compiles every proto
def test_wrong_settings_are_a_failure_with_their_line_and_exit_code_1() -> None:
    Path("plexus.yaml").write_text("mesh:\n  log_level: loud\n")
    result = run()
    assert result.exit_code == 1
    assert "plexus.yaml line 2: mesh.log_level" in result.stdout
    assert "1 failed" in result.stdout
    assert "\x1b" not in result.stdout
