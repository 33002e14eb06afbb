"""all-MiniLM-L6-v2 as an ONNX graph whose weights stay in the safetensors file.

Six BERT layers, mean pooling over the mask, length normalised to 1. Initializers are
references (file, offset, length), so onnxruntime maps the file and replicas share pages.
The linear layers are `Gemm` with `transB`, because safetensors holds them as
[out, in]; that needs two dimensions, so activations stay [batch x length, hidden].
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from services.router.embedding import onnx_wire as onnx

LAYERS, HIDDEN, HEADS = 6, 384, 12
EPSILON = 1e-12
OPSETS = {"": 20, "com.microsoft": 1}
"""Opset 20 has Gelu; com.microsoft is onnxruntime's own attention kernel."""


def build_graph(weights: Path) -> bytes:
    """Return the model bytes for the weights file, which must lie where the session looks."""
    graph = _Graph()
    rows = _encoder(graph)
    graph.add("Reshape", rows, "hidden_shape", out="hidden")
    _pool(graph)
    return onnx.model(
        nodes=graph.nodes,
        initializers=[*_references(weights, graph.weights), *_CONSTANTS],
        inputs=[
            onnx.value("input_ids", onnx.INT64, ("batch", "length")),
            onnx.value("attention_mask", onnx.INT64, ("batch", "length")),
        ],
        outputs=[onnx.value("embedding", onnx.FLOAT, ("batch", HIDDEN))],
        opsets=OPSETS,
    )


_CONSTANTS = [
    onnx.constant("zero", [0], [1]),
    onnx.constant("one", [1], [1]),
    onnx.constant("two", [2], [1]),
    onnx.constant("last", [-1], [1]),
    onnx.constant("first_row", [0], []),
    onnx.constant("rows_shape", [-1, HIDDEN], [2]),
    onnx.constant("hidden_size", [HIDDEN], [1]),
]


@dataclass
class _Graph:
    """Nodes in order, and the names of the weights they use."""

    nodes: list[bytes] = field(default_factory=list[bytes])
    weights: list[str] = field(default_factory=list[str])

    def add(
        self, operator: str, *inputs: str, out: str, domain: str = "", **attributes: onnx.Attribute
    ) -> str:
        self.nodes.append(onnx.node(operator, inputs, out, domain=domain, **attributes))
        return out

    def weight(self, name: str) -> str:
        self.weights.append(name)
        return name

    def linear(self, rows: str, name: str, *, out: str) -> str:
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("Gemm", rows, weight, bias, out=out, transB=1)

    def normalized(self, rows: str, name: str, *, out: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("LayerNormalization", rows, scale, bias, out=out, axis=-1, epsilon=EPSILON)


def _encoder(graph: _Graph) -> str:
    rows = _embeddings(graph)
    for layer in range(LAYERS):
        rows = _layer(graph, rows, f"encoder.layer.{layer}")
    return rows


def _embeddings(graph: _Graph) -> str:
    add, weight = graph.add, graph.weight
    add("Cast", "attention_mask", out="mask", to=onnx.INT32)
    add("Shape", "input_ids", out="ids_shape")
    add("Slice", "ids_shape", "one", "two", out="length")
    add("Concat", "ids_shape", "hidden_size", out="hidden_shape", axis=0)
    add("Gather", weight("embeddings.word_embeddings.weight"), "input_ids", out="words")
    # Not a Gather over a Range: onnxruntime rewrites that into an invalid Slice.
    positions = weight("embeddings.position_embeddings.weight")
    add("Slice", positions, "zero", "length", "zero", out="positions")
    add("Gather", weight("embeddings.token_type_embeddings.weight"), "first_row", out="type")
    add("Add", "positions", "type", out="offsets")
    add("Add", "words", "offsets", out="summed")
    add("Reshape", "summed", "rows_shape", out="summed_rows")
    return graph.normalized("summed_rows", "embeddings.LayerNorm", out="embedded")


def _layer(graph: _Graph, rows: str, name: str) -> str:
    add = graph.add
    attended = _attention(graph, rows, f"{name}.attention.self")
    graph.linear(attended, f"{name}.attention.output.dense", out=f"{name}.mixed")
    add("Add", f"{name}.mixed", rows, out=f"{name}.residual")
    middle = graph.normalized(
        f"{name}.residual", f"{name}.attention.output.LayerNorm", out=f"{name}.middle"
    )
    graph.linear(middle, f"{name}.intermediate.dense", out=f"{name}.wide")
    add("Gelu", f"{name}.wide", out=f"{name}.active")
    graph.linear(f"{name}.active", f"{name}.output.dense", out=f"{name}.narrow")
    add("Add", f"{name}.narrow", middle, out=f"{name}.sum")
    return graph.normalized(f"{name}.sum", f"{name}.output.LayerNorm", out=f"{name}.rows")


def _attention(graph: _Graph, rows: str, name: str) -> str:
    parts: list[str] = []
    for part in ("query", "key", "value"):
        graph.linear(rows, f"{name}.{part}", out=f"{name}.{part}.rows")
        parts.append(
            graph.add("Reshape", f"{name}.{part}.rows", "hidden_shape", out=f"{name}.{part}.out")
        )
    graph.add(
        "MultiHeadAttention",
        *parts,
        "",
        "mask",
        out=f"{name}.attended",
        domain="com.microsoft",
        num_heads=HEADS,
    )
    return graph.add("Reshape", f"{name}.attended", "rows_shape", out=f"{name}.attended.rows")


def _pool(graph: _Graph) -> None:
    """Mean over the tokens that the mask keeps, then length 1."""
    add = graph.add
    add("Cast", "attention_mask", out="kept", to=onnx.FLOAT)
    add("Unsqueeze", "kept", "last", out="kept_column")
    add("Mul", "hidden", "kept_column", out="kept_hidden")
    add("ReduceSum", "kept_hidden", "one", out="total", keepdims=0)
    add("ReduceSum", "kept", "one", out="count", keepdims=1)
    add("Div", "total", "count", out="mean")
    add("LpNormalization", "mean", out="embedding", axis=-1, p=2)


def _references(weights: Path, names: list[str]) -> list[bytes]:
    header, start = _header(weights)
    references: list[bytes] = []
    for name in names:
        low, high = header[name]["data_offsets"]
        references.append(
            onnx.external(
                name,
                header[name]["shape"],
                file=weights.name,
                offset=start + low,
                length=high - low,
            )
        )
    return references


def _header(weights: Path) -> tuple[Mapping[str, Any], int]:
    """Read the safetensors header; return it and the offset at which the data begins."""
    with weights.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return orjson.loads(file.read(size)), 8 + size
