"""How much is measured: the default run, and the quick one."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.schedule import KINDS, Load

STEPS = ("cold", "streams", "paced", "open", "memory", "stalled", "cancels", "footprint")
"""What a run consists of, in this order; `--only` selects."""

QUICK_RATIO_CONCURRENCIES = (1, 32)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Bounds of every step; the default takes about twelve minutes on two cores without peers."""

    steps: Sequence[str] = STEPS
    """Which steps run; `footprint` needs no time of its own."""
    rounds: int = 3
    """How often each load is measured; odd, so that the median is one of them."""
    concurrencies: Sequence[int] = (1, 10, 32, 128)
    """Callers at once in the closed loop."""
    warm_up_s: float = 0.25
    """Before each window, with the same load, not counted."""
    window_s: float = 1.0
    """How long one load is measured in one round."""
    paced_window_s: float = 4.0
    """The same for answers that come at a model's pace; at least a few answers long."""
    open_rates: Sequence[float] = (50.0, 150.0)
    """Arrivals per second of the open loop."""
    open_window_s: float = 4.0
    """How long arrivals go on."""
    memory_points: Sequence[int] = (1_000, 20_000, 100_000)
    """Sizes, ascending, at which one tenant's memory is measured."""
    memory_window_s: float = 2.0
    """How long one kind of memory call is measured at one size."""
    memory_fill_s: float = 150.0
    """How long filling may take in all; larger sizes are left out, and the report says so."""
    cold_starts: int = 3
    """How often each system is started for its cold start."""
    stalled_readers: int = 64
    """Streams that are opened and not read."""
    cancels: int = 100_000
    """Streams that are cancelled after their first piece."""
    cancels_s: float = 90.0
    """How long cancelling may take; the report says how many there were."""

    def loads(self) -> list[Load]:
        """Return the loads of the closed loop."""
        return [Load(kind, c) for kind in KINDS for c in self.concurrencies]


def quick_plan(steps: Sequence[str]) -> Plan:
    """Return a plan of about two minutes: it shows that everything works, and rough ratios."""
    return Plan(
        steps=steps,
        rounds=3,
        concurrencies=QUICK_RATIO_CONCURRENCIES,
        warm_up_s=0.2,
        window_s=0.5,
        paced_window_s=1.5,
        open_rates=(50.0,),
        open_window_s=1.5,
        memory_points=(1_000, 5_000),
        memory_window_s=0.5,
        memory_fill_s=30.0,
        cold_starts=1,
        stalled_readers=16,
        cancels=2_000,
        cancels_s=20.0,
    )
