"""Numbers as people read them. Pure."""

from plexus.common.v1 import model_pb2

NANO_PER_USD = 1_000_000_000


def money(nano_usd: int) -> str:
    """Return an amount in dollars: two digits from a cent up, else the leading digits."""
    usd = nano_usd / NANO_PER_USD
    if usd == 0:
        return "$0"
    if abs(usd) >= 0.01:
        return f"${usd:,.2f}"
    return f"${usd:.9f}".rstrip("0")


def cost(amount: model_pb2.Cost) -> str:
    """Return a cost; an unknown price is said, it is not zero."""
    if not amount.HasField("nano_usd"):
        return "price unknown"
    return "free" if amount.nano_usd == 0 else money(amount.nano_usd)


def milliseconds(duration_ms: float) -> str:
    """Return a duration with as many digits as matter."""
    if duration_ms >= 10_000:
        return f"{duration_ms / 1000:.1f} s"
    return f"{duration_ms:.1f} ms" if duration_ms < 10 else f"{duration_ms:.0f} ms"


def count(number: int, noun: str) -> str:
    """Return "1 memory" or "3 memories"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun[:-1]}ies" if noun.endswith("y") else f"{number:,} {noun}s"
