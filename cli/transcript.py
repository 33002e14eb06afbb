"""How a turn looks on the terminal: the answer as it comes, then one quiet line about it."""

from rich.console import Console
from rich.table import Table

from cli.answer import Answer
from cli.console import plain
from cli.figures import cost, count, milliseconds
from plexus.gateway.v1 import gateway_service_pb2 as pb

SHORT_MS = 0.95
"""Stages below this are left out of the summary line; the table has them all."""


class Transcript:
    """Shows one turn. The answer goes to `out`, everything about it to `notes`.

    When `out` is no terminal the answer is written whole: a reset may void what came before.
    """

    def __init__(self, answer: Answer, out: Console, notes: Console, *, verbose: bool) -> None:
        self._answer = answer
        self._out = out
        self._notes = notes
        self._verbose = verbose
        self._streams = out.is_terminal
        self._at_line_start = True

    def show(self, event: pb.ChatResponse) -> None:
        """Show an event that `answer` has taken already."""
        match event.WhichOneof("event"):
            case "text" | "refusal" if self._streams:
                self._write(event.text or event.refusal)
            case "warning":
                self._note(f"! {event.warning.message} ({event.warning.reason})", style="yellow")
            case "reset" if self._streams:
                self._note(f"↺ the answer starts anew: {event.reset.why}", style="yellow")
                self._write(self._answer.text)
            case "tool_call":
                call = event.tool_call
                self._note(f"→ {call.name}({call.arguments_json})", style="magenta")
            case _:
                pass

    def close(self) -> None:
        """Finish the answer and say how it came about."""
        if self._answer.completed is None:
            self._end_line()
            return
        if not self._streams:
            self._write(self._answer.text)
        self._end_line()
        if self._verbose:
            self._notes.print(table(self._answer))
        self._note(summary(self._answer), style="dim")

    def interrupted(self) -> None:
        """Say that the person stopped it."""
        self._note("cancelled", style="dim")

    def _write(self, text: str) -> None:
        shown = plain(text)
        if shown:
            # Not through rich, which would hold back and fold what is to appear as it comes.
            self._out.file.write(shown)
            self._out.file.flush()
            self._at_line_start = shown.endswith("\n")

    def _note(self, text: str, *, style: str) -> None:
        self._end_line()
        # A terminal folds at words; a pipe gets the line whole.
        self._notes.print(plain(text), style=style, soft_wrap=not self._notes.is_terminal)

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._write("\n")


def summary(answer: Answer) -> str:
    """Return the line under an answer: who answered and why, memory, cache, tokens, cost, time."""
    completed = answer.completed or pb.Completed()
    who = "/".join(part for part in (completed.provider, completed.model) if part) or "no model"
    if answer.is_cached:
        who += f" (cache: {answer.cache_words})"
    elif answer.why:
        who += f" ({answer.why})"
    parts = [who, memories(answer)]
    if not answer.is_cached:
        parts.append(f"cache {answer.cache_words}")
    parts += [tokens(answer), price(answer), timing(answer)]
    return " · ".join(part for part in parts if part)


def memories(answer: Answer) -> str:
    """Return how many memories the model was given."""
    recalled = answer.completed.recalled_count if answer.completed else 0
    return count(recalled, "memory") if recalled else "no memories"


def tokens(answer: Answer) -> str:
    """Return the tokens in and out; `~` marks a count of our own."""
    used = answer.usage.usage
    if not used.input_tokens and not used.output_tokens:
        return ""
    about = "~" if used.estimated else ""
    return f"{about}{used.input_tokens:,}→{used.output_tokens:,} tokens"


def price(answer: Answer) -> str:
    """Return what it cost, or what the cache saved."""
    report = answer.usage
    if report.HasField("saved") and report.saved.HasField("nano_usd"):
        return f"saved {cost(report.saved)}" if report.saved.nano_usd else "free"
    return cost(report.cost) if report.HasField("cost") else ""


def saving(answer: Answer) -> str:
    """Return the tokens, and the money where a price is known, that the cache saved; else empty."""
    report = answer.usage
    if not report.HasField("saved"):
        return ""
    money = cost(report.saved) if report.saved.nano_usd else ""
    return ", ".join(part for part in (tokens(answer), money) if part)


def timing(answer: Answer) -> str:
    """Return the whole time and the stages that took most of it."""
    completed = answer.completed or pb.Completed()
    long = [
        f"{stage.name} {milliseconds(stage.duration_ms)}"
        for stage in answer.stages
        if stage.duration_ms >= SHORT_MS
    ]
    whole = milliseconds(completed.duration_ms)
    return f"{whole}: {', '.join(long)}" if long else whole


def table(answer: Answer) -> Table:
    """Return every stage and attempt, and the ids that find the turn again."""
    shown = Table(box=None, pad_edge=False, header_style="dim", row_styles=["dim"])
    shown.add_column("stage")
    shown.add_column("time", justify="right")
    shown.add_column("outcome")
    for stage in answer.stages:
        shown.add_row(stage.name, milliseconds(stage.duration_ms), plain(stage.verdict))
    for attempt in answer.attempts:
        failed = attempt.HasField("failure")
        what = f"failed: {attempt.failure.message}" if failed else attempt.why
        shown.add_row(f"attempt {attempt.number}", "", plain(f"{attempt.deployment}, {what}"))
    shown.add_row("conversation", "", plain(answer.conversation_id))
    shown.add_row("request", "", plain(answer.request_id))
    return shown
