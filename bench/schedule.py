"""What is measured when. Pure.

Within a round every target runs at one load before the next load comes (A B C, A B C), so that
whatever disturbs the machine for a while disturbs all of them.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["unary", "stream"]
KINDS: tuple[Kind, ...] = ("unary", "stream")


@dataclass(frozen=True, slots=True)
class Load:
    """How a target is driven: what is called, and by how many callers at once."""

    kind: Kind
    concurrency: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One measurement; `round` counts from 0."""

    round: int
    load: Load
    target: str


def interleave(rounds: int, loads: Sequence[Load], targets: Sequence[str]) -> Iterator[Slot]:
    """Yield every measurement once. Each round begins with another target: none is always first."""
    for number in range(rounds):
        first = number % max(1, len(targets))
        for load in loads:
            for target in (*targets[first:], *targets[:first]):
                yield Slot(number, load, target)


def arrivals(rate_per_s: float, duration_s: float, *, seed: int) -> list[float]:
    """Return the seconds at which independent callers arrive, ascending, the same for a seed."""
    chance = random.Random(seed)
    times: list[float] = []
    at_s = chance.expovariate(rate_per_s)
    while at_s < duration_s:
        times.append(at_s)
        at_s += chance.expovariate(rate_per_s)
    return times
