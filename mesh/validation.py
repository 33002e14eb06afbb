"""Small checks on requests; each failure names the field and what to do."""

from mesh.errors import InvalidArgument, Reason


def invalid(field: str, why: str) -> InvalidArgument:
    """Return the error for one bad field."""
    return InvalidArgument(
        f"{field}: {why}", reason=Reason.INVALID_FIELD, violations=[(field, why)]
    )


def require(condition: bool, field: str, why: str) -> None:
    """Raise InvalidArgument unless `condition` holds."""
    if not condition:
        raise invalid(field, why)


def check_bytes(text: str, field: str, *, low: int = 0, high: int) -> None:
    """Require `low` to `high` bytes of UTF-8."""
    # Characters bound bytes from below, so most texts need no encoding to be judged.
    if low <= len(text) and len(text) * 4 <= high:
        return
    size = len(text) if len(text) > high else len(text.encode())
    if not low <= size <= high:
        raise invalid(field, f"must be {low} to {high} bytes, is {size}")


def check_count(count: int, field: str, *, low: int = 0, high: int) -> None:
    """Require between `low` and `high` items."""
    require(low <= count <= high, field, f"must have {low} to {high} items, has {count}")


def page_size(value: int, *, default: int, high: int) -> int:
    """Return the page size to use: 0 means the default, more than `high` gives `high`."""
    require(value >= 0, "page_size", "must not be negative")
    return min(value or default, high)
