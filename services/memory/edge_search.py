"""Searches as requests to the embedded engine, and its answers as plain hits.

Both legs, the fusion and the lift by importance are one planned request. With `explain` the legs
are asked for once more on their own, in the same batch: a fused score does not show where it came
from.
"""

from array import array
from collections.abc import Sequence
from typing import Any

import qdrant_edge as edge

from services.memory import payload as fields
from services.memory.filters import TENANT, Filter, to_edge
from services.memory.store import IMPORTANCE_GAIN

DEPTH_FACTOR = 4
MIN_DEPTH = 60
"""Each leg offers at least this many candidates, and this many times the limit, to the fusion."""

SearchRow = tuple[str, float, dict[str, Any], int, float, int, float]
"""point, score, payload, lexical rank and score, dense rank and score."""

_LIFT = edge.Formula(
    edge.Expression.Mult(
        [
            edge.Expression.Variable("$score"),
            edge.Expression.Sum(
                [
                    edge.Expression.Constant(1.0),
                    edge.Expression.Mult(
                        [
                            edge.Expression.Constant(IMPORTANCE_GAIN),
                            edge.Expression.Variable(fields.IMPORTANCE),
                        ]
                    ),
                ]
            ),
        ]
    ),
    {fields.IMPORTANCE: 0.0},
)


_EXACT_AT_LAST = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=True))


def search_depth(limit: int) -> int:
    """Return how many candidates each leg offers."""
    return max(DEPTH_FACTOR * limit, MIN_DEPTH)


class EdgeSearch:
    """One search: its requests, and how to read their answers."""

    def __init__(
        self,
        bm25: edge.Bm25,
        tenant: str,
        expired_us: int | None,
        text: str | None,
        vector: bytes | None,
        where: Filter,
        limit: int,
        rrf_k: int,
        weights: tuple[float, float],
        min_cosine: float | None,
        explain: bool,
    ) -> None:
        wanted = to_edge(tenant, where, expired_us)
        depth = search_depth(limit)
        dense, lexical = None, None
        if vector is not None:
            nearest = edge.Query.Nearest(array("f", vector).tolist(), using=fields.DENSE)
            dense = edge.Prefetch(
                depth,
                query=nearest,
                filter=wanted,
                params=_EXACT_AT_LAST,
                score_threshold=min_cosine,
            )
        if text is not None and (words := bm25.embed_query(text)).indices:
            # Without a corpus of its own one tenant's vocabulary would show in another's ranking.
            own = edge.IdfParams(edge.Filter(must=[_is_tenant(tenant)]))
            lexical = edge.Prefetch(
                depth,
                query=edge.Query.Nearest(words, using=fields.LEXICAL),
                filter=wanted,
                params=edge.SearchParams(idf=own),
            )
        self._legs = [leg for leg in (dense, lexical) if leg is not None]
        self._explained = [lexical, dense] if explain else []
        self._limit = limit
        self._rrf_k = rrf_k
        self._weights = weights

    def requests(self) -> list[edge.QueryRequest]:
        """Return the requests; none when there is nothing to look for."""
        if not self._legs:
            return []
        ranked = self._legs[0] if len(self._legs) == 1 else self._fused()
        main = edge.QueryRequest(self._limit, prefetches=[ranked], query=_LIFT, with_payload=True)
        alone = [
            edge.QueryRequest(
                leg.limit,
                query=leg.query,
                filter=leg.filter,
                params=leg.params,
                score_threshold=leg.score_threshold,
            )
            for leg in self._explained
            if leg is not None
        ]
        return [main, *alone]

    def read(self, answers: Sequence[Sequence[edge.ScoredPoint]]) -> list[SearchRow]:
        """Return the hits, best first, equal scores newest first."""
        if not self._legs:
            return []
        remaining = iter(answers[1:])
        lexical, dense = (
            _ranks(next(remaining)) if leg is not None else {}
            for leg in (self._explained or [None, None])
        )
        rows = [
            (
                str(p.id),
                p.score,
                p.payload or {},
                *lexical.get(p.id, _NONE),
                *dense.get(p.id, _NONE),
            )
            for p in answers[0]
        ]
        rows.sort(key=lambda row: (-row[1], -row[2][fields.CREATED], row[0]))
        return rows

    def _fused(self) -> edge.Prefetch:
        # The stub calls each kind of fusion a class of its own; at run time it is a Fusion.
        fusion: Any = edge.Fusion.Rrf(self._rrf_k, list(self._weights))
        return edge.Prefetch(self._legs[0].limit, query=fusion, prefetches=self._legs)


_NONE = (0, 0.0)


def _ranks(points: Sequence[edge.ScoredPoint]) -> dict[Any, tuple[int, float]]:
    return {point.id: (rank, point.score) for rank, point in enumerate(points, 1)}


def _is_tenant(tenant: str) -> edge.FieldCondition:
    return edge.FieldCondition(TENANT, match=edge.MatchValue(tenant))
