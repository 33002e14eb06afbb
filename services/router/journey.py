"""One request on its way: does what its route decides, and tells the caller as it goes."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from mesh.clock import Clock
from mesh.errors import to_failure
from mesh.tokens import token_eighths, tokens_from_eighths
from plexus.common.v1 import model_pb2
from plexus.router.v1 import router_service_pb2 as pb
from services.router.deployment import Deployment, HealthBook
from services.router.failure import FailureKind, UpstreamFailure, out_of_time, to_error
from services.router.providers.provider import Provider, UpstreamCall
from services.router.route import GiveUp, Route, Try, Wait
from services.router.wire.pieces import Event

Write = Callable[[Event], Awaitable[None]]
"""Sends one event to the caller; returns when there is room for more."""

SILENCE_SPEAKS_AFTER_S = 1.0
"""A silence shorter than this says more of the caller's haste than of the provider."""


@dataclass(frozen=True, kw_only=True)
class Upstreams:
    """What every journey of a router shares."""

    providers: Mapping[str, Provider]
    health: HealthBook
    clock: Clock
    idle_timeout_s: float


class Journey:
    """Runs once. `attempts`, `failed_attempts` and `restarts` may be read at any time."""

    def __init__(
        self,
        upstreams: Upstreams,
        route: Route,
        request: model_pb2.ModelRequest,
        write: Write,
        *,
        deadline_s: float,
        estimated_input_tokens: int,
    ) -> None:
        self._upstreams = upstreams
        self._clock = upstreams.clock
        self._route = route
        self._request = request
        self._write = write
        self._deadline_s = deadline_s
        self._estimated_input_tokens = estimated_input_tokens
        self._started_s = self._clock.monotonic_s()
        self.attempts = 0
        self.failed_attempts = 0
        self.restarts = 0

    async def run(self) -> None:
        """Write events until the answer is finished; raise what the caller should see otherwise."""
        while True:
            fitness = self._upstreams.health.fitness(self._route.candidates)
            match self._route.decide(self._clock.monotonic_s(), fitness, jitter=random.random()):
                case Wait(delay_s=delay_s):
                    await self._clock.sleep(delay_s)
                case GiveUp(error=error):
                    raise error
                case Try() as action:
                    if await self._try(action):
                        return

    async def _try(self, action: Try) -> bool:
        """Make one attempt; return whether it finished the answer."""
        health = self._upstreams.health.of(action.deployment)
        if not health.breaker.allow():
            self._route.withdraw(action.deployment)
            return False
        attempt = _Attempt(self, action)
        failure: UpstreamFailure | None = None
        try:
            failure = await attempt.run()
        except BaseException:
            # Cancelled, out of time, or a fault of ours: no word on the deployment.
            health.breaker.abandon()
            raise
        if failure is None:
            health.record_success()
            return True
        if attempt.speaks_of_health(failure):
            health.record_failure(failure)
        else:
            health.breaker.abandon()
        self.failed_attempts += 1
        now_s = self._clock.monotonic_s()
        self._route.failed(action.deployment, failure, now_s, has_output=attempt.has_output)
        await self._write(Event(attempt=attempt.failed_event(failure)))
        return False

    async def begin(self, action: Try) -> int:
        """Tell the caller of an attempt; return its number."""
        self.attempts += 1
        if action.is_restart:
            self.restarts += 1
            await self._write(Event(reset=pb.Reset(why=action.why)))
        attempt = _attempt_event(self.attempts, action.deployment)
        attempt.why = action.why
        attempt.estimated_input_tokens = self._estimated_input_tokens
        await self._write(Event(attempt=attempt))
        return self.attempts

    async def generate(self, attempt: "_Attempt", action: Try) -> None:
        """Call the provider, bounded by silence before content and by the deadline after it."""
        deployment = action.deployment
        call = UpstreamCall(
            request=self._request,
            model=deployment.model,
            estimated_input_tokens=self._estimated_input_tokens,
            idle_timeout_s=min(self._upstreams.idle_timeout_s, action.silence_s),
        )
        await self._upstreams.providers[deployment.provider].generate(call, attempt.emit)

    async def forward(self, event: Event, first_content_s: float, deployment: Deployment) -> None:
        """Send one event on; complete the last one with what only the journey knows."""
        if event.HasField("finished"):
            event.finished.provider = deployment.provider
            event.finished.deployment = deployment.name
            event.finished.time_to_first_token_ms = (first_content_s - self._started_s) * 1e3
        await self._write(event)

    def seconds_left(self) -> float:
        """What is left of the caller's deadline; may be negative."""
        return self._deadline_s - self._clock.monotonic_s()

    def now_s(self) -> float:
        """The time on the clock that deadlines are on."""
        return self._clock.monotonic_s()

    def usage(self, output_eighths: int) -> model_pb2.Usage:
        """Estimate what an attempt used that never reported."""
        return model_pb2.Usage(
            input_tokens=self._estimated_input_tokens,
            output_tokens=tokens_from_eighths(output_eighths),
            estimated=True,
        )


class _Attempt:
    """One call to one deployment, watched from the first byte to the last."""

    def __init__(self, journey: Journey, action: Try) -> None:
        self._journey = journey
        self._action = action
        self._number = 0
        self._began_s = journey.now_s()
        self._first_content_s = 0.0
        self._output_eighths = 0
        self._silence: asyncio.Timeout | None = None
        self.has_output = False

    async def run(self) -> UpstreamFailure | None:
        """Return how the attempt failed, or None when it finished the answer."""
        self._number = await self._journey.begin(self._action)
        try:
            async with asyncio.timeout(self._action.silence_s) as self._silence:
                await self._journey.generate(self, self._action)
        except UpstreamFailure as failure:
            return failure
        except TimeoutError:
            if self.has_output:
                raise out_of_time(self._action.deployment.name) from None
            return UpstreamFailure(
                FailureKind.SILENT,
                f"no content within {self._action.silence_s:.1f} s",
                usage=self._journey.usage(0),
            )
        return None

    async def emit(self, events: list[Event]) -> None:
        """Take the provider's events; the first ends the wait for content."""
        if not self._first_content_s:
            self._first_content_s = self._journey.now_s()
            if self._silence is not None:
                left_s = self._journey.seconds_left()
                self._silence.reschedule(asyncio.get_running_loop().time() + left_s)
        for event in events:
            if not event.HasField("finished"):
                self.has_output = True
                self._output_eighths += token_eighths(event.text or event.reasoning)
            await self._journey.forward(event, self._first_content_s, self._action.deployment)

    def speaks_of_health(self, failure: UpstreamFailure) -> bool:
        """Whether the failure tells of the deployment, not of a caller in a hurry."""
        hurried = self._action.silence_s < SILENCE_SPEAKS_AFTER_S
        return failure.kind is not FailureKind.SILENT or not hurried

    def failed_event(self, failure: UpstreamFailure) -> pb.Attempt:
        """Return the event that books the failed attempt."""
        usage = failure.usage
        if usage is None and self.has_output:
            usage = self._journey.usage(self._output_eighths)
        event = _attempt_event(self._number, self._action.deployment)
        event.failure.CopyFrom(to_failure(to_error(failure, self._action.deployment.name)))
        event.duration_ms = (self._journey.now_s() - self._began_s) * 1e3
        if usage is not None:
            event.usage.CopyFrom(usage)
        return event


def _attempt_event(number: int, deployment: Deployment) -> pb.Attempt:
    return pb.Attempt(
        number=number,
        deployment=deployment.name,
        provider=deployment.provider,
        model=deployment.model,
    )
