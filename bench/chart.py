"""A result as an SVG bar chart, for light and dark pages. Pure."""

from collections.abc import Mapping, Sequence
from html import escape

from bench.result import Result
from bench.scenarios import LABELS, RELAY
from bench.schedule import KINDS

WIDTH = 860
LABEL_WIDTH = 318
VALUE_WIDTH = 84
ROW_HEIGHT = 26
BAR_HEIGHT = 16
TOP = 58
GAP = 44
TITLES: Mapping[str, str] = {
    "stream": "64-token streams per second",
    "unary": "unary calls per second",
}

STYLE = """
svg { font: 13px system-ui, sans-serif; }
.page { fill: #ffffff; } .ink { fill: #1f2328; } .soft { fill: #59636e; }
.ours { fill: #1a7f64; } .ceiling { fill: #8c959f; } .peer { fill: #b08500; }
.spread { stroke: #1f2328; stroke-width: 1.5; } .title { font-size: 15px; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; } .ink { fill: #e6edf3; } .soft { fill: #9198a1; }
  .ours { fill: #3fb992; } .ceiling { fill: #6e7681; } .peer { fill: #d4a72c; }
  .spread { stroke: #e6edf3; }
}
"""


def svg(result: Result, labels: Mapping[str, str], *, concurrency: int) -> str:
    """Return the chart of one load: a group of bars for each kind of call."""
    parts: list[str] = []
    y = TOP
    for kind in KINDS[::-1]:
        rows = [
            (name, row.rate.median, row.rate.low, row.rate.high)
            for name in labels
            for row in result.closed
            if (row.target, row.kind, row.concurrency) == (name, kind, concurrency)
        ]
        if not rows:
            continue
        parts.append(_text(16, y, TITLES[kind], "ink title"))
        y += 16
        most = max(high for _, _, _, high in rows) or 1.0
        for name, rate, low, high in rows:
            parts += _bar(y, labels[name], _class(name), (rate, low, high), most)
            y += ROW_HEIGHT
        y += GAP
    height = y - GAP + 16
    said = f"{concurrency} callers, one load process, {result.machine['usable_cores']} cores; "
    said += "the line spans the lowest and the highest round"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(said)}">',
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
            _text(16, 26, said, "soft"),
            *parts,
            "</svg>",
            "",
        ]
    )


def _bar(y: int, label: str, kind: str, figures: Sequence[float], most: float) -> list[str]:
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    rate, low, high = (value / most * room for value in figures)
    middle = y + BAR_HEIGHT / 2
    end = LABEL_WIDTH + max(rate, high) + 8
    value = f"{figures[0]:,.0f}" if figures[0] else "cannot"
    return [
        f'<text class="ink" x="{LABEL_WIDTH - 10}" y="{y + 12}" text-anchor="end">'
        f"{escape(label)}</text>",
        f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{y}" width="{max(rate, 1):.1f}" '
        f'height="{BAR_HEIGHT}" rx="2"/>',
        f'<line class="spread" x1="{LABEL_WIDTH + low:.1f}" x2="{LABEL_WIDTH + high:.1f}" '
        f'y1="{middle}" y2="{middle}"/>',
        _text(end, y + 12, value, "soft"),
    ]


def _class(target: str) -> str:
    if target == RELAY:
        return "ceiling"
    return "ours" if target in LABELS else "peer"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}">{escape(text)}</text>'
