"""Admission: what is accepted is filled in, and what is not is refused by its field."""

import pytest
from google.protobuf import text_format

from gateway.settings import GatewaySettings
from gateway.stages.admit import MAX_MESSAGES, admit
from mesh.errors import InvalidArgument, Reason
from plexus.common.v1 import message_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from tests.unit.gateway.conftest import turn, user

SETTINGS = GatewaySettings(max_turn_bytes=4096)
ASKING = 'request { messages { role: ROLE_USER parts { text: "Hi." } } }'
SYSTEM = 'messages { role: ROLE_SYSTEM parts { text: "Be brief." } }'

BAD = {
    "scope.user_id": f'scope {{ user_id: "{"u" * 129}" }}',
    "scope.conversation_id": f'scope {{ conversation_id: "{"é" * 65}" }}',
    "idempotency_key": f'idempotency_key: "{"k" * 129}"',
    "resume_window_ms": "resume_window_ms: 60001",
    "memory.recall_token_budget": "memory { recall_token_budget: -1 }",
    "cache.max_age_ms": "cache { max_age_ms: -1 }",
    "cache.ttl_ms": "cache { ttl_ms: -1 }",
    "request.messages": f"request {{ {SYSTEM} }}",
    "request.messages[1].role": 'request { messages { parts { text: "x" } } }',
    "request.messages[1].tool_call_id": "request { messages { role: ROLE_TOOL } }",
    "request.messages[1].parts": 'request { messages { role: ROLE_USER parts { text: " " } } }',
    "request.sampling.temperature": "request { sampling { temperature: nan } }",
    "request.sampling.top_p": "request { sampling { top_p: 0 } }",
    "request.sampling.max_output_tokens": "request { sampling { max_output_tokens: 0 } }",
    "request.sampling.stop": "request { sampling { " + 'stop: "x" ' * 17 + "} }",
    "request.model": f'request {{ model: "{"m" * 257}" }}',
}


@pytest.mark.parametrize("field", list(BAD))
def test_a_bad_field_is_refused_by_its_name(field: str) -> None:
    bad = text_format.Parse(ASKING, pb.Turn())
    bad.MergeFrom(text_format.Parse(BAD[field], pb.Turn()))
    with pytest.raises(InvalidArgument) as raised:
        admit(bad, "acme", SETTINGS)
    assert [name for name, _ in raised.value.violations] == [field]


def test_a_turn_is_bounded_in_bytes_and_messages() -> None:
    with pytest.raises(InvalidArgument) as raised:
        admit(turn(user("é" * 2048)), "acme", SETTINGS)
    assert raised.value.reason == Reason.MESSAGE_TOO_LARGE
    with pytest.raises(InvalidArgument):
        admit(turn(*[user("x")] * (MAX_MESSAGES + 1)), "acme", GatewaySettings())


def test_defaults_are_filled_into_a_copy() -> None:
    given = turn()
    admitted = admit(given, "acme", SETTINGS)
    assert (admitted.scope.tenant, admitted.request.model) == ("acme", "default")
    assert given == turn()


def test_pictures_and_tool_results_may_come_last() -> None:
    image = message_pb2.Part(image=message_pb2.Image(url="https://example.com/cat.png"))
    picture = message_pb2.Message(role=message_pb2.ROLE_USER, parts=[image])
    result = message_pb2.Message(role=message_pb2.ROLE_TOOL, tool_call_id="c")
    for last in (picture, result):
        assert admit(turn(last), "acme", SETTINGS).request.messages[-1] == last
