"""The built-in model: it quotes what it was told, says what it is, and never varies."""

import asyncio

import pytest

from plexus.common.v1 import message_pb2, model_pb2
from services.router.extract import Passage, best_sentences, split_sentences, stem
from services.router.failure import FailureKind, UpstreamFailure
from services.router.providers.offline import CLOSING, NO_CONTEXT, NOTED, OfflineProvider, answer
from services.router.providers.provider import UpstreamCall
from services.router.wire.pieces import Event

SYSTEM, USER, ASSISTANT, TOOL = (
    message_pb2.ROLE_SYSTEM,
    message_pb2.ROLE_USER,
    message_pb2.ROLE_ASSISTANT,
    message_pb2.ROLE_TOOL,
)
Turn = tuple[message_pb2.Role, str]


def request(*turns: Turn) -> model_pb2.ModelRequest:
    messages = [
        message_pb2.Message(
            role=role,
            parts=[message_pb2.Part(text=text)],
            tool_call_id="t" if role == TOOL else "",
        )
        for role, text in turns
    ]
    return model_pb2.ModelRequest(messages=messages)


def quoted(*turns: Turn) -> str:
    text = answer(request(*turns))
    assert text.endswith(CLOSING), text
    return text.removesuffix(CLOSING).strip()


TOLD: list[Turn] = [
    (SYSTEM, "You are a helpful assistant. Answer in full sentences."),
    (USER, "Hi! My name is Ada."),
    (ASSISTANT, f"{NOTED}\n\n{CLOSING}"),
    (USER, "I live in Lisbon with two cats called Moss and Fern. I work as a pilot."),
    (ASSISTANT, f"{NOTED}\n\n{CLOSING}"),
]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is my name?", "My name is Ada."),
        ("What's my name", "My name is Ada."),
        ("do you remember my name?", "My name is Ada."),
        ("Where do I live?", "I live in Lisbon with two cats called Moss and Fern."),
        ("What are my cats called?", "I live in Lisbon with two cats called Moss and Fern."),
        ("What do I work as?", "I work as a pilot."),
        ("Tell me where I am living.", "I live in Lisbon with two cats called Moss and Fern."),
    ],
)
def test_a_fact_told_earlier_is_found(question: str, expected: str) -> None:
    assert quoted(*TOLD, (USER, question)) == expected


def test_a_context_block_of_memory_is_quoted_without_its_marks() -> None:
    block = (
        "Relevant memories:\n"
        "- [2026-01-02] user: The project Orion ships on Friday.\n"
        "- Ada likes tea."
    )
    assert quoted((SYSTEM, block), (USER, "When does Orion ship?")) == (
        "The project Orion ships on Friday."
    )


def test_the_newer_of_two_equal_facts_wins() -> None:
    turns = [(USER, "My favourite colour is red."), (USER, "My favourite colour is blue.")]
    assert quoted(*turns, (USER, "What is my favourite colour?")).endswith("blue.")


def test_a_tools_result_is_the_answer_that_was_waited_for() -> None:
    turns = [(USER, "What is the weather in Lisbon?"), (TOOL, "Sunny and 24 degrees.")]
    assert quoted(*turns) == "Sunny and 24 degrees."


def test_a_message_may_hold_its_own_context() -> None:
    assert quoted((USER, "The code is 4711. What is the code?")) == "The code is 4711."


def test_a_statement_is_noted_and_nothing_fitting_is_admitted() -> None:
    assert quoted((USER, "My name is Ada.")) == NOTED
    assert answer(request((USER, "What is the capital of Peru?"))) == NO_CONTEXT
    assert answer(request((SYSTEM, "Be kind."))) == NO_CONTEXT


def test_what_it_says_of_itself_is_never_quoted() -> None:
    turns = [(USER, "Hello there."), (ASSISTANT, NO_CONTEXT)]
    assert answer(request(*turns, (USER, "What is the offline model?"))) == NO_CONTEXT


def test_json_is_given_when_asked_for_and_a_schema_is_refused() -> None:
    asked = request(*TOLD, (USER, "What is my name?"))
    asked.response_format.json_object = True
    assert answer(asked).startswith('{"answer":"My name is Ada.')
    asked.response_format.json_schema = "{}"
    with pytest.raises(UpstreamFailure) as caught:
        asyncio.run(generate(asked))
    assert caught.value.kind is FailureKind.REQUEST_FATAL


async def generate(asked: model_pb2.ModelRequest) -> list[Event]:
    events: list[Event] = []

    async def emit(emitted: list[Event]) -> None:
        events.extend(emitted)

    call = UpstreamCall(request=asked, model="x", estimated_input_tokens=9, idle_timeout_s=1.0)
    await OfflineProvider().generate(call, emit)
    return events


async def test_it_streams_in_pieces_that_join_to_the_answer() -> None:
    asked = request(*TOLD, (USER, "Where do I live?"))
    events = await generate(asked)
    assert len(events) > 4
    assert "".join(event.text for event in events) == answer(asked)
    assert events[-1].finished.finish_reason == model_pb2.FINISH_REASON_STOP
    assert events[-1].finished.usage.output_tokens > 0


async def test_equal_requests_get_equal_answers() -> None:
    asked = request(*TOLD, (USER, "Where do I live?"))
    assert await generate(asked) == await generate(asked)


async def test_limits_are_kept() -> None:
    asked = request(*TOLD, (USER, "Where do I live?"))
    asked.sampling.max_output_tokens = 3
    events = await generate(asked)
    assert "".join(event.text for event in events) == "I live in Li"
    assert events[-1].finished.finish_reason == model_pb2.FINISH_REASON_LENGTH
    asked.sampling.max_output_tokens = 100
    asked.sampling.stop.append(" with")
    events = await generate(asked)
    assert "".join(event.text for event in events) == "I live in Lisbon"
    assert events[-1].finished.finish_reason == model_pb2.FINISH_REASON_STOP


@pytest.mark.parametrize(
    ("one", "other"),
    [("names", "name"), ("cities", "city"), ("living", "lives"), ("worked", "works")],
)
def test_inflections_share_a_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_sentences_are_split_and_at_most_three_are_quoted() -> None:
    assert split_sentences("One. Two!\n\n- Three\n...") == ["One.", "Two!", "Three"]
    passages = [Passage(text=f"The bridge number {at} is red.") for at in range(9)]
    assert len(best_sentences("Which bridge is red?", passages)) == 3
    assert best_sentences("anything", []) == []


def test_a_memory_and_its_source_are_quoted_once() -> None:
    turns = [(SYSTEM, "- The user's name is Ada."), (USER, "My name is Ada.")]
    assert quoted(*turns, (USER, "What is my name?")).count("Ada") == 1
