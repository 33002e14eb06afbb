"""Answers at a model's pace, and arrivals that do not wait: what a target adds, how it queues."""

from collections.abc import Sequence

from bench.plan import Plan
from bench.progress import Shown
from bench.result import OpenRow, PacedRow
from bench.scenarios import DIRECT
from bench.schedule import arrivals
from bench.statistics import distribution
from bench.target import CalledTarget
from bench.upstream import FAST, PACED
from bench.window import Window, closed_loop, open_loop

CALLERS = 10
SEED = 7
ATTEMPTS = 2
"""How often each target is measured, in turns."""


async def run_paced(targets: Sequence[CalledTarget], plan: Plan, shown: Shown) -> list[PacedRow]:
    """Drive each target with few callers and paced answers: nothing queues, so delay is added."""
    seen: dict[str, list[Window]] = {target.name: [] for target in targets}
    shown.begin("paced", ATTEMPTS * len(targets))
    for _ in range(ATTEMPTS):
        for target in targets:
            shown.advance(f"{target.name}, {CALLERS} callers")
            window = await closed_loop(
                target.call("stream", PACED),
                concurrency=CALLERS,
                warm_up_s=plan.paced_window_s / 4,
                window_s=plan.paced_window_s / ATTEMPTS,
            )
            await target.settle()
            seen[target.name].append(window)
    direct = seen.get(DIRECT, [])
    return [_row(name, windows, direct) for name, windows in seen.items()]


def _row(target: str, windows: list[Window], direct: list[Window]) -> PacedRow:
    first = distribution([t for w in windows for t in w.first_s], scale=1000)
    bare = distribution([t for w in direct for t in w.first_s], scale=1000)
    return PacedRow(
        target=target,
        load=f"{CALLERS} callers, {PACED}",
        first_ms=first,
        added_first_p50_ms=first.p50 - bare.p50 if bare.count and first.count else None,
        added_first_p99_ms=first.p99 - bare.p99 if bare.count and first.count else None,
        gap_ms=distribution([t for w in windows for t in w.gaps_s], scale=1000),
        total_ms=distribution([t for w in windows for t in w.total_s], scale=1000),
        rate_per_s=sum(w.rate_per_s for w in windows) / len(windows),
        failures=sum(w.failures for w in windows),
    )


async def run_open(targets: Sequence[CalledTarget], plan: Plan, shown: Shown) -> list[OpenRow]:
    """Drive each target at the same arrivals; a call's time counts from when it was due."""
    rows: list[OpenRow] = []
    shown.begin("open", len(plan.open_rates) * len(targets))
    for rate_per_s in plan.open_rates:
        due_s = arrivals(rate_per_s, plan.open_window_s, seed=SEED)
        for target in targets:
            shown.advance(f"{target.name}, {rate_per_s:.0f}/s")
            window = await open_loop(target.call("stream", FAST), due_s)
            await target.settle()
            rows.append(
                OpenRow(
                    target=target.name,
                    arrivals_per_s=rate_per_s,
                    first_ms=distribution(window.first_s, scale=1000),
                    total_ms=distribution(window.total_s, scale=1000),
                    failures=window.failures,
                )
            )
    return rows
