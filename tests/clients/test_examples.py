"""Each example client against a real mesh: what it prints, and what the mesh saw of it."""

import asyncio
import re
from itertools import islice

import grpc.aio
import pytest

from mesh.testing.upstream import Script, ScriptedUpstream
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb
from plexus.metrics.v1 import metrics_service_pb2_grpc
from tests.clients.conftest import key_of
from tests.clients.examples import Example, running
from tests.e2e.calls import TIMEOUT_S, eventually
from tests.e2e.processes import Mesh

# The first test of a language builds it; on a fresh machine that downloads its libraries.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

PIECES = ("Once", " upon", " a", " time", " there", " was", " a", " mesh", ".")


async def test_it_does_all_four_things_on_the_offline_mesh(
    example: Example, offline_mesh: Mesh
) -> None:
    environ = {"PLEXUS_ADDRESS": offline_mesh.addresses["gateway"]}
    async with running(example.run, example.folder, environ) as program:
        pass
    assert program.child.returncode == 0, program.complaints
    steps = [line for line in program.printed.splitlines() if re.match(r"\w+: ", line)]
    assert [re.sub(r"[0-9a-f]{32}|\d+", "N", line) for line in steps] == [
        "chat: ok offline/extractive",
        "cancel: ok N",
        "error: TENANT_MISMATCH",
        "error: MODEL_NOT_FOUND",
        "resume: dropped after event N",
        "resume: ok N events",
    ]


async def test_it_streams_cancels_and_resumes_in_the_middle_of_an_answer(
    example: Example, keyed_mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    shown, dropped = asyncio.Event(), asyncio.Event()
    upstream.scripts.clear()  # whatever a test that failed has left
    upstream.script(
        Script(stall_until=shown),
        Script(stall_until=asyncio.Event()),
        Script(tokens=PIECES, stall_until=dropped),
    )
    before = len(upstream.requests)
    environ = {"PLEXUS_API_KEY": key_of(example.language)}
    command = (*example.run, keyed_mesh.addresses["gateway"])
    async with running(command, example.folder, environ) as program:
        await program.prints("Hello")
        shown.set()  # Only now does the model go on: the first piece was shown without the rest.
        await program.prints("resume: dropped")
        dropped.set()  # Only now: what follows is said while nobody reads.
    assert program.child.returncode == 0, program.complaints
    lines = program.printed.splitlines()
    assert lines[:2] == ["Hello world.", "chat: ok up/first"]

    asked = list(islice(upstream.requests, before, None))
    await asyncio.wait_for(asked[1].disconnected.wait(), TIMEOUT_S)
    assert [record.finished.is_set() for record in asked] == [True, False, True]
    run = lines[2].removeprefix("cancel: ok ")
    await eventually(
        lambda: _outcomes(keyed_mesh, example),
        lambda of: of.get(run) == metrics_pb.OUTCOME_CANCELLED,
    )
    at = [int(number) for line in lines[-2:] for number in re.findall(r"\d+", line)]
    assert lines[-2:] == [f"resume: dropped after event {at[0]}", f"resume: ok {at[1]} events"]
    # At the least a text, what it used, and the end came after the drop.
    assert at[1] >= at[0] + 3


async def test_it_says_why_it_was_refused(example: Example, keyed_mesh: Mesh) -> None:
    command = (*example.run, keyed_mesh.addresses["gateway"])
    async with running(command, example.folder, {"PLEXUS_API_KEY": "wrong"}) as program:
        pass
    assert program.child.returncode == 1
    assert "INVALID_KEY: " in program.complaints
    assert not program.printed


async def _outcomes(mesh: Mesh, example: Example) -> dict[str, metrics_pb.Outcome]:
    """Return how each run of the example's tenant was booked."""
    metrics = metrics_service_pb2_grpc.MetricsServiceStub(mesh.channel("metrics"))
    key = grpc.aio.Metadata(("authorization", f"Bearer {key_of(example.language)}"))
    request = metrics_pb.ListLedgerRequest(page_size=500)
    listed = await metrics.ListLedger(request, timeout=TIMEOUT_S, metadata=key)
    return {entry.event.request_id: entry.event.outcome for entry in listed.entries}
