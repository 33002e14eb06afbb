"""A Qdrant server double: Qdrant's own gRPC protos over a real engine shard in this process.

It serves the part of the protocol that Plexus uses and translates it for real: filters,
conditional upserts, prefetches with weighted fusion and formulas, ordered scrolls, vector and
payload updates. Scores, tokens and conditions are the engine's own, so what passes here exercises
the same semantics as a server; clusters, consistency levels and limits are not played.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import qdrant_edge as edge
from qdrant_client.grpc import (
    collections_pb2,
    json_with_int_pb2,
    points_pb2,
    qdrant_common_pb2,
    qdrant_pb2,
)

Context = grpc.aio.ServicerContext[Any, Any]
Value = json_with_int_pb2.Value


class QdrantDouble:
    """Serves on a free loopback port between `start` and `close`; one shard per collection."""

    def __init__(self, folder: Path, *, version: str = "1.19.0") -> None:
        self._folder = folder
        self.version = version
        self.shards: dict[str, edge.EdgeShard] = {}
        self.schemas: dict[str, collections_pb2.CreateCollection] = {}
        self.indexes: dict[str, set[str]] = {}
        self.calls: list[str] = []
        """The methods called, in order."""
        self.fail_before: dict[str, list[grpc.StatusCode | None]] = {}
        """For the next calls of a method: fail with this, without effect; None lets one pass."""
        self.fail_after: dict[str, list[grpc.StatusCode | None]] = {}
        """The same, but the call takes effect and its answer is lost."""
        self.is_frozen = False
        """While true calls are accepted and never answered."""
        self._server: grpc.aio.Server | None = None
        self.url = ""

    async def start(self, port: int = 0) -> None:
        """Listen; `url` says where."""
        server = self._server = grpc.aio.server()
        add: Any = server.add_generic_rpc_handlers
        add((_Handlers(self),))
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        self.url = f"http://127.0.0.1:{bound}"

    async def close(self) -> None:
        """Stop serving; the data stays for another `start`."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def close_shards(self) -> None:
        """Let go of the data."""
        for shard in self.shards.values():
            shard.close()
        self.shards.clear()

    def create(self, request: collections_pb2.CreateCollection) -> None:
        """Make a collection's shard."""
        name = request.collection_name
        vectors = request.vectors_config.params_map.map.items()
        sparse = request.sparse_vectors_config.map
        config = edge.EdgeConfig(
            vectors={k: edge.EdgeVectorParams(v.size, edge.Distance.Cosine) for k, v in vectors},
            sparse_vectors={
                k: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf) for k in sparse
            },
        )
        self.shards[name] = edge.EdgeShard.create(str(self._folder / name), config)
        self.schemas[name] = request
        self.indexes[name] = set()


class _Handlers(grpc.GenericRpcHandler):
    """Finds `/qdrant.<Service>/<Method>` among the coroutines below."""

    def __init__(self, double: QdrantDouble) -> None:
        self._double = double
        self._services: dict[str, Any] = {
            "qdrant.Qdrant": _Health(double),
            "qdrant.Collections": _Collections(double),
            "qdrant.Points": _Points(double),
        }

    def service(self, handler_call_details: Any) -> Any:
        service, method = handler_call_details.method.lstrip("/").split("/")
        if service not in self._services:
            return None
        target: Any = getattr(self._services[service], method, None)
        if target is None:
            return None
        request_type = _REQUESTS[service, method]

        async def answer(request: Any, context: Context) -> Any:
            await self._obey(self._double.fail_before, method, context)
            if self._double.is_frozen:
                await asyncio.Event().wait()
            self._double.calls.append(method)
            try:
                response = target(request)
            except _NoCollection:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such collection")
            except Exception as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            await self._obey(self._double.fail_after, method, context)
            return response

        return cast("Any", grpc.unary_unary_rpc_method_handler)(
            answer, request_type.FromString, _encode
        )

    async def _obey(
        self, faults: dict[str, list[grpc.StatusCode | None]], method: str, context: Context
    ) -> None:
        if faults.get(method) and (code := faults[method].pop(0)) is not None:
            await context.abort(code, "a fault the test asked for")


def _encode(message: Any) -> bytes:
    return message.SerializeToString()


