"""Account: book what a turn used, whatever its end, once."""

import grpc.aio

from gateway.clients import Clients
from gateway.outbox import Outbox
from gateway.settings import GatewaySettings
from gateway.turn import TurnInProgress
from mesh import metrics
from mesh.errors import Reason, Unavailable, from_rpc_error
from mesh.tokens import estimate_tokens
from plexus.common.v1 import model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb


async def account(
    work: TurnInProgress,
    outcome: metrics_pb.Outcome,
    clients: Clients,
    outbox: Outbox,
    settings: GatewaySettings,
) -> pb.UsageReport | None:
    """Return the bill. When the ledger cannot be reached the booking goes to the durable outbox,
    the reader is warned, and the bill has no cost. None when nothing was used.
    """
    events = _events(work, outcome)
    if not events:
        return None
    request = metrics_pb.RecordUsageRequest(events=events)
    report = pb.UsageReport(usage=events[0].usage)
    try:
        booked = await clients.metrics.RecordUsage(request, timeout=settings.account_timeout_s)
    except grpc.aio.AioRpcError as rpc_error:
        await outbox.put_usage(work.identity, request)
        error = from_rpc_error(rpc_error)
        why = Unavailable(
            f"the ledger cannot be reached ({error.code.name}); booked in the outbox",
            reason=Reason.LEDGER_UNAVAILABLE,
        )
        work.warn("metrics", why)
        return report
    _add_costs(report, booked)
    return report


def _add_costs(report: pb.UsageReport, booked: metrics_pb.RecordUsageResponse) -> None:
    first = booked.entries[0]
    report.cost.CopyFrom(first.cost)
    if first.HasField("saved"):
        report.saved.CopyFrom(first.saved)
    for entry in booked.entries[1:]:
        # Failed attempts cost too; one unknown price makes the sum unknown.
        if report.cost.HasField("nano_usd") and entry.cost.HasField("nano_usd"):
            report.cost.nano_usd += entry.cost.nano_usd
        else:
            report.cost.ClearField("nano_usd")


def _events(work: TurnInProgress, outcome: metrics_pb.Outcome) -> list[metrics_pb.UsageEvent]:
    main = _main_event(work, outcome)
    events = [main] if main is not None else []
    for event in (*events, *work.failed_attempts):
        event.scope.CopyFrom(work.turn.scope)
        event.operation = "chat"
        event.requested_model = work.turn.request.model
        event.request_id = work.run.id
        event.event_time.FromNanoseconds(work.started_ns)
    return events + work.failed_attempts


def _main_event(work: TurnInProgress, outcome: metrics_pb.Outcome) -> metrics_pb.UsageEvent | None:
    usage = _usage(work)
    if usage is None:
        return None
    response = work.response
    provider, model = work.attempted or ("", "")
    duration_ms = work.elapsed_ms()
    upstream_ms = work.upstream_s * 1000
    metrics.PIPELINE_OVERHEAD.observe(max(0.0, duration_ms - upstream_ms) / 1000)
    return metrics_pb.UsageEvent(
        event_id=work.run.booking_id,
        provider=response.provider if response else provider,
        model=response.model if response else model,
        usage=usage,
        outcome=outcome,
        cached=work.is_hit,
        stages=work.stages,
        time_to_first_token_ms=work.first_text_ms(),
        duration_ms=duration_ms,
        upstream_ms=upstream_ms,
    )


def _usage(work: TurnInProgress) -> model_pb2.Usage | None:
    """Return what was reported, else an estimate of what a broken stream had used."""
    if work.response is not None:
        return work.response.usage
    produced = work.answer.produced()
    if work.attempted is None or not produced:
        return None
    return model_pb2.Usage(
        input_tokens=work.estimated_input_tokens,
        output_tokens=estimate_tokens(produced),
        estimated=True,
    )
