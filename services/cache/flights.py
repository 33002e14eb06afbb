"""Single-flight: of equal requests at one time, one leads and the others wait for its answer.

A leader holds a lease that ends by itself. When it ends without an answer, given up or expired,
exactly one of those who wait becomes the leader; whoever waits longest is first. A waiter that
leaves affects nobody, not even when it was just about to lead.
"""

import asyncio
import itertools
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from mesh.clock import Clock
from services.cache.lease import NONCE_BYTES

T = TypeVar("T")

OVERDUE_SCAN: Final = 8
"""How many of the oldest flights are looked at for expiry whenever a new one starts."""


@dataclass(frozen=True, slots=True)
class Led(Generic[T]):
    """The caller leads. `nonce` names its lease; None when nobody may wait for it.

    `waited`: another led before, who may have left an answer elsewhere.
    """

    nonce: bytes | None
    waited: bool = False


@dataclass(frozen=True, slots=True)
class Landed(Generic[T]):
    """The answer of another caller."""

    answer: T


@dataclass(frozen=True, kw_only=True)
class FlightStatistics:
    """A snapshot; counts never go down."""

    flights: int
    waiting: int
    led: int
    joined: int
    handovers: int
    gave_up: int
    unleased: int


@dataclass(slots=True)
class _Flight(Generic[T]):
    key: bytes
    leases: dict[bytes, float] = field(default_factory=dict[bytes, float])
    """Nonce to expiry on the monotonic clock; more than one after a waiter gave up waiting."""
    waiters: "OrderedDict[asyncio.Future[Landed[T] | Led[T]], None]" = field(
        default_factory=OrderedDict[asyncio.Future["Landed[T] | Led[T]"], None]
    )
    landed: Landed[T] | None = None


class Flights(Generic[T]):
    """Who leads and who waits, by key. Belongs to one event loop."""

    def __init__(self, clock: Clock, *, lease_s: float, max_flights: int, max_waiters: int) -> None:
        """A lease ends after `lease_s`. Past `max_flights` nobody waits for a new flight; past
        `max_waiters` a caller leads instead of waiting.
        """
        self._clock = clock
        self._lease_s = lease_s
        self._max_flights = max_flights
        self._max_waiters = max_waiters
        self._flights: OrderedDict[bytes, _Flight[T]] = OrderedDict()
        self._by_nonce: dict[bytes, _Flight[T]] = {}
        self._led = 0
        self._joined = 0
        self._handovers = 0
        self._gave_up = 0
        self._unleased = 0

    async def enter(self, key: bytes, *, max_wait_s: float) -> Landed[T] | Led[T]:
        """Lead, or wait at most `max_wait_s` for the leader's answer and lead if there is none.

        Cancellable at any moment.
        """
        self._drop_overdue()
        flight = self._flights.get(key)
        if flight is None:
            return self._start(key)
        if flight.landed is not None:
            self._joined += 1
            return flight.landed
        if max_wait_s <= 0 or len(flight.waiters) >= self._max_waiters:
            return self._lead(flight)
        return await self._wait(flight, self._clock.monotonic_s() + max_wait_s)

    def land(self, nonce: bytes, key: bytes, answer: T) -> None:
        """Give the answer to all who wait, and to all who come until `finish`."""
        flight = self._of(nonce, key)
        if flight is None or flight.landed is not None:
            return
        flight.landed = Landed(answer)
        for waiter in flight.waiters:
            if not waiter.done():
                waiter.set_result(flight.landed)
        flight.waiters.clear()

    def finish(self, nonce: bytes, key: bytes) -> None:
        """End a lease. Without an answer, one of those who wait leads; twice is no error."""
        flight = self._of(nonce, key)
        if flight is None:
            return
        ended = list(flight.leases) if flight.landed else [nonce]
        for each in ended:
            del self._by_nonce[each], flight.leases[each]
        self._settle(flight)

    def statistics(self) -> FlightStatistics:
        """A snapshot."""
        return FlightStatistics(
            flights=len(self._flights),
            waiting=sum(len(flight.waiters) for flight in self._flights.values()),
            led=self._led,
            joined=self._joined,
            handovers=self._handovers,
            gave_up=self._gave_up,
            unleased=self._unleased,
        )

    def _of(self, nonce: bytes, key: bytes) -> _Flight[T] | None:
        flight = self._by_nonce.get(nonce)
        return flight if flight is not None and flight.key == key else None

    def _start(self, key: bytes) -> Led[T]:
        if len(self._flights) >= self._max_flights:
            self._unleased += 1
            return Led(None)
        flight = self._flights[key] = _Flight[T](key)
        return self._lead(flight, waited=False)

    def _lead(self, flight: _Flight[T], *, waited: bool = True) -> Led[T]:
        nonce = secrets.token_bytes(NONCE_BYTES)
        flight.leases[nonce] = self._clock.monotonic_s() + self._lease_s
        self._by_nonce[nonce] = flight
        self._led += 1
        return Led(nonce, waited)

    async def _wait(self, flight: _Flight[T], deadline_s: float) -> Landed[T] | Led[T]:
        waiter: asyncio.Future[Landed[T] | Led[T]] = asyncio.get_running_loop().create_future()
        flight.waiters[waiter] = None
        try:
            while not waiter.done():
                now_s = self._clock.monotonic_s()
                if now_s >= deadline_s:
                    self._gave_up += 1
                    return self._lead(flight)
                expiry_s = max(flight.leases.values(), default=now_s)
                await _first(waiter, self._clock, min(deadline_s, expiry_s) - now_s)
                self._expire(flight)
            result = waiter.result()
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                promoted = waiter.result()
                if isinstance(promoted, Led) and promoted.nonce is not None:
                    self.finish(promoted.nonce, flight.key)
            raise
        finally:
            flight.waiters.pop(waiter, None)
        if isinstance(result, Landed):
            self._joined += 1
        return result

    def _expire(self, flight: _Flight[T]) -> None:
        """End the leases whose time is up."""
        now_s = self._clock.monotonic_s()
        for nonce in [nonce for nonce, expiry_s in flight.leases.items() if expiry_s <= now_s]:
            del flight.leases[nonce], self._by_nonce[nonce]
        self._settle(flight)

    def _settle(self, flight: _Flight[T]) -> None:
        """With no lease left: hand over to one waiter, or forget the flight."""
        if flight.leases:
            return
        while flight.waiters:
            waiter, _ = flight.waiters.popitem(last=False)
            if not waiter.done():
                self._handovers += 1
                waiter.set_result(self._lead(flight))
                return
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _drop_overdue(self) -> None:
        """Forget old flights whose leaders vanished and for which nobody waits."""
        for flight in list(itertools.islice(self._flights.values(), OVERDUE_SCAN)):
            self._expire(flight)


async def _first(waiter: "asyncio.Future[T]", clock: Clock, delay_s: float) -> None:
    """Return when `waiter` is done or the time is up; cancelling this cancels neither."""
    sleeper = asyncio.ensure_future(clock.sleep(max(0.0, delay_s)))
    try:
        await asyncio.wait((waiter, sleeper), return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeper.cancel()