class _NoCollection(Exception):
    """The collection named in a request was not created."""


class _Health:
    def __init__(self, double: QdrantDouble) -> None:
        self._double = double

    def HealthCheck(self, request: Any) -> qdrant_pb2.HealthCheckReply:
        return qdrant_pb2.HealthCheckReply(title="qdrant double", version=self._double.version)


class _Collections:
    def __init__(self, double: QdrantDouble) -> None:
        self._double = double

    def CollectionExists(self, request: Any) -> collections_pb2.CollectionExistsResponse:
        exists = request.collection_name in self._double.shards
        return collections_pb2.CollectionExistsResponse(
            result=collections_pb2.CollectionExists(exists=exists)
        )

    def Create(self, request: Any) -> collections_pb2.CollectionOperationResponse:
        self._double.create(request)
        return collections_pb2.CollectionOperationResponse(result=True)

    def Get(self, request: Any) -> collections_pb2.GetCollectionInfoResponse:
        schema = self._double.schemas.get(request.collection_name)
        if schema is None:
            raise _NoCollection
        params = collections_pb2.CollectionParams(vectors_config=schema.vectors_config)
        indexes = self._double.indexes[request.collection_name]
        info = collections_pb2.CollectionInfo(
            config=collections_pb2.CollectionConfig(params=params),
            payload_schema={key: collections_pb2.PayloadSchemaInfo() for key in indexes},
        )
        return collections_pb2.GetCollectionInfoResponse(result=info)


class _Points:
    def __init__(self, double: QdrantDouble) -> None:
        self._double = double

    def CreateFieldIndex(self, request: Any) -> points_pb2.PointsOperationResponse:
        operation = edge.UpdateOperation.create_field_index(
            request.field_name, _index(request.field_index_params)
        )
        self._double.indexes[request.collection_name].add(request.field_name)
        return self._update(request, operation)

    def Upsert(self, request: Any) -> points_pb2.PointsOperationResponse:
        points = [
            edge.Point(p.id.uuid, _vectors(p.vectors), _from_map(p.payload)) for p in request.points
        ]
        condition = _filter(request.update_filter) if request.HasField("update_filter") else None
        return self._update(request, edge.UpdateOperation.upsert_points(points, condition))

    def UpdateVectors(self, request: Any) -> points_pb2.PointsOperationResponse:
        vectors = [edge.PointVectors(p.id.uuid, _vectors(p.vectors)) for p in request.points]
        condition = _filter(request.update_filter) if request.HasField("update_filter") else None
        return self._update(request, edge.UpdateOperation.update_vectors(vectors, condition))

    def DeleteVectors(self, request: Any) -> points_pb2.PointsOperationResponse:
        operation = edge.UpdateOperation.delete_vectors_by_filter(
            _filter(request.points_selector.filter), list(request.vectors.names)
        )
        return self._update(request, operation)

    def SetPayload(self, request: Any) -> points_pb2.PointsOperationResponse:
        operation = edge.UpdateOperation.set_payload_by_filter(
            _filter(request.points_selector.filter), _from_map(request.payload)
        )
        return self._update(request, operation)

    def Delete(self, request: Any) -> points_pb2.PointsOperationResponse:
        operation = edge.UpdateOperation.delete_points_by_filter(_filter(request.points.filter))
        return self._update(request, operation)

    def Get(self, request: Any) -> points_pb2.GetResponse:
        ids: list[Any] = [each.uuid for each in request.ids]
        found = self._shard(request).retrieve(ids, True, False)
        return points_pb2.GetResponse(result=[_retrieved(record) for record in found])

    def Count(self, request: Any) -> points_pb2.CountResponse:
        count = self._shard(request).count(edge.CountRequest(True, _filter(request.filter)))
        return points_pb2.CountResponse(result=points_pb2.CountResult(count=count))

    def Scroll(self, request: Any) -> points_pb2.ScrollResponse:
        order = None
        if request.HasField("order_by"):
            by = request.order_by
            descending = by.direction == points_pb2.Desc
            start = by.start_from.integer if by.HasField("start_from") else None
            direction = edge.Direction.Desc if descending else edge.Direction.Asc
            order = edge.OrderBy(by.key, direction, start)
        found, _ = self._shard(request).scroll(
            edge.ScrollRequest(
                limit=request.limit,
                filter=_filter(request.filter),
                with_payload=True,
                order_by=order,
            )
        )
        return points_pb2.ScrollResponse(result=[_retrieved(record) for record in found])

    def QueryBatch(self, request: Any) -> points_pb2.QueryBatchResponse:
        queries = [_query_request(each) for each in request.query_points]
        answers = self._shard(request).query_batch(edge.QueryBatchRequest(queries))
        results = [points_pb2.BatchResult(result=[_scored(p) for p in found]) for found in answers]
        return points_pb2.QueryBatchResponse(result=results)

    def _shard(self, request: Any) -> edge.EdgeShard:
        shard = self._double.shards.get(request.collection_name)
        if shard is None:
            raise _NoCollection
        return shard

    def _update(self, request: Any, operation: edge.UpdateOperation) -> Any:
        self._shard(request).update(operation)
        result = points_pb2.UpdateResult(status=points_pb2.UpdateStatus.Completed)
        return points_pb2.PointsOperationResponse(result=result)


