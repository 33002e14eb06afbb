"""The few ONNX messages that a graph needs, written as protobuf wire bytes.

The `onnx` package would add 18 MB to every install to produce 30 kB once per start, and
a committed binary could not be reviewed. Field numbers are those of onnx.proto, which
ONNX promises never to change.
"""

import struct
from collections.abc import Iterable, Sequence

FLOAT, INT32, INT64 = 1, 6, 7
"""Element types of `TensorProto.DataType`."""

IR_VERSION = 9
"""The oldest model format that carries opset 20."""

_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_INTS = 1, 2, 7
_VARINT, _LENGTH, _FIXED32 = 0, 2, 5
_EXTERNAL = 1

Attribute = int | float | Sequence[int]


def node(
    operator: str,
    inputs: Iterable[str],
    output: str,
    *,
    domain: str = "",
    **attributes: Attribute,
) -> bytes:
    """Encode a NodeProto with one output."""
    return b"".join(
        [
            *(_text(1, name) for name in inputs),
            _text(2, output),
            _text(4, operator),
            *(_message(5, _attribute(name, value)) for name, value in attributes.items()),
            _text(7, domain) if domain else b"",
        ]
    )


def constant(name: str, values: Sequence[int], shape: Sequence[int]) -> bytes:
    """Encode a TensorProto of 64-bit integers held in the graph."""
    raw = struct.pack(f"<{len(values)}q", *values)
    return _tensor_head(name, INT64, shape) + _bytes(9, raw)


def external(name: str, shape: Sequence[int], *, file: str, offset: int, length: int) -> bytes:
    """Encode a TensorProto of floats that lie in `file` at `offset`."""
    entries = {"location": file, "offset": str(offset), "length": str(length)}
    pairs = b"".join(_message(13, _text(1, k) + _text(2, v)) for k, v in entries.items())
    return _tensor_head(name, FLOAT, shape) + pairs + _int(14, _EXTERNAL)


def value(name: str, element: int, shape: Sequence[int | str]) -> bytes:
    """Encode a ValueInfoProto: a graph input or output; named dimensions are free."""
    dims = b"".join(
        _message(1, _text(2, dim) if isinstance(dim, str) else _int(1, dim)) for dim in shape
    )
    return _text(1, name) + _message(2, _message(1, _int(1, element) + _message(2, dims)))


def model(
    *,
    nodes: Iterable[bytes],
    initializers: Iterable[bytes],
    inputs: Iterable[bytes],
    outputs: Iterable[bytes],
    opsets: dict[str, int],
) -> bytes:
    """Encode a ModelProto."""
    graph = b"".join(
        [
            *(_message(1, part) for part in nodes),
            _text(2, "minilm"),
            *(_message(5, part) for part in initializers),
            *(_message(11, part) for part in inputs),
            *(_message(12, part) for part in outputs),
        ]
    )
    versions = (_message(8, _text(1, name) + _int(2, number)) for name, number in opsets.items())
    return b"".join([_int(1, IR_VERSION), _text(2, "plexus"), _message(7, graph), *versions])


def _tensor_head(name: str, element: int, shape: Sequence[int]) -> bytes:
    return b"".join(_int(1, dim) for dim in shape) + _int(2, element) + _text(8, name)


def _attribute(name: str, content: Attribute) -> bytes:
    head = _text(1, name)
    if isinstance(content, float):
        return head + _key(2, _FIXED32) + struct.pack("<f", content) + _int(20, _ATTRIBUTE_FLOAT)
    if isinstance(content, int):
        return head + _int(3, content) + _int(20, _ATTRIBUTE_INT)
    return head + b"".join(_int(8, item) for item in content) + _int(20, _ATTRIBUTE_INTS)


def _message(field: int, content: bytes) -> bytes:
    return _bytes(field, content)


def _text(field: int, content: str) -> bytes:
    return _bytes(field, content.encode())


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, _LENGTH) + _varint(len(content)) + content


def _int(field: int, content: int) -> bytes:
    return _key(field, _VARINT) + _varint(content & 0xFFFF_FFFF_FFFF_FFFF)


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
