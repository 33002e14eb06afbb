"""Generate: stream the answer from the router, or replay it from the cache."""

import grpc.aio

from gateway.clients import Clients
from gateway.settings import GatewaySettings
from gateway.stages.deliver import REASONING, REFUSAL, TEXT
from gateway.turn import TurnInProgress
from mesh.errors import (
    PlexusError,
    Reason,
    ResourceExhausted,
    Unavailable,
    from_rpc_error,
)
from plexus.common.v1 import model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb
from plexus.router.v1 import router_service_pb2 as router_pb


async def generate(
    work: TurnInProgress, clients: Clients, settings: GatewaySettings
) -> model_pb2.ModelResponse:
    """Return the whole answer; its pieces have been delivered by then.

    Cancelling cancels the router's call and with it the provider's. Raises the router's error.
    """
    before_output = work.run.sequence
    started_s = work.clock.monotonic_s()
    request = router_pb.GenerateRequest(
        scope=work.turn.scope, request=work.request, request_id=work.run.id
    )
    call = clients.router.Generate(request)
    finished: router_pb.Finished | None = None
    try:
        async for event in call:
            finished = _handle(work, event, before_output) or finished
            if work.answer.size_bytes > settings.max_answer_bytes:
                raise ResourceExhausted(
                    f"the answer exceeds {settings.max_answer_bytes} bytes",
                    reason=Reason.MESSAGE_TOO_LARGE,
                )
    except grpc.aio.AioRpcError as error:
        raise _router_error(error) from error
    finally:
        call.cancel()
        work.coalescer.flush()
        work.upstream_s += work.clock.monotonic_s() - started_s
    if finished is None:
        raise Unavailable(
            "the router ended the stream without an end", reason=Reason.STREAM_INTERRUPTED
        )
    return _response(work, finished)


def replay(work: TurnInProgress, response: model_pb2.ModelResponse) -> model_pb2.ModelResponse:
    """Deliver a cached answer in its original parts."""
    for part in response.message.parts:
        kind = part.WhichOneof("kind")
        if kind in (TEXT, REASONING, REFUSAL):
            work.coalescer.add(kind, getattr(part, kind))
            work.answer.add(kind, getattr(part, kind))
    work.coalescer.flush()
    for call in response.message.tool_calls:
        work.send(pb.ChatResponse(tool_call=call))
    return response


def _handle(
    work: TurnInProgress, event: router_pb.GenerateResponse, before_output: int
) -> router_pb.Finished | None:
    kind = event.WhichOneof("event")
    if kind in (TEXT, REASONING, REFUSAL):
        piece = getattr(event, kind)
        work.answer.add(kind, piece)
        work.coalescer.add(kind, piece)
    elif kind == "tool_call":
        delta = event.tool_call
        work.answer.add_call(
            delta.index, id=delta.id, name=delta.name, arguments=delta.arguments_json
        )
    elif kind == "attempt":
        _report_attempt(work, event.attempt)
    elif kind == "reset":
        work.coalescer.discard()
        work.answer.clear()
        reset = pb.Reset(after_sequence=before_output, why=event.reset.why)
        work.send(pb.ChatResponse(reset=reset))
    elif kind == "finished":
        return event.finished
    return None


def _report_attempt(work: TurnInProgress, attempt: router_pb.Attempt) -> None:
    if attempt.HasField("failure"):
        # Its usage is known now: what it left of an answer must not be estimated as well.
        work.attempted = None
        if attempt.HasField("usage"):
            work.failed_attempts.append(_booking_of(work, attempt))
    else:
        work.attempted = (attempt.provider, attempt.model)
        work.estimated_input_tokens = attempt.estimated_input_tokens
    if not work.turn.quiet:
        report = pb.Attempt(number=attempt.number, deployment=attempt.deployment, why=attempt.why)
        if attempt.HasField("failure"):
            report.failure.CopyFrom(attempt.failure)
        work.send(pb.ChatResponse(attempt=report))


def _booking_of(work: TurnInProgress, attempt: router_pb.Attempt) -> metrics_pb.UsageEvent:
    return metrics_pb.UsageEvent(
        event_id=f"{work.run.booking_id}.{attempt.number}",
        provider=attempt.provider,
        model=attempt.model,
        usage=attempt.usage,
        outcome=metrics_pb.OUTCOME_FAILED,
        duration_ms=attempt.duration_ms,
    )


def _response(work: TurnInProgress, finished: router_pb.Finished) -> model_pb2.ModelResponse:
    message = work.answer.message()
    for call in message.tool_calls:
        work.send(pb.ChatResponse(tool_call=call))
    return model_pb2.ModelResponse(
        id=finished.id,
        model=finished.model,
        provider=finished.provider,
        message=message,
        finish_reason=finished.finish_reason,
        usage=finished.usage,
    )


def _router_error(error: grpc.aio.AioRpcError) -> PlexusError:
    failure = from_rpc_error(error)
    if failure.reason == Reason.COMPONENT_UNAVAILABLE:
        return Unavailable("the router cannot be reached", reason=Reason.COMPONENT_UNAVAILABLE)
    return failure
