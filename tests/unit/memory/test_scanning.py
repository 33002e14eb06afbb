"""Paging over any mix of moments gives everything once, in order."""

from hypothesis import given
from hypothesis import strategies as st

from services.memory.scanning import page_of
from services.memory.store import Item, Position


def read(items: list[Item], limit: int, after: Position | None) -> list[Item]:
    """What a store returns: by time from the position's time on, without what was seen."""
    later = [
        item
        for item in items
        if after is None or (item.created_us >= after.created_us and item.id not in after.seen)
    ]
    return sorted(later, key=lambda item: item.created_us)[: limit + 1]


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 7))
def test_pages_hold_everything_once_and_in_order(moments: list[int], limit: int) -> None:
    items = [Item(id=str(n), kind=2, text="", created_us=t) for n, t in enumerate(moments)]
    seen: list[Item] = []
    after: Position | None = None
    while True:
        page = page_of(read(items, limit, after), limit=limit, after=after)
        seen += page.items
        if page.next is None:
            break
        assert len(page.items) == limit
        after = page.next
    assert sorted(item.id for item in seen) == sorted(item.id for item in items)
    assert [item.created_us for item in seen] == sorted(moments)
