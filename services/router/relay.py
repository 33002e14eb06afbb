"""Starts journeys, bounds how many there are, and counts how they end."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.call import remaining_s
from mesh.errors import ResourceExhausted
from plexus.common.v1 import model_pb2
from services.router.deployment import Deployment
from services.router.journey import Journey, Upstreams, Write
from services.router.route import Candidate, Route, RoutePolicy


@dataclass(kw_only=True)
class RelayStatistics:
    """Counts since the start, but for `in_progress`."""

    in_progress: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    attempts: int = 0
    failed_attempts: int = 0
    restarts: int = 0


class Relay:
    """Streams answers from deployments to callers, at most `max_in_progress` at a time."""

    def __init__(
        self,
        upstreams: Upstreams,
        policy: RoutePolicy,
        *,
        default_deadline_s: float,
        max_in_progress: int,
    ) -> None:
        self._upstreams = upstreams
        self._policy = policy
        self._default_deadline_s = default_deadline_s
        self._max_in_progress = max_in_progress
        self.statistics = RelayStatistics()

    async def relay(
        self,
        request: model_pb2.ModelRequest,
        candidates: Sequence[Deployment],
        write: Write,
        *,
        estimated_input_tokens: int,
        estimated_tokens: int,
    ) -> None:
        """Write the events of one answer, or raise what the caller should see.

        Cancelling closes the upstream connection. Refuses with OVERLOADED beyond the limit.
        """
        if self.statistics.in_progress >= self._max_in_progress:
            self.statistics.refused += 1
            raise ResourceExhausted("too many answers in progress; try again", retry_after_s=1.0)
        deadline_s = self._deadline_s()
        journey = Journey(
            self._upstreams,
            self._route(candidates, estimated_tokens, deadline_s),
            request,
            write,
            deadline_s=deadline_s,
            estimated_input_tokens=estimated_input_tokens,
        )
        await self._run(journey)

    def explain(self, candidates: Sequence[Deployment], estimated_tokens: int) -> list[Candidate]:
        """Return the candidates as a request would meet them now; calls none of them."""
        route = self._route(candidates, estimated_tokens, self._deadline_s())
        return route.explain(
            self._upstreams.clock.monotonic_s(), self._upstreams.health.fitness(candidates)
        )

    async def _run(self, journey: Journey) -> None:
        counts = self.statistics
        counts.in_progress += 1
        try:
            await journey.run()
            counts.finished += 1
        except asyncio.CancelledError:
            counts.cancelled += 1
            raise
        except BaseException:
            counts.failed += 1
            raise
        finally:
            counts.in_progress -= 1
            counts.attempts += journey.attempts
            counts.failed_attempts += journey.failed_attempts
            counts.restarts += journey.restarts

    def _route(
        self, candidates: Sequence[Deployment], estimated_tokens: int, deadline_s: float
    ) -> Route:
        return Route(
            candidates, self._policy, estimated_tokens=estimated_tokens, deadline_s=deadline_s
        )

    def _deadline_s(self) -> float:
        return self._upstreams.clock.monotonic_s() + remaining_s(self._default_deadline_s)