_REQUESTS: Mapping[tuple[str, str], Any] = {
    ("qdrant.Qdrant", "HealthCheck"): qdrant_pb2.HealthCheckRequest,
    ("qdrant.Collections", "CollectionExists"): collections_pb2.CollectionExistsRequest,
    ("qdrant.Collections", "Create"): collections_pb2.CreateCollection,
    ("qdrant.Collections", "Get"): collections_pb2.GetCollectionInfoRequest,
    ("qdrant.Points", "CreateFieldIndex"): points_pb2.CreateFieldIndexCollection,
    ("qdrant.Points", "Upsert"): points_pb2.UpsertPoints,
    ("qdrant.Points", "UpdateVectors"): points_pb2.UpdatePointVectors,
    ("qdrant.Points", "DeleteVectors"): points_pb2.DeletePointVectors,
    ("qdrant.Points", "SetPayload"): points_pb2.SetPayloadPoints,
    ("qdrant.Points", "Delete"): points_pb2.DeletePoints,
    ("qdrant.Points", "Get"): points_pb2.GetPoints,
    ("qdrant.Points", "Count"): points_pb2.CountPoints,
    ("qdrant.Points", "Scroll"): points_pb2.ScrollPoints,
    ("qdrant.Points", "QueryBatch"): points_pb2.QueryBatchPoints,
}


def _index(params: Any) -> Any:
    kind = params.WhichOneof("index_params")
    if kind == "keyword_index_params":
        return edge.KeywordIndexParams(is_tenant=params.keyword_index_params.is_tenant)
    if kind == "integer_index_params":
        given = params.integer_index_params
        return edge.IntegerIndexParams(
            lookup=given.lookup, range=given.range, is_principal=given.is_principal
        )
    return edge.FloatIndexParams()


def _filter(given: Any) -> edge.Filter:
    return edge.Filter(
        must=[_condition(each) for each in given.must] or None,
        should=[_condition(each) for each in given.should] or None,
        must_not=[_condition(each) for each in given.must_not] or None,
    )


def _condition(given: Any) -> Any:
    match given.WhichOneof("condition_one_of"):
        case "filter":
            return _filter(given.filter)
        case "has_id":
            return edge.HasIdCondition({each.uuid for each in given.has_id.has_id})
        case "field":
            return _field(given.field)
        case other:
            raise NotImplementedError(f"the double plays no condition {other}")


def _field(given: qdrant_common_pb2.FieldCondition) -> edge.FieldCondition:
    if given.HasField("range"):
        low = given.range.gte if given.range.HasField("gte") else None
        below = given.range.lt if given.range.HasField("lt") else None
        return edge.FieldCondition(given.key, range=edge.RangeFloat(gte=low, lt=below))
    match given.match.WhichOneof("match_value"):
        case "keyword":
            return edge.FieldCondition(given.key, match=edge.MatchValue(given.match.keyword))
        case "integer":
            return edge.FieldCondition(given.key, match=edge.MatchValue(given.match.integer))
        case "keywords":
            words = list(given.match.keywords.strings)
            return edge.FieldCondition(given.key, match=edge.MatchAny(words))
        case "integers":
            numbers = list(given.match.integers.integers)
            return edge.FieldCondition(given.key, match=edge.MatchAny(numbers))
        case other:
            raise NotImplementedError(f"the double plays no match {other}")


