"""One run: starts the systems, does the steps, stops everything."""

import asyncio
import gc
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import machine
from bench.peers import PEERS
from bench.plan import STEPS, Plan
from bench.process import NotStarted, Processes
from bench.progress import Shown
from bench.result import Result
from bench.scenarios import BUILTIN, DIRECT, HIT, LABELS, Ours, start_ours
from bench.steps.closed import run_closed
from bench.steps.endurance import run_cancels, run_stalled
from bench.steps.memory import MemoryStep
from bench.steps.paced import run_open, run_paced
from bench.steps.starts import footprint, run_cold, weigh
from bench.systems import System, start_embedded, start_upstream
from bench.target import CalledTarget, Target

UNPACED = (HIT, BUILTIN)
"""Scenarios for which a model's pace, or a queue before it, says nothing new."""


async def run_benchmark(
    plan: Plan, *, scenarios: Sequence[str], with_peers: bool, shown: Shown
) -> Result:
    """Do every step of the plan and return what was found.

    SIGTERM is taken as a cancellation, which stops every process that was started.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    begun_s = time.perf_counter()
    whole = plan == Plan() and set(plan.steps) == set(STEPS) and set(scenarios) == set(LABELS)
    result = Result(machine=machine.describe(), plan=plan, is_whole=whole)
    # A short path: unix sockets are below it.
    with tempfile.TemporaryDirectory(prefix="plx-") as place:
        folder = Path(place)
        async with Processes(folder) as processes:
            upstream_url = await start_upstream(processes)
            if "cold" in plan.steps:
                result.cold = await run_cold(folder, upstream_url, plan, shown)
            await _run_chats(plan, scenarios, with_peers, folder, upstream_url, result, shown)
            if {"memory", "stalled", "cancels"} & set(plan.steps):
                await _run_embedded(plan, folder, upstream_url, result, shown)
    shown.end()
    result.duration_s = time.perf_counter() - begun_s
    return result


async def _run_chats(
    plan: Plan,
    scenarios: Sequence[str],
    with_peers: bool,
    folder: Path,
    upstream_url: str,
    result: Result,
    shown: Shown,
) -> None:
    """Do the steps that drive scenarios and peers side by side."""
    if not {"streams", "paced", "open"} & set(plan.steps):
        return
    async with Processes(folder) as processes:
        shown.begin("start", 1)
        ours = await start_ours(processes, folder, upstream_url, scenarios)
        peers: list[Target] = []
        if with_peers:
            peers = await _start_peers(processes, folder, upstream_url, result, shown)
        result.labels = {t.name: LABELS[t.name] for t in ours.targets} | result.labels
        idle = {name: weigh(*system.pids) for name, system in ours.systems.items()}
        idle |= {peer.name: weigh(*peer.pids) for peer in peers}
        gc.freeze()
        try:
            await _drive(plan, ours, peers, result, shown)
        finally:
            for target in (*ours.targets, *peers):
                await target.close()
        for system in (*ours.systems.values(), *map(_as_system, peers)):
            result.footprint += footprint(system, idle[system.name], weigh(*system.pids))


async def _drive(
    plan: Plan, ours: Ours, peers: Sequence[Target], result: Result, shown: Shown
) -> None:
    paced = [target for target in ours.targets if target.name not in UNPACED]
    callable_peers = [peer for peer in peers if isinstance(peer, CalledTarget)]
    if "streams" in plan.steps:
        result.closed = await run_closed([*ours.targets, *peers], plan, shown)
        result.notes += unable(result)
    if "paced" in plan.steps:
        result.paced = await run_paced([*paced, *callable_peers], plan, shown)
    if "open" in plan.steps:
        queued = [target for target in paced if target.name != DIRECT]
        result.open = await run_open(queued, plan, shown)


async def _run_embedded(
    plan: Plan, folder: Path, upstream_url: str, result: Result, shown: Shown
) -> None:
    """Do the steps that have one embedded mesh for themselves."""
    async with Processes(folder) as processes:
        system = await start_embedded(processes, folder, upstream_url, name="alone")
        if "stalled" in plan.steps:
            result.stalled = await run_stalled(system, plan, shown)
        if "cancels" in plan.steps:
            result.cancels = await run_cancels(system, plan, shown)
        if "memory" in plan.steps:
            step = MemoryStep(system, plan, shown)
            await step.run()
            result.memory, result.fill = step.rows, step.fills
            result.notes += step.notes


async def _start_peers(
    processes: Processes, folder: Path, upstream_url: str, result: Result, shown: Shown
) -> list[Target]:
    """Start the peers that are there; say of the others how to get them."""
    started: list[Target] = []
    for peer in PEERS:
        shown.advance(peer.name, 0)
        if not peer.is_installed():
            result.notes.append(f"{peer.label}: not here; {peer.missing}")
            continue
        try:
            started.append(await peer.start(processes, folder, upstream_url))
        except NotStarted as error:
            result.notes.append(f"{peer.label}: {str(error).splitlines()[-1][:300]}")
            continue
        result.labels[peer.name] = peer.label
    return started


def unable(result: Result) -> list[str]:
    """Return a note for each target and kind of call of which nothing came."""
    best: dict[tuple[str, str], float] = {}
    for row in result.closed:
        key = (row.target, row.kind)
        best[key] = max(best.get(key, 0.0), row.rate.high)
    return [
        f"{result.labels[target]}: not one whole answer to a {kind} call"
        for (target, kind), rate in best.items()
        if not rate
    ]


def _as_system(peer: Target) -> System:
    return System(name=peer.name, pids=peer.pids, addresses={})
