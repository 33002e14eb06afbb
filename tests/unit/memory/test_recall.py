"""Packing keeps its promises for any window, hits and budget."""

from hypothesis import given
from hypothesis import strategies as st

from plexus.memory.v1 import memory_service_pb2 as pb
from services.memory.recall import Recalled, cost_tokens, pack
from services.memory.store import Hit, Item

texts = st.sampled_from(["a", "b fox", "c " * 30, "d " * 200, "query"])
kinds = st.sampled_from(
    [pb.MEMORY_KIND_TURN, pb.MEMORY_KIND_NOTE, pb.MEMORY_KIND_SUMMARY, pb.MEMORY_KIND_FACT]
)


def items(prefix: str) -> st.SearchStrategy[list[Item]]:
    drawn = st.lists(st.tuples(texts, kinds), max_size=8)
    return drawn.map(
        lambda each: [
            Item(id=f"{prefix}{n}", kind=kind, text=text) for n, (text, kind) in enumerate(each)
        ]
    )


def packed(window: list[Item], hits: list[Hit], **changes: object) -> list[Recalled]:
    values: dict[str, object] = {
        "query": "query",
        "exclude_texts": frozenset[str](),
        "window_turns": 8,
        "relevant_limit": 8,
        "token_budget": 1000,
        **changes,
    }
    return pack(window, hits, **values)  # pyright: ignore[reportArgumentType]


@given(
    items("w"),
    items("h"),
    st.integers(0, 400),
    st.integers(0, 9),
    st.integers(0, 9),
    st.frozensets(texts, max_size=2),
)
def test_every_limit_holds_and_nothing_comes_twice(
    window: list[Item],
    found: list[Item],
    budget: int,
    turns: int,
    relevant: int,
    excluded: frozenset[str],
) -> None:
    hits = [Hit(item, 1.0) for item in [*found, *window]]
    chosen = packed(
        window,
        hits,
        token_budget=budget,
        window_turns=turns,
        relevant_limit=relevant,
        exclude_texts=excluded,
    )
    assert sum(each.token_count for each in chosen) <= budget
    assert len({each.item.id for each in chosen}) == len(chosen)
    assert not any(each.item.text in excluded for each in chosen)
    in_window = [each for each in chosen if each.reason == pb.RECALL_REASON_WINDOW]
    others = [each for each in chosen if each.reason != pb.RECALL_REASON_WINDOW]
    assert chosen == others + in_window
    assert len(in_window) <= turns
    assert len(others) <= relevant
    eligible = [item for item in window if item.text not in excluded][:turns]
    assert [each.item for each in in_window] == eligible[: len(in_window)][::-1]
    known = {item.text for item in eligible}
    assert not any(each.item.text in known for each in others)
    order = [hit.item.id for hit in hits]
    assert [e.item.id for e in others] == sorted((e.item.id for e in others), key=order.index)


def turn(n: int, text: str) -> Item:
    return Item(id=f"t{n}", kind=pb.MEMORY_KIND_TURN, text=text)


def test_the_newest_turn_may_have_more_than_the_windows_share() -> None:
    long = turn(1, "word " * 60)
    budget = cost_tokens(long)
    hits = [Hit(Item(id="n", kind=pb.MEMORY_KIND_NOTE, text="note"), 1.0)]
    assert [each.item for each in packed([long], hits, token_budget=budget)] == [long]


def test_relevant_memories_have_their_turn_before_the_windows_tail() -> None:
    window = [turn(n, f"turn {n} " + "word " * 20) for n in range(8)]
    note = Item(id="n", kind=pb.MEMORY_KIND_NOTE, text="note " * 20)
    budget = 5 * cost_tokens(window[0])
    chosen = packed(window, [Hit(note, 1.0)], token_budget=budget)
    assert chosen[0].item is note
    assert [each.item for each in chosen[1:]] == [window[n] for n in (3, 2, 1, 0)]


def test_a_memory_that_does_not_fit_leaves_its_room_to_the_next() -> None:
    big = Item(id="big", kind=pb.MEMORY_KIND_NOTE, text="word " * 500)
    small = Item(id="small", kind=pb.MEMORY_KIND_FACT, text="small")
    chosen = packed([], [Hit(big, 2.0), Hit(small, 1.0)], token_budget=50)
    assert [(each.item, each.reason, each.score) for each in chosen] == [
        (small, pb.RECALL_REASON_FACT, 1.0)
    ]


def test_an_echo_of_the_query_is_no_memory_but_a_note_of_it_is() -> None:
    echo = turn(1, "query")
    note = Item(id="n", kind=pb.MEMORY_KIND_NOTE, text="query")
    chosen = packed([], [Hit(echo, 2.0), Hit(note, 1.0)])
    assert [each.item for each in chosen] == [note]
