"""`plexus cost`: the ledger's sums, by model, and the latencies of late."""

import asyncio
from typing import Annotated, Any

import orjson
import typer
from google.protobuf import json_format, message
from rich.console import Console
from rich.table import Table

from cli.client import CALL_TIMEOUT_S, KEY_VARIABLE, MeshClient, addresses, explained
from cli.console import output, plain
from cli.figures import cost as cost_words
from cli.figures import count, milliseconds, money
from plexus.metrics.v1 import metrics_service_pb2 as pb

PAGE_SIZE = 500
"""The most entries that one call gives."""


def cost(
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The metrics service; by default as set.")
    ] = "",
    key: Annotated[
        str, typer.Option(envvar=KEY_VARIABLE, help="An API key.", show_default=False)
    ] = "",
    ledger: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=100_000, help="Show the last N entries instead."),
    ] = None,
    window_s: Annotated[
        int, typer.Option(min=60, max=86_400, help="Seconds that the latencies look back.")
    ] = 3600,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What was spent and saved, by model, and how long it took.

    Sums are over the tenant's whole ledger. What has no known price is in no sum, and counted.
    """
    target = address or addresses()["metrics"]
    if ledger is not None:
        _show_ledger(asyncio.run(_entries(target, key, ledger)), as_json)
    else:
        _show_summary(asyncio.run(_summary(target, key, window_s)), as_json)


async def _summary(address: str, key: str, window_s: int) -> pb.GetSummaryResponse:
    async with MeshClient({"metrics": address}, key=key) as client, explained(address):
        return await client.metrics.GetSummary(
            pb.GetSummaryRequest(window_s=window_s),
            timeout=CALL_TIMEOUT_S,
            metadata=client.metadata,
        )


async def _entries(address: str, key: str, wanted: int) -> list[pb.LedgerEntry]:
    """Return the last entries, newest first, page by page."""
    found: list[pb.LedgerEntry] = []
    request = pb.ListLedgerRequest()
    async with MeshClient({"metrics": address}, key=key) as client, explained(address):
        while len(found) < wanted:
            request.page_size = min(PAGE_SIZE, wanted - len(found))
            page = await client.metrics.ListLedger(
                request, timeout=CALL_TIMEOUT_S, metadata=client.metadata
            )
            found += page.entries
            request.page_token = page.next_page_token
            if not request.page_token:
                break
    return found


def _show_summary(summary: pb.GetSummaryResponse, as_json: bool) -> None:
    if as_json:
        _print_json(_plain(summary))
        return
    screen = output()
    screen.print(totals_line(summary.totals))
    if summary.totals.unpriced_count:
        unpriced = count(summary.totals.unpriced_count, "entry")
        screen.print(f"{unpriced} without a known price, in no sum", style="yellow")
    _print_if_rows(screen, models_table(summary.models))
    _print_if_rows(screen, latency_table(summary.latencies))


def _show_ledger(entries: list[pb.LedgerEntry], as_json: bool) -> None:
    if as_json:
        _print_json([_plain(entry) for entry in entries])
    elif entries:
        output().print(ledger_table(entries))
    else:
        output().print("The ledger is empty.")


def totals_line(totals: pb.Totals) -> str:
    """Return the sums in one line."""
    if not totals.event_count:
        return "Nothing booked yet: ask something, for example with `plexus chat`."
    share = totals.cached_count / totals.event_count
    used = totals.usage.input_tokens, totals.usage.output_tokens
    return (
        f"{money(totals.cost_nano_usd)} spent, {money(totals.saved_nano_usd)} saved by the cache; "
        f"{count(totals.event_count, 'answer')}, {share:.0%} of them cached; "
        f"{used[0]:,} tokens in, {used[1]:,} out"
    )


def models_table(models: "list[pb.ModelTotals] | Any") -> Table:
    """Return the sums of each model, in the order given."""
    table = _table("model", "answers", "cached", "tokens in", "out", "cost", "saved")
    for each in models:
        totals = each.totals
        table.add_row(
            plain("/".join(part for part in (each.provider, each.model) if part) or "unknown"),
            f"{totals.event_count:,}",
            f"{totals.cached_count:,}",
            f"{totals.usage.input_tokens:,}",
            f"{totals.usage.output_tokens:,}",
            money(totals.cost_nano_usd),
            money(totals.saved_nano_usd),
        )
    return table


def latency_table(latencies: "list[pb.LatencySummary] | Any") -> Table:
    """Return the percentiles, in the order given."""
    table = _table("latency", "count", "p50", "p95", "p99")
    for each in latencies:
        name = f"{each.kind.replace('_', ' ')} {each.name}".strip()
        percentiles = (each.p50_ms, each.p95_ms, each.p99_ms)
        table.add_row(plain(name), f"{each.count:,}", *map(milliseconds, percentiles))
    return table


def ledger_table(entries: list[pb.LedgerEntry]) -> Table:
    """Return one line per entry."""
    table = _table("when (UTC)", "model", "tokens in", "out", "cost", "saved", "took", "end")
    table.columns[1].justify = "left"
    table.columns[7].justify = "left"
    for entry in entries:
        event = entry.event
        outcome = pb.Outcome.Name(event.outcome).removeprefix("OUTCOME_").lower()
        end = "cached" if event.cached else outcome
        saved = cost_words(entry.saved) if entry.HasField("saved") else ""
        table.add_row(
            event.event_time.ToDatetime().isoformat(sep=" ", timespec="seconds"),
            plain("/".join(part for part in (event.provider, event.model) if part)),
            f"{event.usage.input_tokens:,}",
            f"{event.usage.output_tokens:,}",
            "free" if event.cached else cost_words(entry.cost),
            saved,
            milliseconds(event.duration_ms),
            "completed" if end == "unspecified" else end,
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _print_if_rows(screen: Console, table: Table) -> None:
    if table.row_count:
        screen.print()
        screen.print(table)


def _plain(said: message.Message) -> dict[str, Any]:
    return json_format.MessageToDict(
        said, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _print_json(value: object) -> None:
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
