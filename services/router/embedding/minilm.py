"""MiniLM in onnxruntime: texts to vectors, blocking, for one worker thread."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from plexus.router.v1 import router_service_pb2 as pb
from services.router.embedding.minilm_graph import HIDDEN, build_graph
from services.router.embedding.queue import Encoded
from services.router.embedding.weights import TOKENIZER, WEIGHTS

MAX_TOKENS = 256
"""The model's window; the rest of a longer text is cut."""

RUN_TOKENS = 1_024
"""Padded tokens in one run: bounds the activations at about 30 MB."""

MAX_CHARACTERS = MAX_TOKENS * 24
"""What the tokenizer is given of a text; 256 tokens of prose end far before."""


class _Encoding(Protocol):
    @property
    def ids(self) -> list[int]: ...


class MiniLm:
    """A loaded model. `encode` holds the interpreter lock only between runs of the model."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        # Imported here: 0.2 s and 40 MB that a mesh with another embedder never pays.
        import numpy
        import onnxruntime
        import tokenizers

        runtime: Any = onnxruntime
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
        self._session: Any = runtime.InferenceSession(
            build_graph(folder / WEIGHTS), options, providers=["CPUExecutionProvider"]
        )
        self._numpy: Any = numpy
        self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Return one vector per text, in order. Texts of like length share a run: less padding."""
        clipped = [text[:MAX_CHARACTERS] for text in texts]
        encodings = cast("list[_Encoding]", self._tokenizer.encode_batch(clipped))
        ids = [encoding.ids for encoding in encodings]
        results: list[Encoded | None] = [None] * len(ids)
        for run in _runs(ids):
            rows = self._run([ids[at] for at in run])
            for at, row in zip(run, rows, strict=True):
                results[at] = Encoded(vector=pb.Vector(values=row), input_tokens=len(ids[at]))
        return cast("list[Encoded]", results)

    def _run(self, ids: Sequence[list[int]]) -> list[list[float]]:
        numpy = self._numpy
        length = max(map(len, ids))
        tokens = numpy.zeros((len(ids), length), dtype=numpy.int64)
        mask = numpy.zeros((len(ids), length), dtype=numpy.int64)
        for row, sequence in enumerate(ids):
            tokens[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        (vectors,) = self._session.run(None, {"input_ids": tokens, "attention_mask": mask})
        return vectors.tolist()


def _runs(ids: Sequence[list[int]]) -> Iterator[list[int]]:
    """Group positions by length so that every group's padded size is bounded."""
    run: list[int] = []
    for at in sorted(range(len(ids)), key=lambda position: len(ids[position])):
        if run and len(ids[at]) * (len(run) + 1) > RUN_TOKENS:
            yield run
            run = []
        run.append(at)
    if run:
        yield run


DIMENSIONS = HIDDEN
"""The length of a vector."""