def _query_request(given: Any) -> edge.QueryRequest:
    return edge.QueryRequest(
        given.limit,
        query=_query(given.query, given.using),
        prefetches=[_prefetch(each) for each in given.prefetch] or None,
        filter=_filter(given.filter) if given.HasField("filter") else None,
        score_threshold=given.score_threshold if given.HasField("score_threshold") else None,
        params=_params(given),
        with_payload=given.with_payload.enable,
    )


def _prefetch(given: Any) -> edge.Prefetch:
    return edge.Prefetch(
        given.limit,
        query=_query(given.query, given.using),
        prefetches=[_prefetch(each) for each in given.prefetch] or None,
        filter=_filter(given.filter) if given.HasField("filter") else None,
        score_threshold=given.score_threshold if given.HasField("score_threshold") else None,
        params=_params(given),
    )


def _params(given: Any) -> edge.SearchParams | None:
    if not given.params.HasField("idf"):
        return None
    return edge.SearchParams(idf=edge.IdfParams(_filter(given.params.idf.corpus)))


def _query(given: Any, using: str) -> Any:
    match given.WhichOneof("variant"):
        case "rrf":
            return edge.Fusion.Rrf(given.rrf.k, list(given.rrf.weights) or None)
        case "formula":
            defaults = _from_map(given.formula.defaults)
            return edge.Formula(_expression(given.formula.expression), defaults)
        case "nearest" if given.nearest.HasField("sparse"):
            sparse = given.nearest.sparse
            vector = edge.SparseVector(list(sparse.indices), list(sparse.values))
            return edge.Query.Nearest(vector, using=using)
        case "nearest":
            return edge.Query.Nearest(list(given.nearest.dense.data), using=using)
        case other:
            raise NotImplementedError(f"the double plays no query {other}")


def _expression(given: Any) -> edge.Expression:
    match given.WhichOneof("variant"):
        case "constant":
            return edge.Expression.Constant(given.constant)
        case "variable":
            return edge.Expression.Variable(given.variable)
        case "mult":
            return edge.Expression.Mult([_expression(each) for each in given.mult.mult])
        case "sum":
            return edge.Expression.Sum([_expression(each) for each in given.sum.sum])
        case other:
            raise NotImplementedError(f"the double plays no expression {other}")


def _vectors(given: Any) -> dict[str, Any]:
    return {name: _vector(each) for name, each in given.vectors.vectors.items()}


def _vector(given: Any) -> Any:
    if given.HasField("sparse"):
        return edge.SparseVector(list(given.sparse.indices), list(given.sparse.values))
    return list(given.dense.data)


def _retrieved(record: edge.Record) -> points_pb2.RetrievedPoint:
    return points_pb2.RetrievedPoint(id=_point_id(record.id), payload=_to_map(record.payload or {}))


def _scored(point: edge.ScoredPoint) -> points_pb2.ScoredPoint:
    return points_pb2.ScoredPoint(
        id=_point_id(point.id), score=point.score, payload=_to_map(point.payload or {})
    )


def _point_id(given: object) -> qdrant_common_pb2.PointId:
    return qdrant_common_pb2.PointId(uuid=str(given))


def _to_map(payload: Mapping[str, object]) -> dict[str, Value]:
    return {key: _to_value(value) for key, value in payload.items()}


def _to_value(value: object) -> Value:
    match value:
        case bool():
            return Value(bool_value=value)
        case int():
            return Value(integer_value=value)
        case float():
            return Value(double_value=value)
        case str():
            return Value(string_value=value)
        case list():
            values = [_to_value(each) for each in cast("Sequence[object]", value)]
            return Value(list_value=json_with_int_pb2.ListValue(values=values))
        case _:
            raise TypeError(f"the double holds no {type(value).__name__}")


def _from_map(payload: Mapping[str, Value]) -> dict[str, Any]:
    return {key: _from_value(value) for key, value in payload.items()}


def _from_value(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        return [_from_value(each) for each in value.list_value.values]
    return getattr(value, kind) if kind else None
