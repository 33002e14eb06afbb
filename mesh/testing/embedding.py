"""An embedder that needs no model: texts that share words get vectors that point the same way."""

import asyncio
import hashlib
import math
from typing import Any

import grpc.aio

from mesh.errors import InvalidArgument, Unavailable
from plexus.router.v1 import router_service_pb2 as pb
from plexus.router.v1 import router_service_pb2_grpc


def hashed_vector(text: str, dimensions: int) -> list[float]:
    """Return the text's words hashed into a vector of length 1; the same text, the same vector."""
    vector = [0.0] * dimensions
    for word in text.lower().split():
        digest = hashlib.blake2b(word.strip(".,;:!?").encode(), digest_size=8).digest()
        vector[int.from_bytes(digest[:4], "big") % dimensions] += 1.0 if digest[4] & 1 else -1.0
    length = math.sqrt(sum(each * each for each in vector))
    return [each / length for each in vector] if length else [1.0, *vector[1:]]


class HashingRouter(router_service_pb2_grpc.RouterServiceServicer):
    """A RouterService that only embeds, with the faults a test sets."""

    def __init__(self, *, dimensions: int = 384, model: str = "hashing@1") -> None:
        self.dimensions = dimensions
        self.model = model
        self.is_down = False
        """While true every call fails with UNAVAILABLE."""
        self.refused_texts: set[str] = set()
        """Texts that make a call fail with INVALID_ARGUMENT."""
        self.answering = asyncio.Event()
        """While clear, calls wait; set at first."""
        self.answering.set()
        self.calls: list[list[str]] = []
        """The texts of each call, in order of arrival."""

    async def Embed(
        self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EmbedResponse:
        self.calls.append(list(request.texts))
        await self.answering.wait()
        if self.is_down:
            raise Unavailable("the double is down")
        if self.refused_texts & set(request.texts):
            raise InvalidArgument("the double refuses this text")
        vectors = [pb.Vector(values=hashed_vector(t, self.dimensions)) for t in request.texts]
        return pb.EmbedResponse(vectors=vectors, model=self.model, dimensions=self.dimensions)
