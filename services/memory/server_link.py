"""One gRPC connection to Qdrant: bounded calls, a breaker, errors in our words, the schema."""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

from mesh.breaker import Breaker
from mesh.call import remaining_s
from mesh.clock import Clock
from mesh.errors import (
    FailedPrecondition,
    Internal,
    PlexusError,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from mesh.logs import Log
from services.memory import payload as fields
from services.memory.qdrant_protos import (
    collections_pb2,
    collections_service_pb2_grpc,
    points_pb2,
    points_service_pb2_grpc,
    qdrant_pb2,
)

MIN_VERSION = (1, 17)
"""The first with weighted fusion and conditional updates."""
TENANT_IDF_VERSION = (1, 19)
"""The first that weighs words within the tenant alone."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
RETRY_AFTER_S = 0.05
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

log = Log("memory.qdrant")

_INDEX_PARAMS: dict[fields.IndexKind, tuple[Any, collections_pb2.PayloadIndexParams]] = {
    "tenant": (
        points_pb2.FieldTypeKeyword,
        collections_pb2.PayloadIndexParams(
            keyword_index_params=collections_pb2.KeywordIndexParams(is_tenant=True)
        ),
    ),
    "keyword": (
        points_pb2.FieldTypeKeyword,
        collections_pb2.PayloadIndexParams(
            keyword_index_params=collections_pb2.KeywordIndexParams()
        ),
    ),
    "match": (
        points_pb2.FieldTypeInteger,
        collections_pb2.PayloadIndexParams(
            integer_index_params=collections_pb2.IntegerIndexParams(lookup=True, range=False)
        ),
    ),
    "range": (
        points_pb2.FieldTypeInteger,
        collections_pb2.PayloadIndexParams(
            integer_index_params=collections_pb2.IntegerIndexParams(lookup=False, range=True)
        ),
    ),
    "order": (
        points_pb2.FieldTypeInteger,
        collections_pb2.PayloadIndexParams(
            integer_index_params=collections_pb2.IntegerIndexParams(
                lookup=False, range=True, is_principal=True
            )
        ),
    ),
    "number": (
        points_pb2.FieldTypeFloat,
        collections_pb2.PayloadIndexParams(float_index_params=collections_pb2.FloatIndexParams()),
    ),
}


class ServerLink:
    """Calls to one Qdrant. Belongs to one event loop."""

    def __init__(
        self, url: str, *, clock: Clock, api_key: str, call_timeout_ms: int, max_in_flight: int
    ) -> None:
        self._url = url
        self._api_key = api_key
        self._call_timeout_s = call_timeout_ms / 1000
        self._max_in_flight = max_in_flight
        self._breaker = Breaker(clock, failure_threshold=5, open_s=1.0)
        self._channel: grpc.aio.Channel | None = None
        self.points: Any = None
        self.calls = self.failures = self.in_flight = 0
        self.has_tenant_idf = False

    @property
    def is_open(self) -> bool:
        """Whether `open` succeeded and `close` was not called."""
        return self.points is not None

    async def open(self, collection: str, *, dimensions: int) -> None:
        """Connect, check the server's version and make the schema where it is missing."""
        channel = self._channel = _channel(self._url, self._api_key)
        self._check_version(await self._greet(channel))
        collections: Any = collections_service_pb2_grpc.CollectionsStub(channel)
        points: Any = points_service_pb2_grpc.PointsStub(channel)
        await self._make_collection(collections, collection, dimensions)
        request = collections_pb2.GetCollectionInfoRequest(collection_name=collection)
        info = (await self.call(collections.Get, request)).result
        vectors = info.config.params.vectors_config.params_map.map
        if vectors[fields.DENSE].size != dimensions:
            raise FailedPrecondition(
                f"the collection {collection} holds embeddings of {vectors[fields.DENSE].size} "
                f"numbers and the settings ask for {dimensions}: set PLEXUS_MEMORY_DIMENSIONS, "
                "or choose another PLEXUS_MEMORY_COLLECTION",
                reason=Reason.DIMENSION_MISMATCH,
            )
        for key, kind in fields.INDEXES.items():
            if key not in info.payload_schema:
                await self._make_index(points, collection, key, kind)
        self.points = points

    async def close(self) -> None:
        """Close the connection; idempotent."""
        self.points = None
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def call(self, method: Callable[..., Awaitable[Any]], request: Any) -> Any:
        """Make one call; once more when the connection broke, for every call here is repeatable.

        Bounded by the caller's deadline and the setting; refused at once while Qdrant is known
        to be down.
        """
        self.calls += 1
        if self.in_flight >= self._max_in_flight:
            raise ResourceExhausted(
                "the memory store has as many calls in flight as it accepts",
                reason=Reason.OVERLOADED,
                retry_after_s=RETRY_AFTER_S,
            )
        if not self._breaker.allow():
            raise _unavailable("Qdrant has been failing; it is left alone for a moment")
        self.in_flight += 1
        try:
            response = await self._attempt(method, request)
        except grpc.aio.AioRpcError as error:
            self.failures += 1
            self._breaker.record_failure() if error.code() in _TRANSIENT else (
                self._breaker.record_success()
            )
            raise _meaning(error) from error
        except BaseException:
            self._breaker.abandon()
            raise
        finally:
            self.in_flight -= 1
        self._breaker.record_success()
        return response

    async def _attempt(self, method: Callable[..., Awaitable[Any]], request: Any) -> Any:
        timeout_s = min(self._call_timeout_s, remaining_s(self._call_timeout_s))
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        return await method(request, timeout=timeout_s)

    async def _greet(self, channel: grpc.aio.Channel) -> str:
        check: Any = channel.unary_unary(
            "/qdrant.Qdrant/HealthCheck",
            request_serializer=qdrant_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=qdrant_pb2.HealthCheckReply.FromString,
        )
        try:
            reply = await self.call(check, qdrant_pb2.HealthCheckRequest())
        except Unavailable as error:
            raise _unavailable(
                f"Qdrant does not answer at {_address(self._url)}: start it, or correct "
                "PLEXUS_MEMORY_QDRANT_URL"
            ) from error
        return reply.version

    def _check_version(self, version: str) -> None:
        digits = [part for part in version.split(".")[:2] if part.isdigit()]
        number = tuple(int(part) for part in digits)
        if number < MIN_VERSION:
            wanted = ".".join(map(str, MIN_VERSION))
            raise FailedPrecondition(
                f"Qdrant {version} is too old: Plexus needs {wanted} or newer",
                reason=Reason.INVALID_SETTINGS,
            )
        self.has_tenant_idf = number >= TENANT_IDF_VERSION

    async def _make_collection(self, collections: Any, name: str, dimensions: int) -> None:
        exists = collections_pb2.CollectionExistsRequest(collection_name=name)
        if (await self.call(collections.CollectionExists, exists)).result.exists:
            return
        try:
            await self.call(collections.Create, _schema(name, dimensions))
        except PlexusError:
            # Another replica may have been first; if not, the reason is still there.
            if not (await self.call(collections.CollectionExists, exists)).result.exists:
                raise

    async def _make_index(
        self, points: Any, collection: str, key: str, kind: fields.IndexKind
    ) -> None:
        field_type, params = _INDEX_PARAMS[kind]
        request = points_pb2.CreateFieldIndexCollection(
            collection_name=collection,
            wait=True,
            field_name=key,
            field_type=field_type,
            field_index_params=params,
        )
        await self.call(points.CreateFieldIndex, request)


def _schema(name: str, dimensions: int) -> collections_pb2.CreateCollection:
    dense = collections_pb2.VectorParams(size=dimensions, distance=collections_pb2.Cosine)
    words = collections_pb2.SparseVectorParams(modifier=collections_pb2.Idf)
    return collections_pb2.CreateCollection(
        collection_name=name,
        vectors_config=collections_pb2.VectorsConfig(
            params_map=collections_pb2.VectorParamsMap(map={fields.DENSE: dense})
        ),
        sparse_vectors_config=collections_pb2.SparseVectorConfig(map={fields.LEXICAL: words}),
        # No graph across tenants, one within each tenant that is large enough to gain by it.
        hnsw_config=collections_pb2.HnswConfigDiff(m=0, payload_m=16),
        # A filter without an index would be a silent scan; this makes it an error.
        strict_mode_config=collections_pb2.StrictModeConfig(
            enabled=True, unindexed_filtering_retrieve=False
        ),
    )


def _channel(url: str, api_key: str) -> grpc.aio.Channel:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FailedPrecondition(
            "setting memory.qdrant_url: must be http://host:port or https://host:port",
            reason=Reason.INVALID_SETTINGS,
        )
    if api_key and not secure and parts.hostname not in _LOOPBACK:
        raise FailedPrecondition(
            "setting memory.qdrant_url: an API key needs https unless Qdrant is on loopback",
            reason=Reason.INVALID_SETTINGS,
        )
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # The breaker and one retry are ours; the library must not add its own.
        ("grpc.enable_retries", 0),
    ]
    interceptors = [_ApiKey(api_key)] if api_key else []
    if secure:
        return grpc.aio.secure_channel(
            _address(url), grpc.ssl_channel_credentials(), options, interceptors=interceptors
        )
    return grpc.aio.insecure_channel(_address(url), options, interceptors=interceptors)


def _address(url: str) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or 6334}"


class _ApiKey(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, key: str) -> None:
        self._key = key

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        given = tuple(client_call_details.metadata or ())
        details = client_call_details._replace(metadata=(*given, ("api-key", self._key)))
        return await continuation(details, request)


def _meaning(error: grpc.aio.AioRpcError) -> PlexusError:
    """Return what a failed call means; Qdrant's own text may quote data and stays out."""
    match error.code():
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return _unavailable("Qdrant did not answer in time")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ResourceExhausted(
                "Qdrant takes no more for now", retry_after_s=1.0, reason=Reason.OVERLOADED
            )
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return FailedPrecondition(
                "Qdrant refuses the API key: correct PLEXUS_MEMORY_QDRANT_API_KEY",
                reason=Reason.INVALID_SETTINGS,
            )
        case code:
            log.warning("qdrant-refused", code=code.name)
            return Internal("Qdrant refused a call of the memory store")


def _unavailable(why: str) -> Unavailable:
    return Unavailable(why, reason=Reason.MEMORY_UNAVAILABLE)
