"""The closed loop: every target at every load, interleaved, as ratios against the relay."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.plan import Plan
from bench.progress import Shown
from bench.result import ClosedRow
from bench.scenarios import RELAY
from bench.schedule import Load, interleave
from bench.statistics import distribution, median, spread
from bench.target import Target, measured

UNABLE_AFTER = 1
"""Rounds without a single whole answer after which a target is left out at that load."""


@dataclass(slots=True)
class _Cell:
    """What the rounds of one target at one load have brought."""

    rates: dict[int, float] = field(default_factory=dict[int, float])
    total_s: list[float] = field(default_factory=list[float])
    first_s: list[float] = field(default_factory=list[float])
    cpu_ms: list[float] = field(default_factory=list[float])
    failures: int = 0

    @property
    def is_hopeless(self) -> bool:
        return len(self.rates) >= UNABLE_AFTER and not self.total_s


async def run_closed(targets: Sequence[Target], plan: Plan, shown: Shown) -> list[ClosedRow]:
    """Measure; a target that cannot do a kind of call has rows with a rate of 0."""
    loads = plan.loads()
    by_name = {target.name: target for target in targets}
    cells = {(name, load): _Cell() for name in by_name for load in loads}
    shown.begin("streams", plan.rounds * len(loads) * len(by_name))
    for slot in interleave(plan.rounds, loads, list(by_name)):
        cell = cells[slot.target, slot.load]
        where = f"round {slot.round + 1}, {slot.load.kind} c={slot.load.concurrency}, {slot.target}"
        shown.advance(where)
        if cell.is_hopeless:
            continue
        window, cpu_ms = await measured(
            by_name[slot.target], slot.load, warm_up_s=plan.warm_up_s, window_s=plan.window_s
        )
        cell.rates[slot.round] = window.rate_per_s
        cell.total_s += window.total_s
        cell.first_s += window.first_s
        cell.cpu_ms.append(cpu_ms)
        cell.failures += window.failures
    relay = {load: cells[RELAY, load].rates for load in loads if RELAY in by_name}
    return [_row(name, load, cells[name, load], relay.get(load, {})) for name, load in cells]


def _row(target: str, load: Load, cell: _Cell, relay: dict[int, float]) -> ClosedRow:
    ratios = [rate / relay[at] for at, rate in cell.rates.items() if relay.get(at)]
    return ClosedRow(
        target=target,
        kind=load.kind,
        concurrency=load.concurrency,
        rate=spread(list(cell.rates.values())),
        ratio=spread(ratios) if ratios else None,
        total_ms=distribution(cell.total_s, scale=1000),
        first_ms=distribution(cell.first_s, scale=1000),
        cpu_ms=median(cell.cpu_ms),
        failures=cell.failures,
    )
