"""What holds of the oracle whatever it is told and shown."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.autoscaler.oracle import SYNC_S, Autoscaler, directions
from tests.autoscaler.replicas import NoMetrics, Observation, Pod, Tolerances, replicas_for
from tests.autoscaler.scenarios import Draw
from tests.autoscaler.specification import (
    Behavior,
    ExternalTarget,
    PodsTarget,
    Policy,
    PolicyKind,
    Rules,
    Select,
    Specification,
    specification_of,
)

AIM = PodsTarget(metric="calls", milli=100_000)
EXTERNAL = ExternalTarget(metric="calls", milli=1000)
HIGH = 50
WINDOW_S = 300

policies = st.builds(
    Policy,
    kind=st.sampled_from(PolicyKind),
    value=st.integers(1, 120),
    period_s=st.sampled_from((15, 30, 60)),
)
rules = st.builds(
    Rules,
    window_s=st.sampled_from((0, 30, WINDOW_S)),
    # The controller forgets a change after the longest period of its own direction: let the
    # longest be the same in both.
    policies=st.lists(policies, max_size=2).map(
        lambda some: (*some, Policy(kind=PolicyKind.PODS, value=3, period_s=60))
    ),
    select=st.sampled_from(Select),
)
behaviors = st.builds(Behavior, up=rules, down=rules)
loads = st.lists(st.integers(0, 2 * HIGH), min_size=1, max_size=60)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, dict[str, int], list[Pod]]:
    """As many pods as are asked for; some pending, some silent, and some more that go."""
    current = draw(st.integers(1, 12))
    phases = st.sampled_from(("Running", "Running", "Running", "Pending"))
    pods = [Pod(name=str(at), phase=draw(phases)) for at in range(current)]
    values = {pod.name: draw(st.integers(0, 300_000)) for pod in pods if draw(st.integers(0, 3))}
    going = [Pod(name=f"going-{at}", terminating=True) for at in range(draw(st.integers(0, 2)))]
    values |= {pod.name: 300_000 for pod in going}
    return current, values, [*pods, *going]


def asked(current: int, values: dict[str, int], pods: Sequence[Pod]) -> int:
    seen = Observation(pods=pods, status_replicas=len(pods), pod_metrics={AIM.metric: values})
    return replicas_for(AIM, current, seen, Tolerances(), 0.0)


def known(values: dict[str, int], pods: Sequence[Pod]) -> list[int]:
    """Return the values of those pods that count by themselves."""
    return [
        values[pod.name]
        for pod in pods
        if pod.phase == "Running" and not pod.terminating and pod.name in values
    ]


@given(worlds())
def test_guesses_never_turn_the_direction_round(
    world: tuple[int, dict[str, int], list[Pod]],
) -> None:
    current, values, pods = world
    certain = known(values, pods)
    assume(certain)
    mean = sum(certain) / len(certain)
    if mean > AIM.milli + 1:
        assert asked(current, values, pods) >= current
    if mean < AIM.milli:
        assert asked(current, values, pods) <= current


@given(worlds(), st.data())
def test_more_load_never_asks_for_less(
    world: tuple[int, dict[str, int], list[Pod]], data: st.DataObject
) -> None:
    current, values, pods = world
    assume(known(values, pods))
    more = {name: value + data.draw(st.integers(0, 200_000)) for name, value in values.items()}
    assert asked(current, more, pods) >= asked(current, values, pods)


@given(worlds())
def test_pods_that_go_make_no_difference(
    world: tuple[int, dict[str, int], list[Pod]],
) -> None:
    current, values, pods = world
    assume(known(values, pods))
    staying = [pod for pod in pods if not pod.terminating]
    kept = {pod.name: values[pod.name] for pod in staying if pod.name in values}
    assert asked(current, values, pods) == asked(current, kept, staying)


@given(worlds())
def test_without_a_pod_that_counts_there_is_no_answer(
    world: tuple[int, dict[str, int], list[Pod]],
) -> None:
    current, values, pods = world
    assume(not known(values, pods))
    try:
        asked(current, values, pods)
    except NoMetrics:
        return
    raise AssertionError("it guessed out of nothing")


@given(st.integers(0, 100_000))
def test_bounds_hold_in_every_scenario(seed: int) -> None:
    scenario = Draw(seed).scenario()
    spec = specification_of(scenario.spec)
    assume(scenario.replicas > 0)
    assert all(spec.low <= said <= spec.high for said in scenario.oracle_says())


def course(
    spec: Specification, begin: int, needed: Sequence[int], *, since_s: float = 0.0
) -> list[int]:
    """Return the pods before the first sync and after each, when so many are needed."""
    autoscaler = Autoscaler(spec)
    replicas = [begin]
    for at, load in enumerate(needed):
        seen = Observation(
            pods=[Pod(name=str(number)) for number in range(replicas[-1])],
            status_replicas=replicas[-1],
            external={EXTERNAL.metric: [load * EXTERNAL.milli]},
        )
        replicas.append(autoscaler.sync(since_s + at * SYNC_S, replicas[-1], seen).replicas)
    return replicas


def bounded(behavior: Behavior) -> Specification:
    return Specification(low=1, high=HIGH, targets=(EXTERNAL,), behavior=behavior)


@given(behaviors, st.integers(1, HIGH), loads)
def test_no_policy_is_ever_exceeded(behavior: Behavior, begin: int, needed: list[int]) -> None:
    replicas = course(bounded(behavior), begin, needed)
    for at in range(1, len(replicas)):
        before, after = replicas[at - 1], replicas[at]
        if after > before:
            assert after <= _limit(behavior.up, replicas, at, up=True)
        if after < before:
            assert after >= _limit(behavior.down, replicas, at, up=False)


def _limit(side: Rules, replicas: Sequence[int], at: int, *, up: bool) -> float:
    """Return how far the policies let it go from where it was when their periods began."""
    sign = 1 if up else -1
    changes: list[float] = []
    for policy in side.policies:
        start = replicas[max(0, at - round(policy.period_s / SYNC_S))]
        per_cent = policy.kind is PolicyKind.PERCENT
        changes.append(start * policy.value / 100 if per_cent else policy.value)
        # Up is rounded up; down to the number below.
        changes[-1] = start + sign * changes[-1] + (sign if per_cent else 0)
    assert side.select is not Select.DISABLED, "it moved where it must not"
    widest = max if up == (side.select is Select.MAX) else min
    return widest(changes)


@given(
    st.integers(2, HIGH),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 19)), min_size=1, max_size=4),
    st.data(),
)
def test_a_dip_shorter_than_the_window_takes_no_pod(
    needed: int, dips: list[tuple[int, int]], data: st.DataObject
) -> None:
    loads_seen = [needed]
    for steady, low in dips:
        loads_seen += [needed] * steady
        loads_seen += data.draw(st.lists(st.integers(0, needed), min_size=low, max_size=low))
    replicas = course(bounded(Behavior()), needed, loads_seen)
    assert replicas == [needed] * len(replicas)


@given(st.integers(1, HIGH), st.integers(0, HIGH), behaviors)
def test_a_steady_load_is_never_passed_by(begin: int, needed: int, behavior: Behavior) -> None:
    replicas = course(bounded(behavior), begin, [needed] * 80)
    assert directions(replicas) == 0


@given(behaviors, st.integers(1, HIGH), loads, st.integers(1, 10**6))
def test_only_time_passed_counts(
    behavior: Behavior, begin: int, needed: list[int], since_s: int
) -> None:
    spec = bounded(behavior)
    assert course(spec, begin, needed, since_s=since_s) == course(spec, begin, needed)


@given(
    limit=st.integers(1, 1000),
    share=st.floats(0.0, 1.0),
    demand=st.integers(0, 10_000),
    current=st.integers(1, 10),
    pods=st.data(),
)
def test_a_gauge_that_its_limit_caps_never_asks_for_more(
    limit: int, share: float, demand: int, current: int, pods: st.DataObject
) -> None:
    """From ten elevenths of the limit on; the queue is what tells a full pod from a fuller one."""
    aim = dataclasses.replace(AIM, milli=int(limit * 1000 * (10 + share) / 11) + 1)
    calls = [demand + pods.draw(st.integers(0, limit)) for _ in range(current)]

    def ask(values: Sequence[int]) -> int:
        listed = [Pod(name=str(at)) for at in range(current)]
        metric: dict[str, Any] = {str(at): 1000 * value for at, value in enumerate(values)}
        seen = Observation(pods=listed, status_replicas=current, pod_metrics={aim.metric: metric})
        return replicas_for(aim, current, seen, Tolerances(), 0.0)

    assert ask([min(limit, each) for each in calls]) <= current
    if sum(calls) * 1000 > 1.1 * aim.milli * current + current:
        assert ask(calls) > current
