"""Server-sent events, cut from network reads of any size.

Works on bytes: a record is decoded only when it is whole, so a character split over two
reads needs no care. Event names are dropped; the JSON inside says what it is.
"""

from services.router.failure import FailureKind, UpstreamFailure

MAX_RECORD_BYTES = 8 << 20
"""A record may hold an image in base64; what is larger is not a model's stream."""


class EventStream:
    """Collects reads and gives back the data of the records they complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of every record completed by `chunk`, in order; comments are dropped."""
        text = self._rest + chunk if self._rest else chunk
        held = b""
        if b"\r" in text:
            # A carriage return at the end may be half of a CRLF: its other half decides.
            if text.endswith(b"\r"):
                text, held = text[:-1], b"\r"
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *records, rest = text.split(b"\n\n")
        self._rest = rest + held
        if len(self._rest) > MAX_RECORD_BYTES:
            raise UpstreamFailure(FailureKind.TRANSIENT, "a stream record exceeds 8 MiB")
        found: list[bytes] = []
        for record in records:
            # One line of data, the form that every provider sends, takes the short way.
            if record.startswith(b"data: ") and b"\n" not in record:
                found.append(record[6:])
            elif data := _data(record):
                found.append(data)
        return found

    def flush(self) -> list[bytes]:
        """Return the data of a last record that lacks its empty line."""
        rest, self._rest = self._rest, b""
        data = _data(rest.replace(b"\r", b"\n"))
        return [data] if data else []


def _data(record: bytes) -> bytes:
    lines = (line for line in record.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)
