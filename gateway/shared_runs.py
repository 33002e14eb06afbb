"""Runs that any replica of the gateway can read, resume and cancel.

A turn that may be resumed, or that carries an idempotency key, is published to Redis while it runs
(`gateway.publication`), and another replica reads it from there (`gateway.followed_run`). All
other turns stay in this process and cost Redis nothing. Without a Redis everything stays here.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from gateway.followed_run import FollowedRun
from gateway.publication import Publication
from gateway.runs import Run, RunRegistry, check_fingerprint, fingerprint_of, invalid_token
from gateway.settings import GatewaySettings
from gateway.shared_log import SharedLog
from mesh.clock import Clock
from mesh.errors import InvalidArgument
from mesh.redis_link import RedisLink, RedisLinkSettings, RedisUnavailable
from plexus.gateway.v1 import gateway_service_pb2 as pb

Result = TypeVar("Result")
Readable: TypeAlias = Run | FollowedRun
Execute: TypeAlias = Callable[[Run], Coroutine[Any, Any, None]]

RENEWALS_PER_LEASE = 5
"""A lease survives a few renewals that fail; a cancellation elsewhere is seen as often."""
ARRIVAL_S = 0.1
"""A run that was started elsewhere a moment ago may take this long to reach Redis."""


class SharedRuns:
    """Starts, finds and cancels runs, wherever they are. `start` once, `close` once."""

    def __init__(
        self, runs: RunRegistry, settings: GatewaySettings, clock: Clock, *, redis_url: str
    ) -> None:
        """`redis_url` is the mesh's Redis; the settings' own wins; empty keeps runs here."""
        self._runs = runs
        self._settings = settings
        self._clock = clock
        self._lease_s = settings.run_lease_ms / 1000
        self.link: RedisLink | None = None
        self._log: SharedLog | None = None
        if url := settings.redis_url or redis_url:
            self.link = RedisLink(
                RedisLinkSettings(
                    url=url, name="gateway", timeout_s=settings.redis_timeout_ms / 1000
                ),
                clock=clock,
            )
            self._log = SharedLog(
                self.link, lease_s=self._lease_s, retention_s=settings.retention_s
            )
        self._publications: dict[str, Publication] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keeper: asyncio.Task[None] | None = None

    async def begin(self, tenant: str, turn: pb.Turn, execute: Execute) -> Readable:
        """Start a run, or return the one, here or elsewhere, that the idempotency key names.

        Raises what `RunRegistry.start` raises. Waits for Redis only for a turn with a key, and
        within its time limit; a caller that goes away meanwhile leaves a run that nobody reads,
        since a repeat of its turn may already wait for what the claimed key promises.
        """
        if not turn.idempotency_key or not self._log:
            return self._start(tenant, turn, execute)
        if (known := self._runs.known(tenant, turn)) is not None:
            return known
        beginning = self._own(self._begin_keyed(self._log, tenant, turn, execute))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(self._leave)
            raise

    async def find(self, tenant: str, resume_token: str) -> Readable:
        """Return the run of a resume token; raise InvalidArgument(INVALID_RESUME_TOKEN).

        While Redis is away a token of another replica is RedisUnavailable: it may be good.
        """
        try:
            return self._runs.find(tenant, resume_token)
        except InvalidArgument:
            if not self._log:
                raise
        execution = resume_token.partition(".")[0]
        found = await self._look_up(self._log, execution)
        if found is None or found[0] != tenant:
            raise invalid_token()
        if not secrets.compare_digest(found[1].encode(), resume_token.encode()):
            raise invalid_token()
        return self._followed(execution)

    async def cancel(self, tenant: str, resume_token: str) -> bool:
        """Cancel a run by its token and return whether it was still going.

        One of another gateway hears of it within a fifth of its lease.
        """
        run = await self.find(tenant, resume_token)
        if isinstance(run, Run):
            return run.cancel()
        return await run.log.cancel(run.execution)

    def attach(self, run: Readable) -> None:
        """Count a reader in."""
        if isinstance(run, Run):
            self._runs.attach(run)

    def detach(self, run: Readable) -> None:
        """Count a reader out; the owner of a run elsewhere sees that by itself."""
        if isinstance(run, Run):
            self._runs.detach(run)

    async def start(self) -> None:
        """Begin to renew leases; nothing is sent while there is none."""
        if self._log:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Cancel what still runs, wait until it has settled and others know; bounded."""
        await self._runs.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._lease_s)
        tasks = [*self._tasks, *([self._keeper] if self._keeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.link:
            await self.link.close()

    async def _begin_keyed(
        self, log: SharedLog, tenant: str, turn: pb.Turn, execute: Execute
    ) -> Readable:
        execution = secrets.token_hex(16)
        try:
            holder = await self._claim(log, tenant, turn, execution)
        except RedisUnavailable:
            return self._start(tenant, turn, execute, doubtful=True)
        if holder != execution:
            return self._runs.of_execution(holder) or self._followed(holder)
        try:
            return self._start(tenant, turn, execute, execution=execution)
        except BaseException:
            self._own(self._free(log, tenant, turn.idempotency_key, execution))
            raise

    def _leave(self, beginning: "asyncio.Task[Readable]") -> None:
        """Count out a reader that went away before there was a run."""
        if not beginning.cancelled() and beginning.exception() is None:
            self.attach(beginning.result())
            self.detach(beginning.result())

    async def _claim(self, log: SharedLog, tenant: str, turn: pb.Turn, execution: str) -> str:
        """Take the turn's key and return the execution that holds it now."""
        key, fingerprint = turn.idempotency_key, fingerprint_of(turn)
        claim = await log.claim(tenant, key, fingerprint=fingerprint, execution=execution)
        held = self._runs.of_execution(claim.execution)
        if held is not None and held.is_lost:
            # It still settles, and its repeat need not wait for that.
            await log.settle_key(tenant, key, execution=claim.execution, keep=False)
            claim = await log.claim(tenant, key, fingerprint=fingerprint, execution=execution)
        check_fingerprint(claim.fingerprint, turn)
        return claim.execution

    def _start(
        self,
        tenant: str,
        turn: pb.Turn,
        execute: Execute,
        *,
        execution: str = "",
        doubtful: bool = False,
    ) -> Run:
        run = self._runs.start(tenant, turn, execute, execution=execution)
        shared = run.resume_window_s > 0 or run.key is not None
        if self._log and shared and not run.ended and run.booking_id not in self._publications:
            publication = Publication(
                run,
                self._log,
                self._clock,
                patience_s=self._lease_s,
                on_read=self._count_reader_elsewhere,
                doubtful=doubtful,
            )
            self._publications[run.booking_id] = publication
            self._own(self._publish(run.booking_id, publication))
        return run

    async def _publish(self, execution: str, publication: Publication) -> None:
        try:
            await publication.publish()
        finally:
            del self._publications[execution]
            publication.stop()

    def _count_reader_elsewhere(self, run: Run, present: bool) -> None:
        if present:
            self._runs.attach(run)
        else:
            self._runs.detach(run)

    async def _keep(self) -> None:
        while True:
            await self._clock.sleep(self._lease_s / RENEWALS_PER_LEASE)
            # Issued in one tick, they are one round trip.
            await asyncio.gather(*(each.renew() for each in self._publications.values()))

    async def _look_up(self, log: SharedLog, execution: str) -> tuple[str, str] | None:
        found = await log.find(execution)
        if found is None:
            await self._clock.sleep(ARRIVAL_S)
            found = await log.find(execution)
        return found

    async def _free(self, log: SharedLog, tenant: str, key: str, execution: str) -> None:
        with contextlib.suppress(RedisUnavailable):
            await log.settle_key(tenant, key, execution=execution, keep=False)

    def _followed(self, execution: str) -> FollowedRun:
        assert self._log
        return FollowedRun(
            execution=execution,
            log=self._log,
            clock=self._clock,
            lease_s=self._lease_s,
            poll_s=self._settings.follow_poll_ms / 1000,
        )

    def _own(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
