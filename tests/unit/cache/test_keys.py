"""What makes two requests the same to the cache, and what does not."""

import json
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from plexus.common.v1 import message_pb2, model_pb2
from services.cache.keys import canonical, canonical_json, is_keyable, request_key, tenant_digest

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


KNOWN = (model_pb2.ModelRequest, model_pb2.Sampling, message_pb2.Message, message_pb2.Tool)


def request(text: str = "hello") -> model_pb2.ModelRequest:
    """A request that uses every field once."""
    part = message_pb2.Part(text=text)
    call = message_pb2.ToolCall(id="call-1", name="find", arguments_json='{"a": 1, "b": [2]}')
    return model_pb2.ModelRequest(
        model="default",
        messages=[
            message_pb2.Message(role=message_pb2.ROLE_USER, parts=[part], name="ann"),
            message_pb2.Message(role=message_pb2.ROLE_ASSISTANT, tool_calls=[call]),
            message_pb2.Message(role=message_pb2.ROLE_TOOL, parts=[part], tool_call_id="call-1"),
        ],
        tools=[
            message_pb2.Tool(
                name="find",
                description="finds",
                parameters_json_schema='{"type": "object"}',
                effect=message_pb2.TOOL_EFFECT_READ,
                strict=True,
            )
        ],
        tool_choice="required",
        sampling=model_pb2.Sampling(
            temperature=0.5,
            top_p=0.9,
            max_output_tokens=10,
            stop=["end"],
            seed=7,
            presence_penalty=0.1,
            frequency_penalty=0.2,
        ),
        response_format=model_pb2.ResponseFormat(json_schema='{"name": "x"}'),
        extra_json='{"top_k": 3}',
    )


def leaves(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every set scalar field of a message and of those inside it."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in value if field.is_repeated else [value]:
                yield from leaves(child)
        else:
            yield message, field


def change(owner: Message, field: FieldDescriptor) -> None:
    """Give a scalar field another value."""
    value = getattr(owner, field.name)
    if field.is_repeated:
        value.append("another")
    elif isinstance(value, bool):
        setattr(owner, field.name, not value)
    elif isinstance(value, int | float):
        setattr(owner, field.name, value + 1)
    else:
        setattr(
            owner, field.name, value + type(value)() + ("x" if isinstance(value, str) else b"x")
        )


def test_every_field_of_the_contract_is_in_the_key() -> None:
    base = request()
    key = request_key("acme", base)
    names = [f"{owner.DESCRIPTOR.name}.{field.name}" for owner, field in leaves(base)]
    assert len(set(names)) >= 20, "the sample leaves fields out"
    for position, name in enumerate(names):
        changed = request()
        owner, field = list(leaves(changed))[position]
        change(owner, field)
        assert request_key("acme", changed) != key, f"{name} is not in the key"


def test_the_sample_uses_every_field() -> None:
    used = {field.full_name for _, field in leaves(request())}
    known = {
        field.full_name
        for message in (
            model_pb2.ModelRequest,
            model_pb2.Sampling,
            message_pb2.Message,
            message_pb2.Tool,
        )
        for field in message.DESCRIPTOR.fields
        if field.type != FieldDescriptor.TYPE_MESSAGE
    }
    assert known <= used, "a field was added: decide whether it is in the key, then add it here"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (message_pb2.Part(text="a"), message_pb2.Part(reasoning="a")),
        (message_pb2.Part(text="a"), message_pb2.Part(refusal="a")),
        (
            message_pb2.Part(image=message_pb2.Image(url="a")),
            message_pb2.Part(image=message_pb2.Image(data=b"a")),
        ),
        (
            message_pb2.Part(image=message_pb2.Image(data=b"a", media_type="image/png")),
            message_pb2.Part(image=message_pb2.Image(data=b"a", media_type="image/gif")),
        ),
        (
            message_pb2.Part(image=message_pb2.Image(url="a", detail="low")),
            message_pb2.Part(image=message_pb2.Image(url="a", detail="high")),
        ),
    ],
)
def test_kinds_of_content_are_told_apart(one: message_pb2.Part, other: message_pb2.Part) -> None:
    left, right = (
        model_pb2.ModelRequest(messages=[message_pb2.Message(parts=[part])])
        for part in (one, other)
    )
    assert canonical(left) != canonical(right)


