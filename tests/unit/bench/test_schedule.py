"""What is measured when."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bench.schedule import Load, Slot, arrivals, interleave

LOADS = [Load("unary", 1), Load("stream", 32)]
TARGETS = ["relay", "mesh", "peer"]


def test_every_target_is_measured_once_per_load_and_round() -> None:
    slots = list(interleave(3, LOADS, TARGETS))
    wanted = {Slot(n, load, name) for n in range(3) for load in LOADS for name in TARGETS}
    assert len(slots) == len(wanted)
    assert set(slots) == wanted


def test_targets_take_turns_within_a_load() -> None:
    slots = list(interleave(3, LOADS, TARGETS))
    for before, after in itertools.pairwise(slots):
        assert before.target != after.target or before.load != after.load
    for at in range(0, len(slots), len(TARGETS)):
        together = slots[at : at + len(TARGETS)]
        assert len({(slot.round, slot.load) for slot in together}) == 1


def test_each_round_begins_with_another_target() -> None:
    slots = list(interleave(3, LOADS, TARGETS))
    firsts = [next(slot.target for slot in slots if slot.round == n) for n in range(3)]
    assert sorted(firsts) == sorted(TARGETS)


@given(st.floats(1, 500), st.floats(0.1, 20), st.integers(0, 99))
def test_arrivals_are_ascending_within_the_time_and_repeatable(
    rate: float, duration_s: float, seed: int
) -> None:
    times = arrivals(rate, duration_s, seed=seed)
    assert times == sorted(times)
    assert all(0 < at < duration_s for at in times)
    assert times == arrivals(rate, duration_s, seed=seed)


def test_arrivals_come_at_the_rate_asked_for() -> None:
    assert 9_500 < len(arrivals(100.0, 100.0, seed=1)) < 10_500
