"""What the service asks of an embedder, and the two there are: built in, or an endpoint."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from mesh.call import remaining_s
from mesh.errors import PlexusError, Reason, Unavailable
from plexus.router.v1 import router_service_pb2 as pb
from services.router.embedding.minilm import MiniLm
from services.router.embedding.queue import Encoded
from services.router.embedding.weights import REVISION, find_model, verify
from services.router.failure import UpstreamFailure, to_error
from services.router.providers.openai import OpenAIProvider

ENDPOINT_TIMEOUT_S = 30.0
"""How long an embeddings endpoint may take for one batch."""


class Embedder(Protocol):
    """Turns batches of texts into vectors of length 1."""

    @property
    def model(self) -> str:
        """The model with its revision; vectors of different ones do not mix."""
        ...

    def start(self) -> None:
        """Begin to load in the background."""
        ...

    async def encode(self, texts: Sequence[str]) -> Sequence[Encoded]:
        """Return one vector per text, in order; wait for the model if it still loads."""
        ...

    async def close(self) -> None:
        """Free the model. A batch that runs is finished first."""
        ...


class LocalEmbedder:
    """MiniLM on one worker thread; onnxruntime frees the interpreter lock while it computes."""

    model = REVISION

    def __init__(self, *, threads: int, data_dir: Path) -> None:
        self._threads = threads
        self._data_dir = data_dir
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="minilm")
        self._loading: asyncio.Future[MiniLm] | None = None

    def start(self) -> None:
        """Begin to load. What goes wrong is told to whoever embeds."""
        self._begin()

    async def encode(self, texts: Sequence[str]) -> Sequence[Encoded]:
        model = await asyncio.shield(self._begin())
        return await asyncio.get_running_loop().run_in_executor(self._worker, model.encode, texts)

    async def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)
        # At most one batch is running; a thread left behind would outlive the loop.
        await asyncio.to_thread(self._worker.shutdown)
        self._loading = None

    def _begin(self) -> asyncio.Future[MiniLm]:
        if self._loading is None:
            self._loading = asyncio.get_running_loop().run_in_executor(self._worker, self._load)
            # Told to whoever embeds; until then nobody waits for it.
            self._loading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._loading

    def _load(self) -> MiniLm:
        try:
            folder = find_model()
            verify(folder, self._data_dir)
            return MiniLm(folder, threads=self._threads)
        except PlexusError:
            raise
        except Exception as error:
            raise Unavailable(
                f"the built-in embedding model cannot be loaded ({type(error).__name__}); "
                "run `make install`, or name an endpoint in router.embedding_model",
                reason=Reason.EMBEDDER_UNAVAILABLE,
            ) from error


class EndpointEmbedder:
    """An OpenAI-compatible embeddings endpoint. The provider belongs to someone else."""

    def __init__(self, provider: OpenAIProvider, name: str) -> None:
        self._provider = provider
        self._upstream_model = name.partition("/")[2]
        self.model = name

    def start(self) -> None:
        """There is nothing to load."""

    async def encode(self, texts: Sequence[str]) -> Sequence[Encoded]:
        timeout_s = remaining_s(ENDPOINT_TIMEOUT_S)
        try:
            answer = await self._provider.embed(self._upstream_model, texts, timeout_s=timeout_s)
        except UpstreamFailure as failure:
            raise _unavailable(failure, self.model) from failure
        tokens = -(-answer.input_tokens // len(texts))
        return [
            Encoded(vector=pb.Vector(values=_unit(vector)), input_tokens=tokens)
            for vector in answer.vectors
        ]

    async def close(self) -> None:
        """The provider's owner closes it."""


def _unit(vector: Sequence[float]) -> list[float]:
    length = sum(x * x for x in vector) ** 0.5 or 1.0
    return [x / length for x in vector]


def _unavailable(failure: UpstreamFailure, name: str) -> PlexusError:
    error = to_error(failure, name)
    return Unavailable(
        error.message, reason=Reason.EMBEDDER_UNAVAILABLE, retry_after_s=error.retry_after_s
    )
