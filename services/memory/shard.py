"""The embedded engine's data: one shard on disk, and the operations that the store needs of it.

Everything here is synchronous and runs in the engine process, one operation after the other; that
is what makes compare-and-set and receipts atomic. A batch of points is one entry of the
write-ahead log, but the engine applies a batch point by point and stops at the first bad one, so
whatever could be refused is checked before.
"""

import fcntl
import json
import os
import shutil
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from services.memory import payload as fields
from services.memory.edge_search import EdgeSearch, SearchRow
from services.memory.filters import (
    Filter,
    all_of,
    between,
    equals,
    none_of,
    one_of,
    points,
    raw_to_edge,
    to_edge,
)
from services.memory.lexical import make_bm25
from services.memory.receipts import ReceiptBody, decode_receipt, is_expired, next_version
from services.memory.store import Embedding

PENDING = equals(fields.EMBEDDING, Embedding.PENDING.value)

Payload = dict[str, Any]
Row = tuple[str, int, Payload]
"""point, expected version, payload."""

IN_USE, CORRUPT, DIMENSIONS, REUSED = "in_use", "corrupt", "dimensions", "reused"

_NEVER_US = 2**63
# A segment with more kilobytes of vectors than this is worth quantizing.
_INDEXING_THRESHOLD_KB = 10_000

_SCHEMAS: dict[fields.IndexKind, Callable[[], Any]] = {
    "tenant": lambda: edge.KeywordIndexParams(is_tenant=True),
    "keyword": edge.KeywordIndexParams,
    "match": lambda: edge.IntegerIndexParams(lookup=True, range=False),
    "range": lambda: edge.IntegerIndexParams(lookup=False, range=True),
    "order": lambda: edge.IntegerIndexParams(lookup=False, range=True, is_principal=True),
    "number": edge.FloatIndexParams,
}