def test_text_in_one_part_is_not_text_in_two() -> None:
    left = model_pb2.ModelRequest(
        messages=[message_pb2.Message(parts=[message_pb2.Part(text="ab")])]
    )
    right = model_pb2.ModelRequest(
        messages=[message_pb2.Message(parts=[message_pb2.Part(text=t) for t in "ab"])]
    )
    assert canonical(left) != canonical(right)


@given(JSON_VALUES)
def test_white_space_and_key_order_do_not_matter(value: object) -> None:
    def reverse(pairs: list[tuple[str, object]]) -> dict[str, object]:
        return dict(reversed(pairs))

    turned = json.loads(json.dumps(value), object_pairs_hook=reverse)
    assert canonical_json(json.dumps(value)) == canonical_json(json.dumps(turned, indent=3))


@given(JSON_VALUES, JSON_VALUES)
def test_different_values_have_different_forms(left: object, right: object) -> None:
    same = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    equal = canonical_json(json.dumps(left)) == canonical_json(json.dumps(right))
    if same:
        assert equal
    elif equal:
        # Only the spelling of numbers may differ then: 1 and 1.0, 0 and -0.0.
        assert left == right


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1", "1.0", True),
        ("100", "1e2", True),
        ("0.10", "0.1", True),
        ("-0.0", "0", True),
        ("12345678901234567890123", "12345678901234567890124", False),
        ("0.1", "0.1000000000000000000000000001", False),
        ("1", '"1"', False),
        ("null", '""', False),
        ("true", '"true"', False),
        ('{"a":1}', '{"a":1,"a":1}', False),
        ("[1]", "[1,1]", False),
        ("{", "[", False),
        ("NaN", '"NaN"', False),
        ("1e400", "1e401", False),
    ],
)
def test_numbers_are_compared_by_their_exact_value(one: str, other: str, same: bool) -> None:
    assert (canonical_json(one) == canonical_json(other)) is same


def test_a_text_that_is_not_json_stands_for_itself() -> None:
    assert canonical_json("not json") == "rnot json"
    assert canonical_json("[" * 100_000) == "r" + "[" * 100_000


@given(st.text(min_size=1), st.text(min_size=1))
def test_tool_call_ids_count_only_by_what_they_link(first: str, second: str) -> None:
    def conversation(one: str, two: str, answered: str) -> model_pb2.ModelRequest:
        calls = [message_pb2.ToolCall(id=each, name="find") for each in (one, two)]
        return model_pb2.ModelRequest(
            messages=[
                message_pb2.Message(tool_calls=calls),
                message_pb2.Message(tool_call_id=answered),
            ]
        )

    if first != second:
        assert canonical(conversation(first, second, second)) == canonical(
            conversation("a", "b", "b")
        )
        assert canonical(conversation(first, second, first)) != canonical(
            conversation("a", "b", "b")
        )


def test_what_is_left_empty_means_its_default() -> None:
    base = request()
    base.tool_choice = ""
    auto = request()
    auto.tool_choice = "auto"
    assert canonical(base) == canonical(auto)
    base.extra_json, auto.extra_json = "", "{ }"
    assert canonical(base) == canonical(auto)
    base.sampling.ClearField("temperature")
    auto.sampling.temperature = 0.0
    assert canonical(base) != canonical(auto), "absent is the provider's choice, not zero"


def test_tenant_and_secret_are_in_every_key() -> None:
    keys = {
        request_key("acme", request()),
        request_key("other", request()),
        request_key("acme", request(), secret="s" * 16),
        request_key("acme", request(), secret="t" * 16),
        request_key("acme", request(), secret="t" * 100),
    }
    assert len(keys) == 5
    assert tenant_digest("acme") != tenant_digest("acme", secret="s" * 16)


def test_without_a_tenant_there_is_no_key() -> None:
    with pytest.raises(ValueError, match="tenant"):
        request_key("", request())
    with pytest.raises(ValueError, match="tenant"):
        tenant_digest("")


def test_the_format_is_pinned() -> None:
    # A change here means that no entry of the version before is found: raise the format's number.
    assert request_key("acme", request()).hex() == (
        "a59ba7ca86e05d6cca28c99a63db65227134c968298c2973d51595fcb742441b"
    )


def test_a_request_with_unknown_fields_has_no_key() -> None:
    known = request()
    assert is_keyable(known)
    newer = model_pb2.ModelRequest.FromString(known.SerializeToString() + b"\xaa\x06\x01x")
    assert not is_keyable(newer)
    inner = message_pb2.Message.FromString(b"\xaa\x06\x01x")
    known.messages.append(inner)
    assert not is_keyable(known)
