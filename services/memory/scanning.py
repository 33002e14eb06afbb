"""Where a page of a scan ends and the next one begins.

A position is a creation time and the ids already given at that time. The next page starts at that
time again without those ids, so items that share a moment are neither repeated nor lost, and
nothing that is written elsewhere in the order shifts a page.
"""

from collections.abc import Sequence

from services.memory.store import Item, Page, Position


def page_of(found: Sequence[Item], *, limit: int, after: Position | None) -> Page:
    """Return the page that `found`, read with a limit of one more, holds."""
    items = found[:limit]
    if not items:
        return Page(items=(), end=after or Position(created_us=0), next=None)
    last_us = items[-1].created_us
    seen = tuple(item.id for item in items if item.created_us == last_us)
    if after is not None and after.created_us == last_us:
        seen = after.seen + seen
    end = Position(created_us=last_us, seen=seen)
    return Page(items=items, end=end, next=end if len(found) > limit else None)
