"""The identity of a request: two requests with equal keys may share an answer.

The canonical form is injective on what decides an answer, and blind to what does not:

- white space, key order and number spelling in JSON texts (schemas, arguments, extra fields),
  but numbers are compared exactly, never as floats; a text that is not JSON, or names a key
  twice, stands for itself;
- the ids of tool calls, which providers draw at random: only which result answers which call
  counts, so ids are numbered in order of appearance;
- `tool_choice` left empty, which with tools means "auto".

Everything else is in, every field of the contract; `is_keyable` refuses a request that carries
fields which this version does not know, since they might decide the answer.
"""

import hashlib
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Final, cast

from plexus.common.v1 import message_pb2, model_pb2

KEY_BYTES: Final = 32
TENANT_BYTES: Final = 16

_KEY_PERSON: Final = b"plexus-key-1"
"""Names the key format: change it with the canonical form, and no old entry is found again."""

_TENANT_PERSON: Final = b"plexus-tenant-1"

_Json = None | bool | str | list["_Json"] | dict[str, "_Json"]


def request_key(tenant: str, request: model_pb2.ModelRequest, *, secret: str = "") -> bytes:
    """Return the key of `request` within `tenant`, which must not be empty. Pure."""
    if not tenant:
        raise ValueError("a key needs a tenant")
    digest = hashlib.blake2b(digest_size=KEY_BYTES, key=_mac_key(secret), person=_KEY_PERSON)
    for field in (tenant.encode(), canonical(request)):
        digest.update(len(field).to_bytes(8, "big"))
        digest.update(field)
    return digest.digest()


def tenant_digest(tenant: str, *, secret: str = "") -> bytes:
    """Return a name for `tenant` of fixed size and without characters that mean something."""
    if not tenant:
        raise ValueError("a name needs a tenant")
    return hashlib.blake2b(
        tenant.encode(), digest_size=TENANT_BYTES, key=_mac_key(secret), person=_TENANT_PERSON
    ).digest()


def is_keyable(request: model_pb2.ModelRequest) -> bool:
    """Whether all that `request` says is known here and so is in its key."""
    known = model_pb2.ModelRequest()
    known.CopyFrom(request)
    known.DiscardUnknownFields()  # pyright: ignore[reportUnknownMemberType]
    return known.ByteSize() == request.ByteSize()


def canonical(request: model_pb2.ModelRequest) -> bytes:
    """Return the canonical form: ASCII JSON with sorted keys. Pure."""
    call_numbers: dict[str, str] = {}
    form: dict[str, _Json] = {
        "model": request.model,
        "messages": [_message(message, call_numbers) for message in request.messages],
        "tools": [_tool(tool) for tool in request.tools],
        "tool_choice": request.tool_choice or ("auto" if request.tools else ""),
        "sampling": _sampling(request.sampling),
        "format": _format(request.response_format),
        "extra": _extra(request.extra_json),
    }
    return json.dumps(form, sort_keys=True, separators=(",", ":")).encode()


def canonical_json(text: str) -> _Json:
    """Return a form of a JSON text in which equal values are equal and different ones differ.

    Strings start with "s" and numbers with "n"; a text that is not JSON is itself behind "r".
    """
    try:
        parsed: object = json.loads(
            text,
            parse_int=_number,
            parse_float=_number,
            parse_constant=_refuse,
            object_pairs_hook=_object,
        )
        return _tagged(parsed)
    except (ValueError, ArithmeticError, RecursionError):
        return "r" + text


class _Number(str):
    """A number in canonical spelling, told from a string by its type."""

    __slots__ = ()


def _number(text: str) -> _Number:
    """Digits without trailing zeros and an exponent: exact, however the number was spelled."""
    sign, digits, exponent = Decimal(text).as_tuple()
    if not isinstance(exponent, int):
        raise ValueError("not a number")
    written = "".join(map(str, digits)).lstrip("0")
    significant = written.rstrip("0")
    if not significant:
        return _Number("0")
    return _Number(
        f"{'-' if sign else ''}{significant}e{exponent + len(written) - len(significant)}"
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice, and parsers differ on what that means")
    return found


def _tagged(value: object) -> _Json:
    match value:
        case _Number():
            return "n" + value
        case str():
            return "s" + value
        case list():
            return [_tagged(item) for item in cast("list[object]", value)]
        case dict():
            pairs = cast("dict[str, object]", value).items()
            return {key: _tagged(item) for key, item in pairs}
        case bool() | None:
            return value
        case _:
            raise ValueError("not JSON")


def _message(message: message_pb2.Message, call_numbers: dict[str, str]) -> _Json:
    def number(call_id: str) -> str:
        return call_numbers.setdefault(call_id, str(len(call_numbers))) if call_id else ""

    return {
        "role": str(message.role),
        "name": message.name,
        "parts": [_part(part) for part in message.parts],
        "calls": [
            [number(call.id), call.name, canonical_json(call.arguments_json)]
            for call in message.tool_calls
        ],
        "answers": number(message.tool_call_id),
    }


def _part(part: message_pb2.Part) -> _Json:
    match part.WhichOneof("kind"):
        case "text":
            return ["text", part.text]
        case "reasoning":
            return ["reasoning", part.reasoning]
        case "refusal":
            return ["refusal", part.refusal]
        case "image":
            return ["image", *_image(part.image)]
        case _:
            return []


def _image(image: message_pb2.Image) -> list[_Json]:
    kind = image.WhichOneof("source")
    source = image.url if kind == "url" else hashlib.blake2b(image.data).hexdigest()
    return [kind, source, image.media_type, image.detail]


def _tool(tool: message_pb2.Tool) -> _Json:
    schema = canonical_json(tool.parameters_json_schema) if tool.parameters_json_schema else ""
    return [tool.name, tool.description, schema, str(tool.effect), str(tool.strict)]


def _sampling(sampling: model_pb2.Sampling) -> _Json:
    """Present fields only: absent leaves the choice to the provider, which is not any value."""
    form: dict[str, _Json] = {"stop": list(sampling.stop)}
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        if sampling.HasField(name):
            form[name] = repr(
                float(getattr(sampling, name)) + 0.0
            )  # adding 0.0 turns -0.0 into 0.0
    for name in ("max_output_tokens", "seed"):
        if sampling.HasField(name):
            form[name] = str(getattr(sampling, name))
    return form


def _format(response_format: model_pb2.ResponseFormat) -> _Json:
    match response_format.WhichOneof("kind"):
        case "json_object":
            return ["json_object"] if response_format.json_object else []
        case "json_schema":
            return ["json_schema", canonical_json(response_format.json_schema)]
        case _:
            return []


def _extra(extra_json: str) -> _Json:
    """An empty object says as much as nothing."""
    form = canonical_json(extra_json) if extra_json else None
    return None if form == {} else form


def _mac_key(secret: str) -> bytes:
    """BLAKE2b takes at most 64 bytes of key; no secret means no key."""
    return hashlib.blake2b(secret.encode()).digest() if secret else b""
