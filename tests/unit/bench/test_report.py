"""The page and the chart of a result."""

from xml.etree import ElementTree

from bench.chart import svg
from bench.plan import Plan
from bench.report import markdown, shown_labels, table_concurrency
from bench.result import ClosedRow, Result
from bench.schedule import Kind
from bench.statistics import Distribution, Spread

MACHINE: dict[str, object] = {
    "cores": 2,
    "usable_cores": 2,
    "processor": "a <processor>",
    "memory_gib": 4.0,
    "system": "Linux",
    "python": "3.11",
    "packages": {"grpcio": "1"},
    "revision": "abc",
    "load_before": [0.0, 0.0, 0.0],
}


def row(target: str, kind: Kind, rate: float, *, concurrency: int = 32) -> ClosedRow:
    times = Distribution(count=10, p50=1.5, p99=12.0, maximum=20.0)
    return ClosedRow(
        target=target,
        kind=kind,
        concurrency=concurrency,
        rate=Spread(median=rate, low=rate * 0.9, high=rate * 1.1),
        ratio=Spread(median=rate / 1000, low=0.1, high=0.9) if rate else None,
        total_ms=times,
        first_ms=times,
        cpu_ms=0.5,
        failures=0,
    )


def result() -> Result:
    found = Result(machine=MACHINE, plan=Plan(concurrencies=(1, 32)), is_whole=False)
    found.labels = {"relay": "the relay", "memory": "the mesh", "portkey": "a peer & more"}
    found.closed = [
        row(name, kind, rate, concurrency=c)
        for name, rate in (("relay", 1000.0), ("memory", 600.0))
        for kind in ("unary", "stream")
        for c in (1, 32)
    ]
    found.closed += [row("portkey", "unary", 400.0), row("portkey", "stream", 0.0)]
    found.notes = ["something: not here"]
    return found


def test_the_page_quotes_one_load_and_shows_what_a_target_cannot_do() -> None:
    page = markdown(result())
    quoted = page.split("## At a glance")[1].split("##")[0]
    assert "| the mesh | 600 | 600 | 0.60 (0.10–0.90) |" in quoted
    assert "| a peer & more | – | 400 | – |" in quoted
    assert "with 32 callers" in quoted


def test_the_page_says_what_was_left_out_and_that_a_partial_run_is_rough() -> None:
    page = markdown(result())
    assert "something: not here" in page
    assert "partial or quick run" in page


def test_empty_sections_are_left_out() -> None:
    page = markdown(Result(machine=MACHINE, plan=Plan(), is_whole=True))
    assert "##" not in page


def test_the_chart_is_valid_and_its_bars_are_to_scale() -> None:
    found = result()
    chart = svg(found, shown_labels(found), concurrency=table_concurrency(found))
    root = ElementTree.fromstring(chart)
    space = "{http://www.w3.org/2000/svg}"
    bars = [bar for bar in root.iter(f"{space}rect") if bar.get("class") in ("ours", "ceiling")]
    widths = {bar.get("class"): float(bar.get("width") or 0) for bar in bars}
    assert round(widths["ours"] / widths["ceiling"], 2) == 0.6
    words = [text.text for text in root.iter(f"{space}text")]
    assert "a peer & more" in words
    assert "cannot" in words
    assert "prefers-color-scheme: dark" in chart
