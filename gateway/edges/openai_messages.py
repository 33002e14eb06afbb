"""Messages of an OpenAI chat request as messages of the contract. Pure."""

import base64
import binascii
from urllib.parse import unquote_to_bytes

from gateway.edges.json_fields import Fields
from mesh.validation import invalid
from plexus.common.v1 import message_pb2

_ROLES = {
    "system": message_pb2.ROLE_SYSTEM,
    "developer": message_pb2.ROLE_SYSTEM,
    "user": message_pb2.ROLE_USER,
    "assistant": message_pb2.ROLE_ASSISTANT,
    "tool": message_pb2.ROLE_TOOL,
}
_WEB_SCHEMES = ("http://", "https://")
_DEFAULT_MEDIA_TYPE = "text/plain"


def message_of(fields: Fields) -> message_pb2.Message:
    """Return one message; raise InvalidArgument that names the field which is wrong."""
    role = _ROLES.get(fields.required_text("role"))
    if role is None:
        raise invalid(fields.where("role"), f"must be one of {', '.join(_ROLES)}")
    message = message_pb2.Message(role=role, name=fields.text("name"))
    if role == message_pb2.ROLE_ASSISTANT:
        _read_answer(fields, message)
    else:
        message.parts.extend(_content(fields))
        if not message.parts:
            raise invalid(fields.where("content"), "is required")
    if role == message_pb2.ROLE_TOOL:
        message.tool_call_id = fields.required_text("tool_call_id")
    return message


def _read_answer(fields: Fields, message: message_pb2.Message) -> None:
    """Read an earlier answer: what was thought, said, refused and called, in this order."""
    if fields.take("function_call") is not None:
        raise invalid(fields.where("function_call"), "is deprecated; use tool_calls")
    if reasoning := fields.text("reasoning_content"):
        message.parts.append(message_pb2.Part(reasoning=reasoning))
    # An empty string says no more than null, and equal requests should look equal.
    message.parts.extend(
        part for part in _content(fields) if part.text or not part.HasField("text")
    )
    if refusal := fields.text("refusal"):
        message.parts.append(message_pb2.Part(refusal=refusal))
    message.tool_calls.extend(_tool_call(call) for call in fields.children("tool_calls"))
    if not message.parts and not message.tool_calls:
        raise invalid(fields.where("content"), "is required unless there are tool_calls")


def _tool_call(fields: Fields) -> message_pb2.ToolCall:
    if fields.text("type", "function") != "function":
        raise invalid(fields.where("type"), "must be function")
    function = fields.required_child("function")
    return message_pb2.ToolCall(
        id=fields.required_text("id"),
        name=function.required_text("name"),
        arguments_json=function.text("arguments"),
    )


def _content(fields: Fields) -> list[message_pb2.Part]:
    content = fields.take("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [message_pb2.Part(text=content)]
    if not isinstance(content, list):
        raise invalid(fields.where("content"), "must be a string or a list of parts")
    return [_part(part) for part in fields.children("content")]


def _part(fields: Fields) -> message_pb2.Part:
    kind = fields.required_text("type")
    if kind == "text":
        return message_pb2.Part(text=fields.text("text"))
    if kind == "refusal":
        return message_pb2.Part(refusal=fields.text("refusal"))
    if kind == "image_url":
        return message_pb2.Part(image=_image(fields))
    raise invalid(fields.where("type"), "must be text, image_url or refusal; no other is served")


def _image(fields: Fields) -> message_pb2.Image:
    source = fields.required_child("image_url")
    url, detail = source.required_text("url"), source.text("detail")
    if url[:5].lower() == "data:":
        media_type, data = _data_url(url, source.where("url"))
        return message_pb2.Image(data=data, media_type=media_type, detail=detail)
    if not url.lower().startswith(_WEB_SCHEMES):
        raise invalid(source.where("url"), "must start with https://, http:// or data:")
    return message_pb2.Image(url=url, detail=detail)


def _data_url(url: str, path: str) -> tuple[str, bytes]:
    """Return media type and bytes of `data:[type][;base64],payload`."""
    head, comma, payload = url[5:].partition(",")
    if not comma:
        raise invalid(path, "is not a data URL: it has no comma")
    media_type, *options = head.split(";")
    if "base64" not in (option.strip().lower() for option in options):
        return media_type or _DEFAULT_MEDIA_TYPE, unquote_to_bytes(payload)
    try:
        data = base64.b64decode(payload, validate=True)
    except binascii.Error:
        raise invalid(path, "holds bytes that are not base64") from None
    return media_type or _DEFAULT_MEDIA_TYPE, data
