"""Filters as plain data, and their compiler to the embedded engine.

A filter is a tuple tree, which crosses the process border as it is:

    ("equals", key, value)   ("one_of", key, values)   ("between", key, low, below)
    ("none_of", filter...)   ("all_of", filter...)     ("any_of", filter...)   ("points", ids)

`server_filters.py` is the compiler to Qdrant's own messages. Both compilers take the tenant first
and add it themselves, together with expiry: a filter for callers cannot be built without.
"""

from typing import Any, cast

import qdrant_edge as edge

Filter = tuple[Any, ...]

TENANT = "tenant"
EXPIRES = "expires_us"


def equals(key: str, value: str | int) -> Filter:
    """The field has this value, or holds it in its list."""
    return ("equals", key, value)


def one_of(key: str, values: list[str] | list[int]) -> Filter:
    """The field has one of these values; an empty list matches nothing."""
    return ("one_of", key, values)


def between(key: str, low: int | None, below: int | None) -> Filter:
    """The field is at least `low` and less than `below`; None leaves a side open."""
    return ("between", key, low, below)


def none_of(*filters: Filter) -> Filter:
    """No filter matches."""
    return ("none_of", *filters)


def all_of(*filters: Filter) -> Filter:
    """Every filter matches; without any, everything does."""
    return ("all_of", *filters)


def any_of(*filters: Filter) -> Filter:
    """At least one filter matches."""
    return ("any_of", *filters)


def points(ids: list[str]) -> Filter:
    """The point is one of these."""
    return ("points", ids)


EVERYTHING = all_of()


def visible(tenant: str, wanted: Filter, now_us: int | None) -> Filter:
    """Return `wanted` within the tenant, without what has expired at `now_us`.

    None includes the expired: for deletion. Raises ValueError without a tenant.
    """
    if not tenant:
        raise ValueError("a filter needs a tenant")
    if now_us is None:
        return all_of(equals(TENANT, tenant), wanted)
    expired = between(EXPIRES, None, now_us + 1)
    return all_of(equals(TENANT, tenant), none_of(expired), wanted)


def to_edge(tenant: str, wanted: Filter, now_us: int | None) -> edge.Filter:
    """Compile a tenant's filter for the embedded engine."""
    return raw_to_edge(visible(tenant, wanted, now_us))


def raw_to_edge(wanted: Filter) -> edge.Filter:
    """Compile a filter as it stands: for maintenance across tenants."""
    condition = _edge_condition(wanted)
    return condition if isinstance(condition, edge.Filter) else edge.Filter(must=[condition])


def _edge_condition(wanted: Filter) -> "edge.ConditionType":
    match wanted:
        case ("equals", key, value):
            return edge.FieldCondition(key, match=edge.MatchValue(value))
        case ("one_of", key, values):
            return edge.FieldCondition(key, match=edge.MatchAny(values))
        case ("between", key, low, below):
            return edge.FieldCondition(key, range=edge.RangeFloat(gte=low, lt=below))
        case ("points", ids):
            return edge.HasIdCondition(set(ids))
        case ("all_of", *parts):
            return _edge_all(cast("list[Filter]", parts))
        case ("any_of", *parts) if parts:
            return edge.Filter(should=[_edge_condition(part) for part in parts])
        case ("none_of", *parts):
            return edge.Filter(must_not=[_edge_condition(part) for part in parts])
        case _:
            raise ValueError(f"not a filter: {wanted!r}")


def _edge_all(parts: list[Filter]) -> edge.Filter:
    """Flatten: the engine estimates a flat filter better than a nested one."""
    flat = flattened(parts)
    must = [_edge_condition(part) for part in flat if part[0] != "none_of"]
    must_not = [_edge_condition(each) for part in flat if part[0] == "none_of" for each in part[1:]]
    return edge.Filter(must=must, must_not=must_not)


def flattened(parts: list[Filter]) -> list[Filter]:
    """Return the conjunction's parts with nested conjunctions dissolved."""
    result: list[Filter] = []
    for part in parts:
        if part[0] == "all_of":
            result.extend(flattened(list(part[1:])))
        else:
            result.append(part)
    return result
