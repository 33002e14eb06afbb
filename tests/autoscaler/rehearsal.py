"""The control loop over real processes: each 15 s of simulated time, one sync.

The processes, their streams and their /metrics are real; the time between syncs, and with it the
start of a pod and the delay of a metric, is not waited for.
"""

import asyncio
import dataclasses
from dataclasses import dataclass, field

import aiohttp

from mesh.testing.clock import ManualClock
from tests.autoscaler.fleet import Fleet, Gateway, Scrape, refuses
from tests.autoscaler.load import Load
from tests.autoscaler.manifest import Deployed
from tests.autoscaler.oracle import SYNC_S, Autoscaler
from tests.autoscaler.replicas import Observation
from tests.autoscaler.specification import PodsTarget, Specification
from tests.e2e.calls import eventually

CALLS_LIMIT = 8
"""The admission limit of a gateway here; target and queue are scaled as it is."""
MOST_GATEWAYS = 4
CHURN = 2
"""Streams that end and are followed by new ones between two syncs."""


def scaled(deployed: Deployed) -> Specification:
    """Return the deployed autoscaler for gateways that take `CALLS_LIMIT` calls."""
    spec = deployed.specification
    targets = tuple(
        dataclasses.replace(target, milli=target.milli * CALLS_LIMIT // deployed.calls_limit)
        if isinstance(target, PodsTarget)
        else target
        for target in spec.targets
    )
    return dataclasses.replace(spec, targets=targets, high=min(spec.high, MOST_GATEWAYS))


def environ_of(deployed: Deployed) -> dict[str, str]:
    """Return the gateways' settings, in the proportions of the manifest."""
    queue_limit = deployed.queue_limit * CALLS_LIMIT // deployed.calls_limit
    return {
        "PLEXUS_MAX_CONCURRENT_CALLS": str(CALLS_LIMIT),
        "PLEXUS_MAX_QUEUED_CALLS": str(queue_limit),
        "PLEXUS_DRAIN_HOLD_S": "0.1",
        "PLEXUS_DRAIN_GRACE_S": str(deployed.drain_grace_s),
    }


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sync."""

    at_s: int
    streams: int
    seen_milli: int
    """Demand per pod, as the controller saw it: of the sync before."""
    queued: int
    before: int
    asked: int | None
    replicas: int
    scrapes: dict[str, Scrape]


@dataclass(slots=True)
class Rehearsal:
    """Runs the loop; `rows` is what happened."""

    deployed: Deployed
    fleet: Fleet
    load: Load
    session: aiohttp.ClientSession
    clock: ManualClock = field(default_factory=ManualClock)
    rows: list[Row] = field(default_factory=list[Row])
    drained: list[int] = field(default_factory=list[int])
    """For each gateway that was stopped, the streams it still had."""
    _seen: dict[str, int] = field(default_factory=dict[str, int])

    async def run(self, courses: list[int]) -> None:
        """Sync once for each entry, after having brought the open streams to that number."""
        autoscaler = Autoscaler(scaled(self.deployed))
        began_s = self.clock.monotonic_s()
        await self.fleet.add(scaled(self.deployed).low, began_s)
        for streams in courses:
            before_s = self.clock.monotonic_s()
            await self.clock.advance(SYNC_S)
            await self._bring_to(streams)
            scrapes = await self._settled()
            now_s = self.clock.monotonic_s()
            pods = len(self.fleet.gateways)
            decision = autoscaler.sync(now_s, pods, self._observation(now_s, before_s))
            self.rows.append(
                Row(
                    at_s=int(now_s - began_s),
                    streams=streams,
                    seen_milli=sum(self._seen.values()) // max(1, len(self._seen)),
                    queued=int(sum(s("plexus_calls_queued") for s in scrapes.values())),
                    before=pods,
                    asked=decision.asked,
                    replicas=decision.replicas,
                    scrapes=scrapes,
                )
            )
            self._seen = self._demand(scrapes)
            await self._follow(decision.replicas, now_s)
        await self.load.end(list(self.load.open))

    def _observation(self, now_s: float, before_s: float) -> Observation:
        here = {gateway.name for gateway in self.fleet.gateways}
        demand = {name: milli for name, milli in self._seen.items() if name in here}
        return Observation(
            pods=self.fleet.pods(now_s, self.deployed.cpu_request_milli),
            status_replicas=len(here),
            cpu=self.fleet.cpu(now_s, before_s),
            pod_metrics={self.deployed.demand.metric: demand},
        )

    def _demand(self, scrapes: dict[str, Scrape]) -> dict[str, int]:
        return {
            name: round(self.deployed.demand_of(scrape) * 1000) for name, scrape in scrapes.items()
        }

    async def _bring_to(self, streams: int) -> None:
        over = max(CHURN, len(self.load.open) - streams)
        await self.load.end(self.load.open[:over])
        self.load.start(self.fleet.gateways, streams - len(self.load.open))

    async def _settled(self) -> dict[str, Scrape]:
        """Return scrapes that show every open stream: what the autoscaler reads is the truth."""

        def all_there(scrapes: dict[str, Scrape]) -> bool:
            return sum(self._demand(scrapes).values()) == 1000 * len(self.load.open)

        return await eventually(lambda: self.fleet.scrape(self.session), all_there)

    async def _follow(self, replicas: int, now_s: float) -> None:
        """Start or stop processes until there are as many as were asked for."""
        missing = replicas - len(self.fleet.gateways)
        if missing > 0:
            await self.fleet.add(missing, now_s)
        for _ in range(-missing):
            await self._drain(self.fleet.withdraw())

    async def _drain(self, gateway: Gateway) -> None:
        """SIGTERM in the middle of streams, which then go on to their end."""
        held = [stream for stream in self.load.open if stream.gateway is gateway]
        self.drained.append(len(held))
        stopping = asyncio.create_task(gateway.process.stop())
        await refuses(self.session, gateway)
        await self.load.end(held)
        assert await stopping == 0
        await gateway.channel.close()


def chart(rows: list[Row]) -> str:
    """Return the course as a table, without the syncs at which nothing changes."""
    lines = ["| second | streams | queued | demand per pod, as seen | asked for | pods |"]
    lines.append("|---:|---:|---:|---:|---:|---:|")
    before: Row | None = None
    for row in rows:
        if before is None or _changed(before, row):
            asked = "-" if row.asked is None else row.asked
            change = f"{row.before}" + (f" → {row.replicas}" if row.replicas != row.before else "")
            seen = f"{row.seen_milli / 1000:.2f}"
            cells = (row.at_s, row.streams, row.queued, seen, asked, change)
            lines.append(f"| {' | '.join(map(str, cells))} |")
        before = row
    return "\n".join(lines) + "\n"


def _changed(before: Row, row: Row) -> bool:
    return (before.streams, before.asked, before.replicas) != (
        row.streams,
        row.asked,
        row.replicas,
    )
