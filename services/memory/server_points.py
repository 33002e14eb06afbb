"""The handful of Qdrant calls that the store is made of, on one collection."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.memory import payload as fields
from services.memory.filters import Filter
from services.memory.payload import Payload
from services.memory.qdrant_protos import points_pb2 as qdrant
from services.memory.qdrant_protos import qdrant_common_pb2 as common
from services.memory.server_filters import point, raw_to_grpc
from services.memory.server_link import ServerLink
from services.memory.server_values import floats, from_map, to_map

_EVERYTHING = qdrant.WithPayloadSelector(enable=True)


class ServerPoints:
    """Every change waits until it is visible, and may be repeated without harm."""

    def __init__(self, link: ServerLink, collection: str) -> None:
        self._link = link
        self.collection = collection

    async def get(self, ids: Sequence[str]) -> dict[str, Payload]:
        """Return the payloads of those points that exist."""
        request = qdrant.GetPoints(
            collection_name=self.collection,
            ids=[point(each) for each in ids],
            with_payload=_EVERYTHING,
        )
        found = (await self._call("Get", request)).result
        return {each.id.uuid: from_map(each.payload) for each in found}

    async def scroll(
        self, wanted: common.Filter, *, limit: int, order_by: qdrant.OrderBy | None = None
    ) -> list[Payload]:
        """Return payloads in the order asked for, else in the order of ids."""
        request = qdrant.ScrollPoints(
            collection_name=self.collection,
            filter=wanted,
            limit=limit,
            with_payload=_EVERYTHING,
            order_by=order_by,
        )
        return [from_map(each.payload) for each in (await self._call("Scroll", request)).result]

    async def count(self, wanted: common.Filter) -> int:
        """Count exactly."""
        request = qdrant.CountPoints(collection_name=self.collection, filter=wanted, exact=True)
        return (await self._call("Count", request)).result.count

    async def query(self, requests: list[qdrant.QueryPoints]) -> list[Any]:
        """Run searches as one call; return a BatchResult for each."""
        request = qdrant.QueryBatchPoints(collection_name=self.collection, query_points=requests)
        return list((await self._call("QueryBatch", request)).result)

    async def upsert(self, batch: list[qdrant.PointStruct], *, over: Filter | None = None) -> None:
        """Write points; with `over`, an existing one only where it matches."""
        request = qdrant.UpsertPoints(
            collection_name=self.collection,
            wait=True,
            points=batch,
            update_filter=raw_to_grpc(over) if over is not None else None,
        )
        await self._call("Upsert", request)

    async def delete(self, doomed: common.Filter) -> None:
        """Delete what matches."""
        request = qdrant.DeletePoints(
            collection_name=self.collection,
            wait=True,
            points=qdrant.PointsSelector(filter=doomed),
        )
        await self._call("Delete", request)

    async def set_payload(self, where: Filter, values: Payload) -> None:
        """Set fields of what matches."""
        request = qdrant.SetPayloadPoints(
            collection_name=self.collection,
            wait=True,
            payload=to_map(values),
            points_selector=qdrant.PointsSelector(filter=raw_to_grpc(where)),
        )
        await self._call("SetPayload", request)

    async def set_vectors(self, vectors: Mapping[str, bytes], where: Filter) -> None:
        """Give points their dense vectors where they match."""
        request = qdrant.UpdatePointVectors(
            collection_name=self.collection,
            wait=True,
            points=[
                qdrant.PointVectors(id=point(at), vectors=_dense(vector))
                for at, vector in vectors.items()
            ],
            update_filter=raw_to_grpc(where),
        )
        await self._call("UpdateVectors", request)

    async def drop_vectors(self, where: Filter) -> None:
        """Take the dense vectors from what matches."""
        request = qdrant.DeletePointVectors(
            collection_name=self.collection,
            wait=True,
            points_selector=qdrant.PointsSelector(filter=raw_to_grpc(where)),
            vectors=qdrant.VectorsSelector(names=[fields.DENSE]),
        )
        await self._call("DeleteVectors", request)

    async def _call(self, method: str, request: Any) -> Any:
        return await self._link.call(getattr(self._link.points, method), request)


def _dense(vector: bytes) -> qdrant.Vectors:
    named = qdrant.Vector(dense=qdrant.DenseVector(data=floats(vector)))
    return qdrant.Vectors(vectors=qdrant.NamedVectors(vectors={fields.DENSE: named}))
