"""What an autoscaler is told, read from a manifest of `autoscaling/v2`, with Kubernetes' defaults.

Metrics are counted in thousandths, as the controller does: a target of `166` is 166000. What our
manifests do not use is refused rather than ignored.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

DEFAULT_TOLERANCE = 0.1
DEFAULT_DOWN_WINDOW_S = 300
DEFAULT_CPU_PERCENT = 80

_SUFFIXES: Mapping[str, Decimal] = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
}
_QUANTITY = re.compile(r"([+-]?[0-9.]+)([a-zA-Z]*)")

Manifest = Mapping[str, Any]


class Select(StrEnum):
    """Which of several policies holds: the one that allows most, least, or no change at all."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


class PolicyKind(StrEnum):
    """What a policy's value counts."""

    PODS = "Pods"
    PERCENT = "Percent"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """At most `value` pods, or per cent of the pods, may change in any `period_s`."""

    kind: PolicyKind
    value: int
    period_s: int


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How fast the number of pods may change in one direction."""

    window_s: int
    policies: tuple[Policy, ...]
    select: Select = Select.MAX
    tolerance: float = DEFAULT_TOLERANCE


UP_DEFAULTS = Rules(
    window_s=0,
    policies=(
        Policy(kind=PolicyKind.PODS, value=4, period_s=15),
        Policy(kind=PolicyKind.PERCENT, value=100, period_s=15),
    ),
)
DOWN_DEFAULTS = Rules(
    window_s=DEFAULT_DOWN_WINDOW_S,
    policies=(Policy(kind=PolicyKind.PERCENT, value=100, period_s=15),),
)


@dataclass(frozen=True, kw_only=True)
class Behavior:
    """The rules of both directions, complete."""

    up: Rules = UP_DEFAULTS
    down: Rules = DOWN_DEFAULTS


@dataclass(frozen=True, kw_only=True)
class CpuTarget:
    """The pods' CPU in per cent of what they request."""

    percent: int


@dataclass(frozen=True, kw_only=True)
class PodsTarget:
    """The average over the pods of a metric that each of them has."""

    metric: str
    milli: int


@dataclass(frozen=True, kw_only=True)
class ExternalTarget:
    """The sum of a metric from elsewhere, divided by the number of pods."""

    metric: str
    milli: int


Target = CpuTarget | PodsTarget | ExternalTarget


@dataclass(frozen=True, kw_only=True)
class Specification:
    """The `spec` of a HorizontalPodAutoscaler."""

    low: int
    high: int
    targets: tuple[Target, ...]
    behavior: Behavior | None
    """None is not the same as the defaults: then older, coarser rules hold."""


def specification_of(spec: Manifest) -> Specification:
    """Read `spec`; raise ValueError where the model has no answer."""
    metrics: Sequence[Manifest] = spec.get("metrics") or ()
    behavior: Manifest | None = spec.get("behavior")
    low = spec.get("minReplicas", 1)
    if low < 1 or low > spec["maxReplicas"]:
        raise ValueError("minReplicas must be at least 1 and at most maxReplicas")
    return Specification(
        low=low,
        high=spec["maxReplicas"],
        targets=tuple(map(_target, metrics)) or (CpuTarget(percent=DEFAULT_CPU_PERCENT),),
        behavior=None if behavior is None else _behavior(behavior),
    )


def _target(metric: Manifest) -> Target:
    match metric:
        case {
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"averageUtilization": int(percent)}},
        }:
            return CpuTarget(percent=percent)
        case {
            "type": "Pods",
            "pods": {"metric": {"name": str(name)}, "target": {"averageValue": value}},
        }:
            return PodsTarget(metric=name, milli=milli(value))
        case {
            "type": "External",
            "external": {"metric": {"name": str(name)}, "target": {"averageValue": value}},
        }:
            return ExternalTarget(metric=name, milli=milli(value))
        case _:
            raise ValueError(f"the model knows no metric like {metric}")


def _behavior(behavior: Manifest) -> Behavior:
    return Behavior(
        up=_rules(behavior.get("scaleUp"), UP_DEFAULTS),
        down=_rules(behavior.get("scaleDown"), DOWN_DEFAULTS),
    )


def _rules(rules: Manifest | None, defaults: Rules) -> Rules:
    """Fill what is missing, field by field; a list of policies replaces the default one."""
    given = rules or {}
    policies: Sequence[Manifest] | None = given.get("policies")
    return Rules(
        window_s=given.get("stabilizationWindowSeconds", defaults.window_s),
        policies=defaults.policies if policies is None else tuple(map(_policy, policies)),
        select=Select(given.get("selectPolicy", defaults.select)),
        tolerance=float(quantity(given.get("tolerance", defaults.tolerance))),
    )


def _policy(policy: Manifest) -> Policy:
    return Policy(
        kind=PolicyKind(policy["type"]), value=policy["value"], period_s=policy["periodSeconds"]
    )


def quantity(value: str | float) -> Decimal:
    """Read a Kubernetes quantity such as `166`, `500m`, `1.5` or `2Gi`."""
    found = _QUANTITY.fullmatch(str(value))
    if found is None or found[2] not in _SUFFIXES:
        raise ValueError(f"not a quantity: {value!r}")
    return Decimal(found[1]) * _SUFFIXES[found[2]]


def milli(value: str | float) -> int:
    """Return a quantity in thousandths, rounded up."""
    return math.ceil(quantity(value) * 1000)
