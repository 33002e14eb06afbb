"""The oracle decides as Kubernetes' own controller does."""

import os

import orjson
import pytest

from tests.autoscaler import kubernetes
from tests.autoscaler.scenarios import COUNT, Draw, Scenario, scenarios

OTHERS = range(10_000, 10_300)
"""Seeds of which there is no record."""


def test_as_kubernetes_once_decided() -> None:
    record = orjson.loads(kubernetes.RECORD.read_bytes())
    asked = scenarios()
    again = "run python -m tests.autoscaler.kubernetes"
    assert kubernetes.fingerprint(asked) == record["scenarios"], f"other scenarios: {again}"
    _agree(asked, record["decisions"])


def test_the_record_is_worth_agreeing_with() -> None:
    """Most of its scenarios move, in both directions."""
    said: list[list[int]] = orjson.loads(kubernetes.RECORD.read_bytes())["decisions"]
    steps = [b - a for course in said for a, b in zip(course, course[1:], strict=False)]
    assert len(said) == COUNT
    assert sum(step > 0 for step in steps) > 250
    assert sum(step < 0 for step in steps) > 250
    assert sum(len(set(course)) > 1 for course in said) > COUNT / 2


@pytest.mark.timeout(kubernetes.BUILD_TIMEOUT_S + kubernetes.RUN_TIMEOUT_S)
def test_as_kubernetes_decides_here() -> None:
    missing = kubernetes.why_not()
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing, pytrace=False)
    if missing:
        pytest.skip(missing)
    kubernetes.build()
    record = orjson.loads(kubernetes.RECORD.read_bytes())
    recorded = scenarios()
    others = [Draw(seed).scenario() for seed in OTHERS]
    said = kubernetes.decisions([*recorded, *others])
    assert said[: len(recorded)] == record["decisions"], "the record is not what it says now"
    _agree([*recorded, *others], said)


def _agree(asked: list[Scenario], said: list[list[int]]) -> None:
    for scenario, decided in zip(asked, said, strict=True):
        assert scenario.oracle_says() == decided, scenario.spec