class ShardError(Exception):
    """An expected refusal: `code` is one of the constants above, the text says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Shard:
    """An open shard. One process at a time."""

    def __init__(self, folder: Path, *, dimensions: int) -> None:
        """Open or create; raise ShardError when that cannot be."""
        self._dimensions = dimensions
        self._bm25 = make_bm25()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        self._shard = _open(folder, dimensions)
        present = self._shard.info().payload_schema
        for key, kind in fields.INDEXES.items():
            if key not in present:
                operation = edge.UpdateOperation.create_field_index(key, _SCHEMAS[kind]())
                self._shard.update(operation)
        self._first_expiry_us = self._earliest_expiry_us()

    # Reads.

    def get(self, tenant: str, now_us: int, ids: list[str]) -> list[Payload]:
        """Return the payloads of those points that the tenant may read."""
        found = self._payloads(ids, True)
        return [
            each
            for each in found.values()
            if each.get(fields.TENANT) == tenant and not is_expired(each, now_us)
        ]

    def scan(
        self,
        tenant: str,
        now_us: int,
        where: Filter,
        newest_first: bool,
        limit: int,
        start_us: int | None,
        seen: list[str],
    ) -> list[Payload]:
        """Return payloads in order of creation from `start_us` on, without the points `seen`."""
        wanted = all_of(where, none_of(points(seen))) if seen else where
        direction = edge.Direction.Desc if newest_first else edge.Direction.Asc
        records, _ = self._shard.scroll(
            edge.ScrollRequest(
                limit=limit,
                filter=to_edge(tenant, wanted, self._bound(now_us)),
                with_payload=True,
                order_by=edge.OrderBy(fields.CREATED, direction, start_us),
            )
        )
        return [record.payload or {} for record in records]

    def count(self, tenant: str, now_us: int, where: Filter) -> int:
        """Count what the tenant may read."""
        return self._count(to_edge(tenant, where, self._bound(now_us)))

    def search_all(self, searches: Sequence[Sequence[Any]]) -> list[list[SearchRow]]:
        """Run searches (tenant, time, other arguments of `EdgeSearch`) as one planned batch."""
        prepared = [
            EdgeSearch(self._bm25, tenant, self._bound(now_us), *rest)
            for tenant, now_us, *rest in searches
        ]
        requests = [search.requests() for search in prepared]
        flat = [request for each in requests for request in each]
        answers = iter(self._shard.query_batch(edge.QueryBatchRequest(flat)) if flat else ())
        return [
            search.read([next(answers) for _ in each])
            for search, each in zip(prepared, requests, strict=True)
        ]

    def search(self, *arguments: Any) -> list[SearchRow]:
        """Run one search."""
        return self.search_all([arguments])[0]

    def read_record(self, tenant: str, now_us: int, point: str) -> str | None:
        """Return the record's body."""
        found = self._payloads([point], True).get(point)
        if found is None or found.get(fields.RECORD_TENANT) != tenant or is_expired(found, now_us):
            return None
        return str(found[fields.RECORD_BODY])

    # Writes.

    def write(
        self, tenant: str, now_us: int, rows: list[Row], receipt: tuple[str, str, int] | None
    ) -> list[tuple[str, int | None]]:
        """Write rows; return each one's id and its version, or None if another was expected."""
        if receipt and (kept := self.read_record(tenant, now_us, receipt[0])):
            body = decode_receipt(kept)
            if body.fingerprint != receipt[1]:
                raise ShardError(REUSED, "the receipt stands for another request")
            return list(zip(body.ids, body.versions or (), strict=True))
        outcomes, batch = self._settle(now_us, rows)
        if receipt:
            point, fingerprint, expires_us = receipt
            ids, versions = [i for i, _ in outcomes], [v for _, v in outcomes]
            body = ReceiptBody(fingerprint, ids, versions)
            batch.append(_record(tenant, point, body.encode(), expires_us))
        if batch:
            self._upsert(batch)
        return outcomes

    def put_record(self, tenant: str, point: str, body: str, expires_us: int) -> None:
        """Keep a record."""
        self._upsert([_record(tenant, point, body, expires_us)])

    def delete(self, tenant: str, now_us: int, where: Filter) -> int:
        """Delete what matches, expired or not; return how many were readable."""
        readable = self.count(tenant, now_us, where)
        doomed = to_edge(tenant, where, None)
        self._shard.update(edge.UpdateOperation.delete_points_by_filter(doomed))
        return readable

    def attach(self, tenant: str, rows: list[tuple[str, str, bytes | None]], model: str) -> int:
        """Give points their vectors where the revision is still the one embedded."""
        if any(v is not None and len(v) != 4 * self._dimensions for _, _, v in rows):
            raise ShardError(DIMENSIONS, f"the index holds vectors of {self._dimensions} numbers")
        kept = self._payloads([point for point, _, _ in rows], [fields.TENANT, fields.REVISION])
        current = [
            (point, vector)
            for point, revision, vector in rows
            if kept.get(point) == {fields.TENANT: tenant, fields.REVISION: revision}
        ]
        vectors = [
            edge.PointVectors(point, {fields.DENSE: _floats(vector)})
            for point, vector in current
            if vector is not None
        ]
        if vectors:
            self._shard.update(edge.UpdateOperation.update_vectors(vectors))
        self._mark([p for p, v in current if v is not None], Embedding.DONE, model)
        self._mark([p for p, v in current if v is None], Embedding.REFUSED, model)
        return len(current)

    # Maintenance.

    def pending(self, limit: int, skip_tenants: list[str]) -> list[tuple[str, str, str, str]]:
        """Return tenant, id, revision and text of points without an embedding."""
        wanted = all_of(PENDING, none_of(one_of(fields.TENANT, skip_tenants)))
        keys = [fields.TENANT, fields.ID, fields.REVISION, fields.TEXT]
        records, _ = self._shard.scroll(
            edge.ScrollRequest(limit=limit, filter=raw_to_edge(wanted), with_payload=keys)
        )
        found = [record.payload or {} for record in records]
        return [(p[keys[0]], p[keys[1]], p[keys[2]], p[keys[3]]) for p in found]

    def pending_count(self, tenant: str, now_us: int) -> int:
        """Count the tenant's points without an embedding."""
        return self.count(tenant, now_us, PENDING)

    def adopt_model(self, model: str) -> int:
        """Drop the vectors of other models."""
        others = raw_to_edge(
            all_of(
                equals(fields.EMBEDDING, Embedding.DONE.value),
                none_of(equals(fields.MODEL, model)),
            )
        )
        count = self._count(others)
        if count:
            drop = edge.UpdateOperation.delete_vectors_by_filter(others, [fields.DENSE])
            self._shard.update(drop)
            again = {fields.EMBEDDING: Embedding.PENDING.value}
            self._shard.update(edge.UpdateOperation.set_payload_by_filter(others, again))
        return count

    def sweep(self, now_us: int) -> None:
        """Delete what has expired."""
        expired = raw_to_edge(between(fields.EXPIRES, None, now_us + 1))
        if self._count(expired):
            self._shard.update(edge.UpdateOperation.delete_points_by_filter(expired))
        self._first_expiry_us = self._earliest_expiry_us()

    def flush(self) -> None:
        """Write everything applied to disk."""
        self._shard.flush()

    def optimize(self) -> None:
        """Merge segments, drop what was deleted, index what is large. Blocks for long."""
        self._shard.optimize()

    def close(self) -> None:
        """Flush and let go of the folder."""
        self._shard.close()
        os.close(self._lock)

    def _bound(self, now_us: int) -> int | None:
        """Return the time to filter by, or None while nothing that is stored has expired.

        A filter that holds for every point still has to be asked of every point: it would
        triple the time of a search by meaning.
        """
        return now_us if now_us >= self._first_expiry_us else None

    def _earliest_expiry_us(self) -> int:
        first = edge.ScrollRequest(
            limit=1, with_payload=[fields.EXPIRES], order_by=edge.OrderBy(fields.EXPIRES)
        )
        records, _ = self._shard.scroll(first)
        return (records[0].payload or {})[fields.EXPIRES] if records else _NEVER_US

    def _upsert(self, batch: list[edge.Point]) -> None:
        expiries = ((point.payload or {}).get(fields.EXPIRES, _NEVER_US) for point in batch)
        self._first_expiry_us = min(self._first_expiry_us, *expiries)
        self._shard.update(edge.UpdateOperation.upsert_points(batch))

    def _settle(
        self, now_us: int, rows: list[Row]
    ) -> tuple[list[tuple[str, int | None]], list[edge.Point]]:
        kept = self._payloads(
            [point for point, _, _ in rows], [fields.VERSION, fields.CREATED, fields.EXPIRES]
        )
        outcomes: list[tuple[str, int | None]] = []
        batch: list[edge.Point] = []
        for point, expected_version, payload in rows:
            decided = next_version(expected_version, kept.get(point), now_us)
            outcomes.append((payload[fields.ID], decided[0] if decided else None))
            if decided:
                payload[fields.VERSION] = decided[0]
                payload[fields.CREATED] = decided[1] or payload[fields.CREATED]
                words = self._bm25.embed_document(payload[fields.TEXT])
                batch.append(edge.Point(point, {fields.LEXICAL: words}, payload))
        return outcomes, batch

    def _payloads(self, ids: list[str], keys: list[str] | bool) -> dict[str, Payload]:
        records = self._shard.retrieve(list(ids), keys, False)
        return {str(record.id): record.payload or {} for record in records}

    def _count(self, wanted: edge.Filter) -> int:
        return self._shard.count(edge.CountRequest(True, wanted))

    def _mark(self, ids: list[str], state: Embedding, model: str) -> None:
        if ids:
            values = {fields.EMBEDDING: state.value, fields.MODEL: model}
            self._shard.update(edge.UpdateOperation.set_payload(list(ids), values))


