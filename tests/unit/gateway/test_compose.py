"""Composing: deterministic, within the limit, and never at the client's expense."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.stages.compose import CONTEXT_HEADER, compose, fitting, query_of, text_of
from mesh.tokens import estimate_tokens
from plexus.common.v1 import message_pb2, model_pb2
from plexus.memory.v1 import memory_service_pb2 as memory_pb


def message(role: message_pb2.Role, text: str) -> message_pb2.Message:
    return message_pb2.Message(role=role, parts=[message_pb2.Part(text=text)])


def item(
    text: str,
    reason: memory_pb.RecallReason = memory_pb.RECALL_REASON_RELEVANT,
    role: message_pb2.Role = message_pb2.ROLE_USER,
) -> memory_pb.RecalledItem:
    return memory_pb.RecalledItem(
        memory=memory_pb.Memory(text=text, role=role),
        reason=reason,
        token_count=estimate_tokens(text),
    )


def window(text: str, role: message_pb2.Role) -> memory_pb.RecalledItem:
    return item(text, memory_pb.RECALL_REASON_WINDOW, role)


REQUEST = model_pb2.ModelRequest(
    model="default",
    messages=[
        message(message_pb2.ROLE_SYSTEM, "Be brief."),
        message(message_pb2.ROLE_USER, "What is my name?"),
    ],
)


def composed_of(recalled: memory_pb.RecallResponse, *, token_limit: int) -> model_pb2.ModelRequest:
    return compose(REQUEST, fitting(REQUEST, recalled, token_limit=token_limit))


def lines(composed: model_pb2.ModelRequest) -> list[tuple[int, str]]:
    return [(m.role, text_of(m)) for m in composed.messages]


def test_memories_follow_the_system_messages_and_the_window_precedes_the_question() -> None:
    recalled = memory_pb.RecallResponse(
        items=[
            item("My  name\nis Ada."),
            window("Hello", message_pb2.ROLE_USER),
            window("Hi!", message_pb2.ROLE_ASSISTANT),
        ]
    )
    assert lines(composed_of(recalled, token_limit=1000)) == [
        (message_pb2.ROLE_SYSTEM, "Be brief."),
        (message_pb2.ROLE_SYSTEM, f"{CONTEXT_HEADER}\n- My name is Ada."),
        (message_pb2.ROLE_USER, "Hello"),
        (message_pb2.ROLE_ASSISTANT, "Hi!"),
        (message_pb2.ROLE_USER, "What is my name?"),
    ]


def test_without_memories_the_request_is_unchanged() -> None:
    assert composed_of(memory_pb.RecallResponse(), token_limit=10) == REQUEST


def test_the_oldest_turns_of_the_window_go_first() -> None:
    turns = [window(f"turn number {n}", message_pb2.ROLE_USER) for n in range(10)]
    own = sum(estimate_tokens(text_of(m)) for m in REQUEST.messages)
    limit = own + 2 * turns[0].token_count
    composed = composed_of(memory_pb.RecallResponse(items=turns), token_limit=limit)
    assert [text for _, text in lines(composed)][1:-1] == ["turn number 8", "turn number 9"]


def test_the_query_is_the_last_user_message() -> None:
    assert query_of(REQUEST) == "What is my name?"


ITEMS = st.lists(
    st.builds(
        item,
        st.text(min_size=1, max_size=200),
        st.sampled_from([memory_pb.RECALL_REASON_RELEVANT, memory_pb.RECALL_REASON_WINDOW]),
    ),
    max_size=12,
)


@given(ITEMS, st.integers(min_value=0, max_value=300))
def test_the_clients_messages_survive_whatever_is_recalled(
    items: list[memory_pb.RecalledItem], limit: int
) -> None:
    recalled = memory_pb.RecallResponse(items=items)
    composed = composed_of(recalled, token_limit=limit)
    assert [m for m in composed.messages if m in REQUEST.messages][0] == REQUEST.messages[0]
    assert composed.messages[-1] == REQUEST.messages[-1]
    assert composed == composed_of(recalled, token_limit=limit)
