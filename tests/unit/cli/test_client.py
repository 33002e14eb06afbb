"""Where the command finds the mesh, and what it says when it does not."""

from pathlib import Path

import grpc
import grpc.aio
import pytest

from cli.client import addresses, explain, http_url, is_dropped, is_ready
from mesh.errors import (
    STATUS_DETAILS_KEY,
    PlexusError,
    Reason,
    Unauthenticated,
    Unavailable,
    to_rpc_status,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plexus.yaml"
    path.write_text("")
    return path


def failed(code: grpc.StatusCode, error: PlexusError | None = None) -> grpc.aio.AioRpcError:
    details = grpc.aio.Metadata()
    if error is not None:
        details.add(STATUS_DETAILS_KEY, to_rpc_status(error).SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), details, details=str(error or "refused"))


def test_without_settings_the_mesh_is_at_its_usual_ports(file: Path) -> None:
    where = addresses(environ={}, file=file)
    assert where["gateway"] == "127.0.0.1:50050"
    assert where["metrics"] == "127.0.0.1:50054"
    assert http_url(environ={}, file=file) == "http://127.0.0.1:8080"


def test_the_environment_wins_over_the_file(file: Path) -> None:
    file.write_text("gateway: {port: 1, http_port: 2}\n")
    assert addresses(environ={}, file=file)["gateway"] == "127.0.0.1:1"
    assert http_url(environ={}, file=file) == "http://127.0.0.1:2"
    environ = {"PLEXUS_GATEWAY_PORT": "3", "PLEXUS_GATEWAY_HTTP_PORT": "4"}
    assert addresses(environ=environ, file=file)["gateway"] == "127.0.0.1:3"
    assert http_url(environ=environ, file=file) == "http://127.0.0.1:4"


def test_a_component_placed_elsewhere_is_found_there(file: Path) -> None:
    environ = {"PLEXUS_PLACEMENT": "metrics=far:7,memory=local"}
    where = addresses(environ=environ, file=file)
    assert where["metrics"] == "far:7"
    assert where["memory"] == "127.0.0.1:50051"


def test_a_mesh_on_every_interface_is_reached_by_loopback(file: Path) -> None:
    environ = {"PLEXUS_HOST": "0.0.0.0"}
    assert addresses(environ=environ, file=file)["gateway"] == "127.0.0.1:50050"


def test_nobody_there_is_a_sentence_that_says_how_to_start_one() -> None:
    said = explain(failed(grpc.StatusCode.UNAVAILABLE), "127.0.0.1:1")
    assert isinstance(said, Unavailable)
    assert "make run" in str(said)
    assert "127.0.0.1:1" in str(said)


def test_what_the_mesh_says_is_passed_on() -> None:
    theirs = Unavailable("memory is down", reason=Reason.MEMORY_UNAVAILABLE)
    said = explain(failed(grpc.StatusCode.UNAVAILABLE, theirs), "127.0.0.1:1")
    assert str(said) == "memory is down"
    assert said.reason == Reason.MEMORY_UNAVAILABLE


def test_a_missing_key_says_where_to_give_it() -> None:
    theirs = Unauthenticated("an API key is required", reason=Reason.MISSING_KEY)
    said = explain(failed(grpc.StatusCode.UNAUTHENTICATED, theirs), "127.0.0.1:1")
    assert "PLEXUS_API_KEY" in str(said)


def test_only_the_transport_drops_a_connection() -> None:
    ours = Unavailable("draining", reason=Reason.DRAINING)
    assert is_dropped(failed(grpc.StatusCode.UNAVAILABLE))
    assert not is_dropped(failed(grpc.StatusCode.UNAVAILABLE, ours))
    assert not is_dropped(failed(grpc.StatusCode.DEADLINE_EXCEEDED))


async def test_nobody_there_is_not_ready() -> None:
    assert not await is_ready("127.0.0.1:1")
