"""A run's events as a few lines that are the same at every run."""

from collections import Counter
from collections.abc import Sequence

from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import message_pb2, model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb

PIECES = ("text", "reasoning", "refusal")


def transcript(events: Sequence[pb.ChatResponse]) -> list[str]:
    """Return what happened in order, then the stages, then the warnings.

    How text is cut into events depends on the moment, and so does what stages and warnings, which
    run beside the answer, come between: adjacent pieces are joined, the others listed apart.
    """
    lines: list[str] = []
    stages: list[str] = []
    warnings: Counter[str] = Counter()
    last = ""
    for event in events:
        kind = event.WhichOneof("event") or ""
        if kind == "stage":
            stages.append(
                event.stage.name + (f" ({event.stage.verdict})" * bool(event.stage.verdict))
            )
        elif kind == "warning":
            warnings[f"{event.warning.component} {event.warning.reason}"] += 1
        elif kind in PIECES and kind == last:
            lines[-1] = lines[-1][:-1] + getattr(event, kind) + '"'
        else:
            lines.append(_line(kind, event))
            last = kind
    if stages:
        # Those after the answer run side by side.
        lines.append(f"stages: {', '.join([*stages[:4], *sorted(stages[4:])])}")
    lines += [f"warning: {what}" + f" x{n}" * (n > 1) for what, n in sorted(warnings.items())]
    return lines


def _line(kind: str, event: pb.ChatResponse) -> str:
    match kind:
        case "text" | "reasoning" | "refusal":
            return f'{kind} "{getattr(event, kind)}"'
        case "tool_call":
            call = event.tool_call
            return f"tool_call {call.id} {call.name} {call.arguments_json}"
        case "attempt":
            failed = f" failed: {event.attempt.failure.reason}" * event.attempt.HasField("failure")
            why = f": {event.attempt.why}" * bool(event.attempt.why)
            return f"attempt {event.attempt.number} {event.attempt.deployment}{why}{failed}"
        case "reset":
            return f"reset: {event.reset.why}"
        case "usage":
            return f"usage {usage_line(event.usage.usage, event.usage.cost)}"
        case "completed":
            return _completed(event.completed)
        case "failed":
            return f"failed {event.failed.reason}: {event.failed.message}"
        case _:
            return kind


def _completed(end: pb.Completed) -> str:
    reason = model_pb2.FinishReason.Name(end.finish_reason).removeprefix("FINISH_REASON_")
    verdict = cache_pb.Verdict.Name(end.cache_verdict).removeprefix("VERDICT_")
    by = f"{end.provider}/{end.model}"
    return f"completed {reason} by {by}, cache {verdict}, recalled {end.recalled_count}"


def usage_line(usage: model_pb2.Usage, cost: model_pb2.Cost) -> str:
    """Return a bill in one line; estimates have no figures, they may be tuned."""
    figures = (
        "estimated" if usage.estimated else f"{usage.input_tokens} in {usage.output_tokens} out"
    )
    price = f"{cost.nano_usd} nano-USD" if cost.HasField("nano_usd") else "no price"
    return f"{figures}, {price}"


def ledger_line(entry: metrics_pb.LedgerEntry) -> str:
    """Return a line of the ledger."""
    event = entry.event
    outcome = metrics_pb.Outcome.Name(event.outcome).removeprefix("OUTCOME_")
    cached = ", cached" * event.cached
    return f"{outcome} {event.provider}/{event.model} {usage_line(event.usage, entry.cost)}{cached}"


def said_line(role: message_pb2.Role, text: str) -> str:
    """Return a line of a conversation."""
    return f"{message_pb2.Role.Name(role).removeprefix('ROLE_').lower()}: {text!r}"
