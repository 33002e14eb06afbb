"""A run of another gateway, read through Redis: what was, then what comes, to the terminal event.

The stream ends in every case. When the owner's lease has run out, or Redis cannot be asked for as
long as a lease lasts, the reader gets one `failed` event with STREAM_INTERRUPTED.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from gateway.shared_log import SharedLog, Tail
from mesh.clock import Clock
from mesh.errors import Reason, Unavailable, to_failure
from mesh.redis_link import RedisUnavailable
from mesh.validation import invalid
from plexus.gateway.v1 import gateway_service_pb2 as pb

ORPHANED_S = 1.0
"""A lease must be seen missing for this long: a Redis that was away outlives leases, and their
owners need a moment to renew them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedRun:
    """Stands where a `Run` does for a reader. Holds nothing; any number may follow one run."""

    execution: str
    log: SharedLog
    clock: Clock
    lease_s: float
    poll_s: float
    """How often Redis is asked while nothing comes: the delay that following adds at most."""

    async def follow(self, after: int = 0) -> AsyncGenerator[pb.ChatResponse]:
        """Yield the events after sequence number `after`, then new ones, to the terminal one.

        Raises InvalidArgument for a position that an ended run does not have.
        """
        doubt = _Doubt(self.clock, self.lease_s)
        while True:
            tail = await self._read(after)
            for data in tail.events if tail else ():
                event = pb.ChatResponse.FromString(data)
                after = event.sequence
                yield event
                if event.WhichOneof("event") in ("completed", "failed"):
                    return
            if tail and tail.ended and not tail.events:
                await self._check_position(after)
                return
            if doubt.is_lasting(tail):
                yield _interrupted(after + 1)
                return
            if not (tail and tail.events):
                await self.clock.sleep(self.poll_s)

    async def _read(self, after: int) -> Tail | None:
        try:
            return await self.log.read(
                self.execution, after=after, present_s=self.lease_s + self.poll_s
            )
        except RedisUnavailable:
            return None

    async def _check_position(self, after: int) -> None:
        """Refuse a position past the end; reading after the last event is reading nothing."""
        if after and not (await self.log.read(self.execution, after=after - 1, present_s=1)).events:
            raise invalid("resume.after_sequence", "this run has fewer events")


class _Doubt:
    """How long nothing has been heard of the owner, and whether that is too long."""

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._kind = ""
        self._since_s = 0.0
        self._last_sure_s = clock.monotonic_s()

    def is_lasting(self, tail: Tail | None) -> bool:
        """Take in what was read; return whether the run is to be given up."""
        now_s = self._clock.monotonic_s()
        if tail is not None and (tail.owned or tail.ended):
            self._kind, self._last_sure_s = "", now_s
            return False
        kind = "redis" if tail is None else "orphaned" if tail.begun else "not begun"
        if kind != self._kind:
            self._kind, self._since_s = kind, now_s
        limit_s = ORPHANED_S if kind == "orphaned" else self._lease_s
        # A Redis that comes and goes must not make a reader wait for ever.
        longest_s = 2 * self._lease_s + ORPHANED_S
        return now_s - self._since_s >= limit_s or now_s - self._last_sure_s >= longest_s


def _interrupted(sequence: int) -> pb.ChatResponse:
    error = Unavailable(
        "the gateway that ran this turn is gone or cannot be reached; start the turn again",
        reason=Reason.STREAM_INTERRUPTED,
    )
    return pb.ChatResponse(sequence=sequence, failed=to_failure(error))
