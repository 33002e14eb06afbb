"""The documented rules of horizontal pod autoscaling, one worked example each."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.autoscaler.oracle import SYNC_S, Autoscaler
from tests.autoscaler.replicas import CpuSample, Observation, Pod
from tests.autoscaler.specification import (
    DOWN_DEFAULTS,
    UP_DEFAULTS,
    Behavior,
    CpuTarget,
    ExternalTarget,
    PodsTarget,
    Policy,
    PolicyKind,
    Rules,
    Select,
    Specification,
    Target,
    milli,
    specification_of,
)

NOW_S = 10_000.0
AIM = PodsTarget(metric="calls", milli=160_000)
CPU = CpuTarget(percent=50)
FREE = Rules(window_s=0, policies=(Policy(kind=PolicyKind.PODS, value=1000, period_s=15),))


def spec(
    *targets: Target, low: int = 1, high: int = 100, behavior: Behavior | None = None
) -> Specification:
    """Return a specification that follows at once unless rules are given."""
    free = Behavior(up=FREE, down=FREE)
    return Specification(low=low, high=high, targets=targets, behavior=behavior or free)


def pods(count: int, **fields: Any) -> list[Pod]:
    return [Pod(name=str(at), **fields) for at in range(count)]


def seeing(listed: Sequence[Pod], *values: int) -> Observation:
    """The pods, the first of which have these values."""
    names = [pod.name for pod in listed]
    calls = {name: 1000 * value for name, value in zip(names, values, strict=False)}
    return Observation(pods=listed, status_replicas=len(listed), pod_metrics={"calls": calls})


def seeing_cpu(listed: Sequence[Pod], *used: int) -> Observation:
    """The pods, the first of which used these thousandths of a core up to now."""
    names = [pod.name for pod in listed]
    samples = {n: CpuSample(milli=m, taken_s=NOW_S) for n, m in zip(names, used, strict=False)}
    return Observation(pods=listed, status_replicas=len(listed), cpu=samples)


GONE = Pod(name="gone", terminating=True)
FAILED = Pod(name="failed", phase="Failed")
PENDING = [Pod(name=f"p{at}", phase="Pending", ready=False) for at in range(2)]
UNREADY = Pod(name="unready", ready=False)
STARTING = Pod(name="starting", started_s=NOW_S - 20, readiness_s=NOW_S - 10)
NEVER_READY = Pod(name="stuck", ready=False, started_s=NOW_S - 900, readiness_s=NOW_S - 880)

CALCULATED: dict[str, tuple[Target, int, Observation, int]] = {
    "twice the target is twice the pods": (AIM, 3, seeing(pods(3), 320, 320, 320), 6),
    "half the target is half the pods": (AIM, 4, seeing(pods(4), 80, 80, 80, 80), 2),
    "a part of a pod is a pod": (AIM, 2, seeing(pods(2), 200, 200), 3),
    "the average counts, not the fullest": (AIM, 2, seeing(pods(2), 310, 10), 2),
    "a tenth too much is left alone": (AIM, 4, seeing(pods(4), 176, 176, 176, 176), 4),
    "a tenth too little as well": (AIM, 4, seeing(pods(4), 144, 144, 144, 144), 4),
    "a silent pod is at its target on the way down": (AIM, 4, seeing(pods(4), 80, 80, 80), 3),
    "a silent pod is idle on the way up": (AIM, 3, seeing(pods(3), 320, 320), 4),
    "a silent pod does not turn up into down": (AIM, 2, seeing(pods(2), 240), 2),
    "a pending pod is idle on the way up": (AIM, 4, seeing([*pods(2), *PENDING], 400, 400), 5),
    "pending pods may be all that is needed": (AIM, 4, seeing([*pods(2), *PENDING], 320, 320), 4),
    "pending pods do not count on the way down": (AIM, 4, seeing([*pods(2), *PENDING], 80, 80), 1),
    "a pod that goes is left out": (AIM, 2, seeing([*pods(2), GONE], 160, 160, 900), 2),
    "a failed pod is left out": (AIM, 2, seeing([*pods(2), FAILED], 160, 160, 0), 2),
    "an unready pod's own metric counts": (AIM, 2, seeing([*pods(1), UNREADY], 320, 320), 4),
    "CPU is in per cent of the request": (CPU, 2, seeing_cpu(pods(2), 1000, 1000), 4),
    "a larger request is a smaller share": (
        CPU,
        2,
        seeing_cpu(pods(2, cpu_request_milli=2000), 1000, 1000),
        2,
    ),
    "the CPU of a start is no load": (CPU, 2, seeing_cpu([*pods(1), STARTING], 500, 1000), 2),
    "nor that of a pod that was never ready": (
        CPU,
        2,
        seeing_cpu([*pods(1), NEVER_READY], 500, 1000),
        2,
    ),
    "a silent pod uses its whole request on the way down": (
        CPU,
        4,
        seeing_cpu(pods(4), 100, 100, 100),
        3,
    ),
    "an external sum is divided by what a pod may have": (
        ExternalTarget(metric="calls", milli=160_000),
        2,
        Observation(pods=pods(2), status_replicas=2, external={"calls": [400_000, 300_000]}),
        5,
    ),
}


@pytest.mark.parametrize("case", CALCULATED)
def test_what_a_metric_asks_for(case: str) -> None:
    target, current, seen, asked = CALCULATED[case]
    decision = Autoscaler(spec(target)).sync(NOW_S, current, seen)
    assert (decision.asked, decision.replicas) == (asked, asked)


def test_the_metric_that_asks_for_most_decides() -> None:
    both = Observation(
        pods=pods(2),
        status_replicas=2,
        cpu=seeing_cpu(pods(2), 100, 100).cpu,
        pod_metrics=seeing(pods(2), 320, 320).pod_metrics,
    )
    assert Autoscaler(spec(CPU, AIM)).sync(NOW_S, 2, both).replicas == 4


@pytest.mark.parametrize(("calls", "replicas"), [(320, 8), (80, 4)])
def test_while_a_metric_is_silent_the_others_only_add(calls: int, replicas: int) -> None:
    seen = seeing(pods(4), *[calls] * 4)
    decision = Autoscaler(spec(CPU, AIM)).sync(NOW_S, 4, seen)
    assert (decision.replicas, decision.silent) == (replicas, (CPU,))


def test_without_any_metric_nothing_changes() -> None:
    decision = Autoscaler(spec(CPU, AIM)).sync(NOW_S, 4, seeing(pods(4)))
    assert (decision.replicas, decision.asked) == (4, None)


@pytest.mark.parametrize(("current", "replicas"), [(1, 2), (9, 6), (0, 0)])
def test_bounds_hold_without_looking_and_zero_is_off(current: int, replicas: int) -> None:
    decision = Autoscaler(spec(AIM, low=2, high=6)).sync(NOW_S, current, seeing([]))
    assert decision.replicas == replicas


def course(
    behavior: Behavior | None, begin: int, asked: Callable[[float], int], syncs: int, high: int
) -> list[int]:
    """Return the pods after each sync, when `asked` says how many would be right at a time."""
    target = ExternalTarget(metric="calls", milli=1000)
    specification = Specification(low=1, high=high, targets=(target,), behavior=behavior)
    autoscaler = Autoscaler(specification)
    replicas, said = begin, [begin]
    for at in range(syncs):
        now_s = at * SYNC_S
        seen = Observation(
            pods=pods(replicas),
            status_replicas=replicas,
            external={"calls": [1000 * asked(now_s)]},
        )
        replicas = autoscaler.sync(now_s, replicas, seen).replicas
        said.append(replicas)
    return said


def rules(*policies: tuple[PolicyKind, int, int], select: Select = Select.MAX) -> Rules:
    return Rules(
        window_s=0,
        policies=tuple(Policy(kind=k, value=v, period_s=s) for k, v, s in policies),
        select=select,
    )


PODS, PERCENT = PolicyKind.PODS, PolicyKind.PERCENT
QUICK_DOWN = rules((PERCENT, 100, 15))
QUICK_UP = rules((PERCENT, 100_000, 15))

SPEEDS: dict[str, tuple[Behavior | None, int, int, list[int]]] = {
    "by default: double, or four more": (Behavior(), 1, 30, [1, 5, 10, 20, 30]),
    "without rules: double, or four": (None, 1, 30, [1, 4, 8, 16, 30]),
    "tenfold a minute": (
        Behavior(up=rules((PERCENT, 900, 60))),
        1,
        500,
        [1, 10, 10, 10, 10, 100, 100],
    ),
    "two pods a minute": (
        Behavior(down=rules((PODS, 2, 60))),
        9,
        1,
        [9, 7, 7, 7, 7, 5, 5, 5, 5, 3],
    ),
    "a tenth or one, the greater change": (
        Behavior(down=rules((PERCENT, 10, 15), (PODS, 1, 15))),
        30,
        1,
        [30, 27, 24, 21, 18, 16, 14, 12, 10, 9, 8],
    ),
    "a tenth or four, the lesser change": (
        Behavior(down=rules((PERCENT, 10, 15), (PODS, 4, 15), select=Select.MIN)),
        60,
        1,
        [60, 56, 52, 48, 44, 40, 36, 32, 28],
    ),
    "never down": (
        Behavior(down=rules((PODS, 9, 15), select=Select.DISABLED)),
        9,
        1,
        [9, 9, 9, 9],
    ),
    "never up": (Behavior(up=rules((PODS, 9, 15), select=Select.DISABLED)), 2, 9, [2, 2, 2]),
}


@pytest.mark.parametrize("case", SPEEDS)
def test_how_fast_the_pods_follow(case: str) -> None:
    behavior, begin, asked, expected = SPEEDS[case]
    if behavior and behavior.down is DOWN_DEFAULTS:
        behavior = Behavior(up=behavior.up, down=QUICK_DOWN)
    assert course(behavior, begin, lambda _: asked, len(expected) - 1, 500) == expected


def test_up_waits_for_the_least_of_its_window_and_down_for_the_most() -> None:
    up = Behavior(up=Rules(window_s=60, policies=QUICK_UP.policies), down=QUICK_DOWN)
    dip_s = 90.0
    said = course(up, 2, lambda s: 4 if s == dip_s else 9, 12, 100)
    # The window forgets the two pods it began with at 60 s, and the dip a minute after it.
    assert said == [2, 2, 2, 2, 2, 9, 9, 4, 4, 4, 4, 9, 9]
    down = Behavior(up=QUICK_UP, down=Rules(window_s=60, policies=QUICK_DOWN.policies))
    said = course(down, 9, lambda s: 6 if s == dip_s else 2, 12, 100)
    assert said == [9, 9, 9, 9, 9, 2, 2, 6, 6, 6, 6, 2, 2]


def test_a_manifest_is_completed_by_the_defaults() -> None:
    bare = specification_of({"maxReplicas": 3})
    assert bare == Specification(low=1, high=3, targets=(CpuTarget(percent=80),), behavior=None)
    some = specification_of({"maxReplicas": 3, "behavior": {"scaleUp": {"tolerance": "0.05"}}})
    assert some.behavior is not None
    assert some.behavior.up.tolerance == 0.05
    assert some.behavior.up.policies == UP_DEFAULTS.policies
    assert some.behavior.down == DOWN_DEFAULTS


def test_what_the_model_does_not_know_is_refused() -> None:
    memory = {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 80}}
    metric = {"type": "Resource", "resource": memory}
    with pytest.raises(ValueError, match="knows no metric"):
        specification_of({"maxReplicas": 3, "metrics": [metric]})
    with pytest.raises(ValueError, match="minReplicas"):
        specification_of({"minReplicas": 0, "maxReplicas": 3})


@pytest.mark.parametrize(
    ("text", "thousandths"),
    [("166", 166_000), (5, 5000), ("1500m", 1500), ("0.5", 500), ("2k", 2_000_000), ("1u", 1)],
)
def test_quantities(text: str | int, thousandths: int) -> None:
    assert milli(text) == thousandths


@pytest.mark.parametrize("text", ["", "1x", "m"])
def test_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        milli(text)
