"""Writes a result: JSON for `--check`, a page of tables and a chart for people."""

from pathlib import Path

import orjson

from bench.chart import svg
from bench.report import markdown, shown_labels, table_concurrency
from bench.result import Result


def write(result: Result, folder: Path) -> str:
    """Write result.json, result.md and result.svg, and return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = markdown(result)
    (folder / "result.json").write_bytes(as_json(result))
    (folder / "result.md").write_text(page, encoding="utf-8")
    if result.closed:
        at = table_concurrency(result)
        chart = svg(result, shown_labels(result), concurrency=at)
        (folder / "result.svg").write_text(chart, encoding="utf-8")
    return page


def as_json(result: Result) -> bytes:
    """Return a result as it is kept."""
    return orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