def _floats(vector: bytes) -> list[float]:
    return array("f", vector).tolist()


def _record(tenant: str, point: str, body: str, expires_us: int) -> edge.Point:
    payload: Payload = {fields.RECORD_TENANT: tenant, fields.RECORD_BODY: body}
    if expires_us:
        payload[fields.EXPIRES] = expires_us
    return edge.Point(point, {}, payload)


def _lock(folder: Path) -> int:
    """Own the folder until the process ends, however it ends."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(descriptor, 32).decode() or "unknown"
        os.close(descriptor)
        raise ShardError(
            IN_USE,
            f"the memory folder {folder} is in use by process {owner}: stop it, or choose "
            "another folder with PLEXUS_DATA_DIR",
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def _open(folder: Path, dimensions: int) -> edge.EdgeShard:
    path = folder / "shard"
    try:
        if not path.exists():
            _create(folder / "shard.new", path, dimensions)
        config = json.loads((path / "edge_config.json").read_text())
        size = config["vectors"][fields.DENSE]["size"]
    except (OSError, ValueError, KeyError) as error:
        raise _corrupt(path, error) from error
    if size != dimensions:
        raise ShardError(
            DIMENSIONS,
            f"{path} holds embeddings of {size} numbers and the settings ask for {dimensions}: "
            f"set PLEXUS_MEMORY_DIMENSIONS={size}, or move the folder away to start empty",
        )
    try:
        return edge.EdgeShard.load(str(path))
    except BaseException as error:  # A panic of the engine is no Exception.
        raise _corrupt(path, error) from error


def _create(scratch: Path, path: Path, dimensions: int) -> None:
    """Make a shard that is either whole or not there."""
    shutil.rmtree(scratch, ignore_errors=True)
    config = edge.EdgeConfig(
        vectors={fields.DENSE: edge.EdgeVectorParams(dimensions, edge.Distance.Cosine)},
        sparse_vectors={fields.LEXICAL: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
        # No graph: building one would block the engine for a second per thousand points. The
        # tenant's points are scanned, as bytes, and the best are scored again exactly.
        hnsw_config=edge.HnswIndexConfig(0, 100, _INDEXING_THRESHOLD_KB),
        quantization_config=edge.ScalarQuantizationConfig(
            edge.ScalarType.Int8, memory=edge.Memory.Pinned
        ),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=_INDEXING_THRESHOLD_KB),
        wal_enabled=True,
    )
    edge.EdgeShard.create(str(scratch), config).close()
    scratch.rename(path)


def _corrupt(path: Path, error: BaseException) -> ShardError:
    return ShardError(
        CORRUPT,
        f"the memory data in {path} cannot be read ({type(error).__name__}): restore the folder "
        "from a backup, or move it away to start empty",
    )
