"""What a server reports of its load: calls a second, failures a second, and how busy it is."""

import struct

import pytest

from mesh.load_report import WINDOW_S, LoadReport


def decoded(report: LoadReport) -> dict[int, float]:
    """Return the fields of an OrcaLoadReport by number; all of ours are doubles."""
    fields: dict[int, float] = {}
    for start in range(0, len(report.encoded), 9):
        tag = report.encoded[start]
        assert tag & 7 == 1, "a 64-bit field"
        (fields[tag >> 3],) = struct.unpack_from("<d", report.encoded, start + 1)
    return fields


def serve(
    report: LoadReport, start_s: float, *, calls: int, each_s: float, failed: int = 0
) -> None:
    """Let calls end, evenly, within one window."""
    for number in range(calls + 1):
        now_s = start_s + number * WINDOW_S / calls
        report.record(now_s, each_s, failed=number < failed)


def test_nothing_is_said_before_a_window_is_full() -> None:
    report = LoadReport(limit=100)
    report.record(1.0, 0.1, failed=False)
    assert report.encoded == b""


def test_rate_failures_and_utilisation() -> None:
    report = LoadReport(limit=100)
    serve(report, 1.0, calls=99, each_s=0.01, failed=10)
    fields = decoded(report)
    assert set(fields) == {6, 7, 9}, "rps_fractional, eps, application_utilization"
    assert fields[6] == pytest.approx(100 / WINDOW_S)
    assert fields[7] == pytest.approx(10 / WINDOW_S)
    assert fields[9] == pytest.approx(100 * 0.01 / WINDOW_S / 100)


def test_the_weight_is_one_over_the_mean_duration() -> None:
    fast, slow = LoadReport(limit=512), LoadReport(limit=512)
    serve(fast, 1.0, calls=200, each_s=0.005)
    serve(slow, 1.0, calls=50, each_s=0.020)
    weights = [decoded(each)[6] / decoded(each)[9] for each in (fast, slow)]
    assert weights[0] / weights[1] == pytest.approx(4)


def test_one_bad_window_does_not_decide() -> None:
    report = LoadReport(limit=100)
    serve(report, 1.0, calls=99, each_s=0.01)
    before = decoded(report)[9]
    serve(report, 1.0 + 2 * WINDOW_S, calls=99, each_s=0.03)
    assert before < decoded(report)[9] < 3 * before
