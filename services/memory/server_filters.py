"""The compiler of filters to Qdrant's own messages; see `filters.py` for the tree."""

from typing import cast

from services.memory.filters import Filter, flattened, visible
from services.memory.qdrant_protos import qdrant_common_pb2 as common


def to_grpc(tenant: str, wanted: Filter, now_us: int | None) -> common.Filter:
    """Compile a tenant's filter for a Qdrant server."""
    return raw_to_grpc(visible(tenant, wanted, now_us))


def raw_to_grpc(wanted: Filter) -> common.Filter:
    """Compile a filter as it stands: for maintenance across tenants, and for conditions."""
    condition = _condition(wanted)
    if condition.HasField("filter"):
        return condition.filter
    return common.Filter(must=[condition])


def point(point_id: str) -> common.PointId:
    """Return a point's id as a message."""
    return common.PointId(uuid=point_id)


def _condition(wanted: Filter) -> common.Condition:
    match wanted:
        case ("equals", str(key), str(value)):
            return _field(key, match=common.Match(keyword=value))
        case ("equals", str(key), int(value)):
            return _field(key, match=common.Match(integer=value))
        case ("one_of", str(key), values):
            return _field(key, match=_any_match(cast("list[str] | list[int]", values)))
        case ("between", str(key), low, below):
            return _field(key, range=common.Range(gte=low, lt=below))
        case ("points", ids):
            has = common.HasIdCondition(has_id=[point(each) for each in cast("list[str]", ids)])
            return common.Condition(has_id=has)
        case ("all_of", *parts):
            return common.Condition(filter=_all(cast("list[Filter]", parts)))
        case ("any_of", *parts) if parts:
            should = [_condition(part) for part in cast("list[Filter]", parts)]
            return common.Condition(filter=common.Filter(should=should))
        case ("none_of", *parts):
            must_not = [_condition(part) for part in cast("list[Filter]", parts)]
            return common.Condition(filter=common.Filter(must_not=must_not))
        case _:
            raise ValueError(f"not a filter: {wanted!r}")


def _field(
    key: str, *, match: common.Match | None = None, range: common.Range | None = None
) -> common.Condition:
    return common.Condition(field=common.FieldCondition(key=key, match=match, range=range))


def _any_match(values: list[str] | list[int]) -> common.Match:
    if all(isinstance(value, str) for value in values):
        return common.Match(keywords=common.RepeatedStrings(strings=cast("list[str]", values)))
    return common.Match(integers=common.RepeatedIntegers(integers=cast("list[int]", values)))


def _all(parts: list[Filter]) -> common.Filter:
    flat = flattened(parts)
    return common.Filter(
        must=[_condition(part) for part in flat if part[0] != "none_of"],
        must_not=[_condition(each) for part in flat if part[0] == "none_of" for each in part[1:]],
    )
