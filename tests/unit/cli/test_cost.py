"""The tables of `plexus cost`."""

import io

from rich.console import Console
from rich.table import Table

from cli.cost import latency_table, ledger_table, models_table, totals_line
from plexus.common.v1 import model_pb2
from plexus.metrics.v1 import metrics_service_pb2 as pb

TOTALS = pb.Totals(
    event_count=4,
    cached_count=1,
    usage=model_pb2.Usage(input_tokens=12_000, output_tokens=300),
    cost_nano_usd=1_500_000,
    saved_nano_usd=500_000,
)


def shown(table: Table) -> list[list[str]]:
    """Return the table's rows as words."""
    screen = Console(file=io.StringIO(), width=200, color_system=None)
    screen.print(table)
    assert isinstance(screen.file, io.StringIO)
    return [line.split() for line in screen.file.getvalue().splitlines()]


def test_the_totals_are_one_sentence() -> None:
    assert totals_line(TOTALS) == (
        "$0.0015 spent, $0.0005 saved by the cache; 4 answers, 25% of them cached; "
        "12,000 tokens in, 300 out"
    )


def test_an_empty_ledger_says_what_to_do() -> None:
    assert "plexus chat" in totals_line(pb.Totals())


def test_models_have_a_row_each_in_the_order_given() -> None:
    models = [
        pb.ModelTotals(provider="openai", model="gpt", totals=TOTALS),
        pb.ModelTotals(provider="offline", model="extractive", totals=pb.Totals(event_count=1)),
    ]
    _, first, second = shown(models_table(models))
    assert first == ["openai/gpt", "4", "1", "12,000", "300", "$0.0015", "$0.0005"]
    assert second[0] == "offline/extractive"


def test_latencies_have_their_percentiles() -> None:
    row = pb.LatencySummary(
        kind="time_to_first_token", name="gpt", count=7, p50_ms=3.14, p95_ms=20, p99_ms=30_000
    )
    _, line = shown(latency_table([row]))
    assert line == [
        "time",
        "to",
        "first",
        "token",
        "gpt",
        "7",
        "3.1",
        "ms",
        "20",
        "ms",
        "30.0",
        "s",
    ]


def test_a_ledger_entry_says_how_it_ended_and_a_price_that_is_unknown() -> None:
    cancelled = pb.LedgerEntry(
        event=pb.UsageEvent(provider="p", model="m", outcome=pb.OUTCOME_CANCELLED)
    )
    cached = pb.LedgerEntry(
        event=pb.UsageEvent(model="m", cached=True, outcome=pb.OUTCOME_COMPLETED),
        saved=model_pb2.Cost(nano_usd=2_000_000),
    )
    _, first, second = shown(ledger_table([cancelled, cached]))
    assert first[2] == "p/m"
    assert "price unknown" in " ".join(first)
    assert first[-1] == "cancelled"
    assert "$0.002" in second
    assert second[-1] == "cached"
