"""Whether the mesh has become slower: the ratios of two runs. Pure.

A ratio is a target's rate over the bare relay's in the same round, so that two runs compare on a
busy machine and on another one. The loads of one target and kind are taken together: single
windows of a quick run vary more than what is to be found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.statistics import geometric_mean

DROP = 0.20
"""The drop that fails."""

Ratios = Mapping[tuple[str, str, int], float]
"""Target, kind and concurrency to the median ratio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How one target's ratio changed for one kind of call."""

    target: str
    kind: str
    loads: int
    before: float
    after: float

    @property
    def drop(self) -> float:
        """The share that was lost; negative for a gain."""
        return 1 - self.after / self.before if self.before else 0.0

    @property
    def is_failure(self) -> bool:
        """Whether too much was lost."""
        return self.drop > DROP


def ratios(result: Mapping[str, Any], *, targets: Sequence[str]) -> Ratios:
    """Return the ratios of a result as it is kept in JSON, of these targets."""
    return {
        (row["target"], row["kind"], row["concurrency"]): row["ratio"]["median"]
        for row in result["closed"]
        if row["ratio"] is not None and row["target"] in targets
    }


def changes(before: Ratios, after: Ratios) -> list[Change]:
    """Return one change per target and kind, over the loads that both runs have measured."""
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for key, ratio in before.items():
        if key in after:
            groups.setdefault(key[:2], []).append((ratio, after[key]))
    return [
        Change(
            target=target,
            kind=kind,
            loads=len(pairs),
            before=geometric_mean([old for old, _ in pairs]),
            after=geometric_mean([new for _, new in pairs]),
        )
        for (target, kind), pairs in groups.items()
    ]
