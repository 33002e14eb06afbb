"""A result as a page of Markdown tables. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.result import ClosedRow, Result
from bench.scenarios import DIRECT, LABELS
from bench.statistics import Distribution, Spread

TABLE_CONCURRENCY = 32
NOTHING = "–"


def markdown(result: Result) -> str:
    """Return the whole page."""
    sections = [
        _head(result),
        _summary(result),
        _closed(result, "stream"),
        _closed(result, "unary"),
        _paced(result),
        _open(result),
        _memory(result),
        _rest(result),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(result: Result) -> str:
    said = result.machine
    packages: Any = said["packages"]
    load: Any = said["load_before"]
    kind = "the default plan" if result.is_whole else "**a partial or quick run: rough figures**"
    lines = [
        "# Benchmark",
        "",
        f"{said['usable_cores']} of {said['cores']} cores, {said['processor']}, "
        f"{said['memory_gib']} GiB, {said['system']}, Python {said['python']}, "
        f"{', '.join(f'{name} {version}' for name, version in packages.items())}. "
        f"Revision {said['revision']}. Load before: {', '.join(map(str, load))}. "
        f"{result.plan.rounds} rounds of {result.plan.window_s} s, interleaved; {kind}; "
        f"took {result.duration_s / 60:.1f} min.",
        "",
        "Ratios are against the bare relay in the same round: median, lowest and highest round.",
    ]
    return "\n".join([*lines, *(f"\n- {note}" for note in result.notes)])


def _summary(result: Result) -> str:
    """The table of one load, as people quote it."""
    if not result.closed:
        return ""
    at = table_concurrency(result)
    rows: list[Sequence[str]] = []
    for name, label in result.labels.items():
        stream = _find(result, name, "stream", at)
        unary = _find(result, name, "unary", at)
        alone = _find(result, name, "stream", min(result.plan.concurrencies))
        rows.append(
            (
                label,
                _rate(stream),
                _rate(unary),
                _ratio(stream.ratio if stream else None),
                _ratio(unary.ratio if unary else None),
                _ms(alone.total_ms.p50) if alone and alone.total_ms.count else NOTHING,
                f"{stream.cpu_ms:.2f}" if stream and stream.cpu_ms else NOTHING,
            )
        )
    head = (
        f"with {at} callers",
        *("streams/s", "unary/s", "stream ratio", "unary ratio"),
        *("p50 ms of a stream at c=1", "CPU ms per stream"),
    )
    return "## At a glance\n\n" + _table(head, rows)


def _closed(result: Result, kind: str) -> str:
    rows = [row for row in result.closed if row.kind == kind and row.rate.median]
    if not rows:
        return ""
    streamed = kind == "stream"
    title = "64-token streams" if streamed else "Unary calls"
    first = ("first text p50", "first text p99") if streamed else ()
    head = ("", "c", "per s", "lowest–highest", "ratio", "p50", "p99", *first, "CPU ms", "failed")
    cells = [
        (
            result.labels.get(row.target, row.target),
            str(row.concurrency),
            f"{row.rate.median:,.0f}",
            f"{row.rate.low:,.0f}–{row.rate.high:,.0f}",
            _ratio(row.ratio),
            *_pair(row.total_ms),
            *(_pair(row.first_ms) if streamed else ()),
            f"{row.cpu_ms:.2f}" if row.cpu_ms else NOTHING,
            str(row.failures),
        )
        for row in rows
    ]
    return f"## {title}, closed loop\n\nTimes in ms.\n\n" + _table(head, cells)


def _paced(result: Result) -> str:
    head = (
        *("", "first text p50", "p99", "added p50", "added p99"),
        *("between deliveries p50", "p99", "whole p50", "failed"),
    )
    cells = [
        (
            result.labels.get(row.target, row.target),
            *_pair(row.first_ms),
            *(
                _added(row.target, value)
                for value in (row.added_first_p50_ms, row.added_first_p99_ms)
            ),
            *_pair(row.gap_ms),
            _ms(row.total_ms.p50),
            str(row.failures),
        )
        for row in result.paced
        if row.total_ms.count
    ]
    if not cells:
        return ""
    load = result.paced[0].load
    return f"## At a model's pace\n\n{load}; times in ms.\n\n" + _table(head, cells)


def _open(result: Result) -> str:
    head = ("", "arrivals/s", "first text p50", "p99", "whole p50", "p99", "failed")
    cells = [
        (
            result.labels.get(row.target, row.target),
            f"{row.arrivals_per_s:.0f}",
            *_pair(row.first_ms),
            *_pair(row.total_ms),
            str(row.failures),
        )
        for row in result.open
    ]
    if not cells:
        return ""
    title = "## Open loop, 64-token streams\n\nTimes in ms, from when a call was due.\n\n"
    return title + _table(head, cells)


def _memory(result: Result) -> str:
    if not result.memory:
        return ""
    fills = [
        (f"{row.points:,}", f"{row.written_per_s:,.0f}", f"{row.embedding_s:.1f}", str(row.pending))
        for row in result.fill
    ]
    cells = [
        (
            f"{row.points:,}",
            row.operation,
            str(row.concurrency),
            f"{row.rate_per_s:,.0f}",
            *_pair(row.total_ms),
            str(row.failures),
        )
        for row in result.memory
    ]
    filled = _table(("points", "written/s", "embedded within s", "not embedded"), fills)
    called = _table(("points", "", "c", "per s", "p50 ms", "p99 ms", "failed"), cells)
    return f"## Memory, over gRPC\n\n{filled}\n\n{called}"


def _rest(result: Result) -> str:
    parts: list[str] = []
    if result.cold:
        rows = [(row.system, f"{row.cold_start_s.median:.2f}") for row in result.cold]
        parts.append("## Cold start\n\n" + _table(("", "s"), rows))
    if result.footprint:
        rows = [
            (row.system, row.process, f"{row.idle_mib:.0f}", f"{row.loaded_mib:.0f}")
            for row in result.footprint
        ]
        parts.append(
            "## Resident memory\n\n" + _table(("system", "process", "idle MiB", "after load"), rows)
        )
    if stalled := result.stalled:
        parts.append(
            f"## Readers that do not read\n\n{stalled.readers} streams of an answer of "
            f"{stalled.answer_bytes:,} bytes: {stalled.bytes_per_reader:,.0f} bytes held for each; "
            f"{stalled.whole_answers} read whole afterwards."
        )
    if cancels := result.cancels:
        parts.append(
            f"## Cancelled streams\n\n{cancels.count:,} at {cancels.cancels_per_s:,.0f}/s: "
            f"{cancels.first_mib:.0f} MiB before, {cancels.last_mib:.0f} MiB after, "
            f"{cancels.bytes_per_cancel:,.0f} bytes per cancel over the second half."
        )
    return "\n\n".join(parts)


def table_concurrency(result: Result) -> int:
    """Return the load that is quoted."""
    known = result.plan.concurrencies
    return TABLE_CONCURRENCY if TABLE_CONCURRENCY in known else max(known)


def _find(result: Result, target: str, kind: str, concurrency: int) -> ClosedRow | None:
    for row in result.closed:
        if (row.target, row.kind, row.concurrency) == (target, kind, concurrency):
            return row
    return None


def _rate(row: ClosedRow | None) -> str:
    return f"{row.rate.median:,.0f}" if row and row.rate.median else NOTHING


def _ratio(ratio: Spread | None) -> str:
    if ratio is None or not ratio.median:
        return NOTHING
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def _added(target: str, value_ms: float | None) -> str:
    return NOTHING if value_ms is None or target == DIRECT else f"{value_ms:+.1f}"


def _pair(times: Distribution) -> tuple[str, str]:
    return (_ms(times.p50), _ms(times.p99)) if times.count else (NOTHING, NOTHING)


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def shown_labels(result: Result) -> Mapping[str, str]:
    """Return the labels of what was measured, ours first, without the caller's own ceiling."""
    ours = {name: label for name, label in LABELS.items() if name in result.labels}
    peers = {name: label for name, label in result.labels.items() if name not in LABELS}
    return {name: label for name, label in {**ours, **peers}.items() if name != DIRECT}
