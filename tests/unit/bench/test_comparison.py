"""Whether a drop of a ratio is seen, and noise is not."""

from typing import Any

import pytest

from bench.comparison import DROP, changes, ratios


def row(target: str, kind: str, concurrency: int, ratio: float | None) -> dict[str, Any]:
    held = None if ratio is None else {"median": ratio, "low": ratio, "high": ratio}
    return {"target": target, "kind": kind, "concurrency": concurrency, "ratio": held}


def test_only_rows_with_a_ratio_and_of_known_targets_count() -> None:
    result = {
        "closed": [
            row("memory", "stream", 1, 0.5),
            row("memory", "stream", 32, None),
            row("litellm", "stream", 1, 0.02),
        ]
    }
    assert ratios(result, targets=["memory"]) == {("memory", "stream", 1): 0.5}


def test_loads_of_one_kind_are_taken_together() -> None:
    before = {("memory", "stream", 1): 0.4, ("memory", "stream", 32): 0.4}
    # One noisy load alone would be a drop of a quarter.
    after = {("memory", "stream", 1): 0.3, ("memory", "stream", 32): 0.42}
    (change,) = changes(before, after)
    assert change.loads == 2
    assert change.drop == pytest.approx(1 - (0.3 * 0.42 / 0.16) ** 0.5)
    assert not change.is_failure


@pytest.mark.parametrize(("after", "fails"), [(0.41, False), (0.39, True), (0.9, False)])
def test_a_drop_beyond_the_limit_fails(after: float, fails: bool) -> None:
    assert pytest.approx(0.20) == DROP
    (change,) = changes({("edge", "unary", 1): 0.5}, {("edge", "unary", 1): after})
    assert change.is_failure is fails


def test_a_target_that_no_longer_answers_fails() -> None:
    (change,) = changes({("hit", "unary", 1): 0.5}, {("hit", "unary", 1): 0.0})
    assert change.is_failure


def test_what_only_one_run_measured_is_not_compared() -> None:
    before = {("memory", "stream", 10): 0.5, ("memory", "stream", 1): 0.5}
    after = {("memory", "stream", 1): 0.5, ("hit", "stream", 1): 0.5}
    (change,) = changes(before, after)
    assert (change.target, change.loads) == ("memory", 1)


def test_kinds_are_apart() -> None:
    before = {("memory", "stream", 1): 0.5, ("memory", "unary", 1): 0.5}
    after = {("memory", "stream", 1): 0.5, ("memory", "unary", 1): 0.1}
    assert [change.is_failure for change in changes(before, after)] == [False, True]
