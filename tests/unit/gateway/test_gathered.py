"""A run's events as one response: what a reset voids is left out, a failure is raised."""

import pytest

from gateway.edges.gathered import Gathered
from mesh.errors import Reason, Unavailable, to_failure
from plexus.common.v1 import message_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb


async def gathered(*events: pb.ChatResponse) -> pb.CompleteResponse:
    response = Gathered()
    for sequence, event in enumerate(events, 1):
        event.sequence = sequence
        await response.add(event)
    return response.result()


def text(piece: str) -> pb.ChatResponse:
    return pb.ChatResponse(text=piece)


async def test_pieces_of_one_kind_are_joined_in_order() -> None:
    whole = await gathered(
        pb.ChatResponse(started=pb.Started(request_id="r", conversation_id="c")),
        pb.ChatResponse(reasoning="Hm"),
        pb.ChatResponse(reasoning="."),
        text("Hel"),
        pb.ChatResponse(warning=pb.Warning(reason="LATE")),
        text("lo"),
        pb.ChatResponse(tool_call=message_pb2.ToolCall(id="1", name="f")),
        pb.ChatResponse(completed=pb.Completed(model="m", provider="p")),
    )
    message = whole.response.message
    assert [(p.WhichOneof("kind"), p.reasoning or p.text) for p in message.parts] == [
        ("reasoning", "Hm."),
        ("text", "Hello"),
    ]
    assert [call.id for call in message.tool_calls] == ["1"]
    assert (whole.request_id, whole.conversation_id, whole.response.model) == ("r", "c", "m")
    assert [warning.reason for warning in whole.warnings] == ["LATE"]


async def test_what_a_reset_voids_is_left_out() -> None:
    whole = await gathered(
        text("kept "),
        text("void"),
        pb.ChatResponse(tool_call=message_pb2.ToolCall(id="void")),
        pb.ChatResponse(reset=pb.Reset(after_sequence=1)),
        text("new"),
        pb.ChatResponse(completed=pb.Completed()),
    )
    assert [part.text for part in whole.response.message.parts] == ["kept new"]
    assert not whole.response.message.tool_calls


async def test_a_failure_is_raised_as_it_was() -> None:
    error = Unavailable("gone", reason=Reason.STREAM_INTERRUPTED, retry_after_s=1.0)
    with pytest.raises(Unavailable) as raised:
        await gathered(text("half"), pb.ChatResponse(failed=to_failure(error)))
    assert (raised.value.reason, raised.value.retry_after_s) == (error.reason, 1.0)
