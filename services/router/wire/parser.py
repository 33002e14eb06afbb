"""What the HTTP providers ask of a dialect's stream parser."""

from typing import Protocol

from plexus.common.v1 import model_pb2
from services.router.wire.pieces import Event


class StreamParser(Protocol):
    """Turns the bytes of one response into events. Pure; raises UpstreamFailure."""

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events of one network read, neighbours merged."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether nothing of the answer can follow."""
        ...

    @property
    def is_ending(self) -> bool:
        """Whether the answer itself has ended and only its accounts may follow."""
        ...

    def end(self) -> list[Event]:
        """Return the last events, `finished` among them; raise when the answer broke off."""
        ...

    def usage(self) -> model_pb2.Usage:
        """Return what was used so far: as reported, else estimated and marked."""
        ...
