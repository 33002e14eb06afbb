"""Filters mean the same to both compilers as to a reader of the tree."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.memory.filters import (
    EVERYTHING,
    Filter,
    all_of,
    any_of,
    between,
    equals,
    none_of,
    one_of,
    points,
    to_edge,
)
from services.memory.ids import point_id, time_ordered_id
from services.memory.payload import label, to_payload
from services.memory.server_filters import raw_to_grpc, to_grpc
from services.memory.shard import Shard
from services.memory.store import Item

NOW_US = 1_000
ITEMS = [
    Item(
        id=time_ordered_id(n, n),
        kind=1 + n % 3,
        role=n % 2,
        text="fox",
        user_id=("", "u", "w")[n % 3],
        attributes={"k": str(n % 2)},
        event_us=10 * n,
        created_us=n,
        expires_us=(0, NOW_US, NOW_US + 1)[n % 3],
    )
    for n in range(12)
]
POINTS = {point_id("t", item.id): to_payload("t", item, "r") for item in ITEMS}

leaves = st.one_of(
    st.builds(equals, st.just("kind"), st.integers(1, 4)),
    st.builds(equals, st.just("user"), st.sampled_from(["", "u", "x"])),
    st.builds(equals, st.just("labels"), st.sampled_from([label("k", "0"), label("k", "9")])),
    st.builds(one_of, st.just("role"), st.lists(st.integers(0, 2), max_size=2)),
    st.builds(one_of, st.just("user"), st.lists(st.sampled_from(["", "w"]), min_size=1)),
    st.builds(
        between,
        st.just("event_us"),
        st.none() | st.integers(0, 120),
        st.none() | st.integers(0, 120),
    ),
    st.builds(points, st.lists(st.sampled_from(sorted(POINTS)), max_size=4)),
)


def nested(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: all_of(*parts)),
        some.map(lambda parts: any_of(*parts)),
        some.map(lambda parts: none_of(*parts)),
    )


filters = st.recursive(leaves, nested, max_leaves=6)


def means(wanted: Filter, point: str, payload: dict[str, Any]) -> bool:
    match wanted:
        case ("equals", key, value):
            held = payload.get(key)
            return value in held if isinstance(held, list) else held == value
        case ("one_of", key, values):
            return payload.get(key) in values
        case ("between", key, low, below):
            held = payload[key]
            return (low is None or low <= held) and (below is None or held < below)
        case ("points", ids):
            return point in ids
        case ("all_of", *parts):
            return all(means(part, point, payload) for part in parts)
        case ("any_of", *parts):
            return any(means(part, point, payload) for part in parts)
        case ("none_of", *parts):
            return not any(means(part, point, payload) for part in parts)
        case _:
            raise AssertionError(wanted)


@pytest.fixture(scope="module")
def shard() -> Iterator[Shard]:
    with tempfile.TemporaryDirectory() as folder:
        shard = Shard(Path(folder), dimensions=2)
        shard.write("t", 0, [(at, -1, dict(each)) for at, each in POINTS.items()], None)
        shard.write("other", 0, [(point_id("other", ITEMS[0].id), -1, _others())], None)
        yield shard
        shard.close()


def _others() -> dict[str, Any]:
    return to_payload("other", ITEMS[0], "r")


@given(wanted=filters)
def test_the_engine_counts_what_the_tree_means(shard: Shard, wanted: Filter) -> None:
    readable = {
        at: each
        for at, each in POINTS.items()
        if "expires_us" not in each or each["expires_us"] > NOW_US
    }
    expected = sum(means(wanted, at, each) for at, each in readable.items())
    assert shard.count("t", NOW_US, wanted) == expected


@given(wanted=filters)
def test_the_messages_for_a_server_carry_the_same_tree(wanted: Filter) -> None:
    message = to_grpc("t", wanted, NOW_US)
    assert [c.field.match.keyword for c in message.must if c.field.key == "tenant"] == ["t"]
    assert any(c.field.key == "expires_us" for c in message.must_not)
    assert raw_to_grpc(wanted).ByteSize() <= message.ByteSize()


@pytest.mark.parametrize("compiler", [to_edge, to_grpc])
def test_a_filter_without_a_tenant_cannot_be_built(compiler: Any) -> None:
    with pytest.raises(ValueError, match="tenant"):
        compiler("", EVERYTHING, NOW_US)


@pytest.mark.parametrize("compiler", [to_edge, to_grpc])
def test_what_is_no_filter_is_refused(compiler: Any) -> None:
    for broken in (("any_of",), ("sometimes", "kind", 1)):
        with pytest.raises(ValueError, match="not a filter"):
            compiler("t", broken, NOW_US)
