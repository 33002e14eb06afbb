"""Payloads, vectors and searches as Qdrant's own messages."""

from array import array
from collections.abc import Mapping
from typing import Any, cast

import qdrant_edge as edge

from services.memory import payload as fields
from services.memory.edge_search import search_depth
from services.memory.filters import TENANT, equals
from services.memory.qdrant_protos import json_with_int_pb2 as json_pb
from services.memory.qdrant_protos import points_pb2 as qdrant
from services.memory.qdrant_protos import qdrant_common_pb2 as common
from services.memory.server_filters import raw_to_grpc
from services.memory.store import IMPORTANCE_GAIN, Query

Value = json_pb.Value


def to_value(value: object) -> Value:
    """Return a payload's value as a message; lists hold strings only."""
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
            values = [to_value(each) for each in cast("list[object]", value)]
            return Value(list_value=json_pb.ListValue(values=values))
        case _:
            raise TypeError(f"not a payload value: {type(value).__name__}")


def from_value(value: Value) -> Any:
    """Return what `to_value` was given."""
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        return [from_value(each) for each in value.list_value.values]
    return getattr(value, kind) if kind and kind != "null_value" else None


def to_map(payload: Mapping[str, object]) -> dict[str, Value]:
    """Return a payload as a map of messages."""
    return {key: to_value(value) for key, value in payload.items()}


def from_map(payload: Mapping[str, Value]) -> dict[str, Any]:
    """Return a map of messages as a payload."""
    return {key: from_value(value) for key, value in payload.items()}


def sparse(words: edge.SparseVector) -> qdrant.SparseVector:
    """Return BM25 weights as a message."""
    return qdrant.SparseVector(indices=words.indices, values=words.values)


def floats(vector: bytes) -> list[float]:
    """Return the numbers of a packed vector."""
    return array("f", vector).tolist()


class ServerSearch:
    """One search: its messages, and how to read the answers; the twin of `EdgeSearch`."""

    def __init__(
        self,
        query: Query,
        *,
        tenant: str,
        collection: str,
        bm25: edge.Bm25,
        wanted: common.Filter,
        tenant_idf: bool,
    ) -> None:
        self._collection = collection
        self._query = query
        dense, lexical = None, None
        depth = search_depth(query.limit)
        if query.vector is not None:
            vector = qdrant.VectorInput(dense=qdrant.DenseVector(data=floats(query.vector)))
            dense = qdrant.PrefetchQuery(
                query=qdrant.Query(nearest=vector),
                using=fields.DENSE,
                filter=wanted,
                score_threshold=query.min_cosine,
                limit=depth,
            )
        if query.text is not None and (words := bm25.embed_query(query.text)).indices:
            own = qdrant.IdfParams(corpus=raw_to_grpc(equals(TENANT, tenant)))
            lexical = qdrant.PrefetchQuery(
                query=qdrant.Query(nearest=qdrant.VectorInput(sparse=sparse(words))),
                using=fields.LEXICAL,
                filter=wanted,
                params=qdrant.SearchParams(idf=own) if tenant_idf else None,
                limit=depth,
            )
        self._legs = [leg for leg in (dense, lexical) if leg is not None]
        self._explained = [lexical, dense] if query.explain else [None, None]

    def requests(self) -> list[qdrant.QueryPoints]:
        """Return the messages; none when there is nothing to look for."""
        if not self._legs:
            return []
        ranked = self._legs[0] if len(self._legs) == 1 else self._fused()
        main = qdrant.QueryPoints(
            collection_name=self._collection,
            prefetch=[ranked],
            query=qdrant.Query(formula=_lift()),
            limit=self._query.limit,
            with_payload=qdrant.WithPayloadSelector(enable=True),
        )
        return [main, *(self._alone(leg) for leg in self._explained if leg is not None)]

    def legs_of(
        self, answers: list[Any]
    ) -> tuple[dict[str, tuple[int, float]], dict[str, tuple[int, float]]]:
        """Return rank and score by point, of the leg by words and of the leg by meaning."""
        remaining = iter(answers)
        lexical, dense = (
            _ranks(next(remaining)) if leg is not None else {} for leg in self._explained
        )
        return lexical, dense

    def _fused(self) -> qdrant.PrefetchQuery:
        weights = [self._query.dense_weight, self._query.lexical_weight]
        return qdrant.PrefetchQuery(
            prefetch=self._legs,
            query=qdrant.Query(rrf=qdrant.Rrf(k=self._query.rrf_k, weights=weights)),
            limit=self._legs[0].limit,
        )

    def _alone(self, leg: qdrant.PrefetchQuery) -> qdrant.QueryPoints:
        return qdrant.QueryPoints(
            collection_name=self._collection,
            query=leg.query,
            using=leg.using,
            filter=cast("common.Filter", leg.filter),
            params=leg.params if leg.HasField("params") else None,
            score_threshold=leg.score_threshold if leg.HasField("score_threshold") else None,
            limit=leg.limit,
            with_payload=qdrant.WithPayloadSelector(enable=False),
        )


def _ranks(answer: qdrant.BatchResult) -> dict[str, tuple[int, float]]:
    # The stub's ids come from a module it imports in a way that type checkers cannot follow.
    found = cast("list[Any]", answer.result)
    return {point.id.uuid: (rank, point.score) for rank, point in enumerate(found, 1)}


def _lift() -> qdrant.Formula:
    gain = qdrant.MultExpression(
        mult=[
            qdrant.Expression(constant=IMPORTANCE_GAIN),
            qdrant.Expression(variable=fields.IMPORTANCE),
        ]
    )
    factor = qdrant.SumExpression(
        sum=[qdrant.Expression(constant=1.0), qdrant.Expression(mult=gain)]
    )
    lifted = qdrant.MultExpression(
        mult=[qdrant.Expression(variable="$score"), qdrant.Expression(sum=factor)]
    )
    return qdrant.Formula(
        expression=qdrant.Expression(mult=lifted),
        defaults={fields.IMPORTANCE: to_value(0.0)},
    )
