"""Readers that do not read, and streams that are cancelled: what they leave in memory."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import grpc.aio

from bench.grpc_client import Asking, Turns
from bench.plan import Plan
from bench.process import resident_bytes
from bench.progress import Shown
from bench.prompts import fresh_prompts
from bench.result import CancelsFinding, StalledFinding
from bench.statistics import slope
from bench.systems import PROVIDER, System
from bench.upstream import ENDLESS, LONG, pace_of, tokens
from mesh.clock import SYSTEM_CLOCK
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc

STALL_S = 3.0
"""How long the mesh may take to have the whole answers, while nobody reads them."""
READ_TIMEOUT_S = 60.0
CALLERS = 64
SAMPLES = 40
SMALL_WINDOW = [
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 16_384),
    ("grpc.use_local_subchannel_pool", 1),
]
"""So that what is not read stays with the mesh and not in this process."""


def _turns(model: str) -> Turns:
    return Turns(f"{PROVIDER}/{model}", Asking(), prompt=fresh_prompts(2))


async def run_stalled(system: System, plan: Plan, shown: Shown) -> StalledFinding:
    """Open streams of a long answer, read nothing, and weigh the gateway's process."""
    shown.begin("stalled", 3)
    gateway = system.pids[0]
    turns = _turns(LONG)
    channel = grpc.aio.insecure_channel(system.addresses["gateway"], options=SMALL_WINDOW)
    async with channel:
        stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)
        shown.advance("one answer read, to warm up")
        await _read(stub.Chat(pb.ChatRequest(turn=turns.next(0)), timeout=READ_TIMEOUT_S))
        before = resident_bytes(gateway)
        shown.advance(f"{plan.stalled_readers} readers that do not read")
        calls = [
            stub.Chat(pb.ChatRequest(turn=turns.next(at)), timeout=READ_TIMEOUT_S)
            for at in range(plan.stalled_readers)
        ]
        for call in calls:
            await call.initial_metadata()
        await SYSTEM_CLOCK.sleep(STALL_S)
        held = resident_bytes(gateway) - before
        shown.advance("reading them at last")
        whole = sum(await asyncio.gather(*map(_read, calls)))
    return StalledFinding(
        readers=plan.stalled_readers,
        answer_bytes=len("".join(tokens(pace_of(LONG).count))),
        bytes_per_reader=held / max(1, plan.stalled_readers),
        whole_answers=whole,
    )


async def _read(call: "grpc.aio.UnaryStreamCall[pb.ChatRequest, pb.ChatResponse]") -> bool:
    """Read to the end; return whether it ended well."""
    try:
        return [event async for event in call][-1].HasField("completed")
    except grpc.aio.AioRpcError:
        return False


async def run_cancels(system: System, plan: Plan, shown: Shown) -> CancelsFinding:
    """Cancel streams after their first piece, and weigh the gateway's process on the way."""
    shown.begin("cancels", plan.cancels)
    gateway = system.pids[0]
    turns = _turns(ENDLESS)
    weights: list[tuple[float, float]] = []
    done = 0
    begun_s = time.perf_counter()
    every = max(1, plan.cancels // SAMPLES)

    def weigh() -> None:
        weights.append((float(done), float(resident_bytes(gateway))))
        shown.advance(f"{done:,} cancelled, {weights[-1][1] / 2**20:.0f} MiB", 0)

    def is_over() -> bool:
        return done >= plan.cancels or time.perf_counter() - begun_s > plan.cancels_s

    def count() -> None:
        nonlocal done
        done += 1
        shown.advance(f"{done:,} cancelled")
        if done % every == 0:
            weigh()

    channel = grpc.aio.insecure_channel(system.addresses["gateway"])
    async with channel:
        stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)
        weigh()
        async with asyncio.TaskGroup() as group:
            for caller in range(CALLERS):
                group.create_task(_cancel_until(stub, turns, caller, is_over, count))
    weigh()
    took_s = time.perf_counter() - begun_s
    return CancelsFinding(
        count=done,
        cancels_per_s=done / took_s,
        first_mib=weights[0][1] / 2**20,
        last_mib=weights[-1][1] / 2**20,
        bytes_per_cancel=slope(weights[len(weights) // 2 :]),
    )


async def _cancel_until(
    stub: gateway_service_pb2_grpc.GatewayServiceStub,
    turns: Turns,
    caller: int,
    is_over: Callable[[], bool],
    count: Callable[[], None],
) -> None:
    while not is_over():
        call = stub.Chat(pb.ChatRequest(turn=turns.next(caller)), timeout=READ_TIMEOUT_S)
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for event in call:
                if event.text:
                    break
        call.cancel()
        count()
