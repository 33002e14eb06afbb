"""Our autoscaler, as deployed, over real gateways: it scales, and no stream is lost by it."""

import dataclasses
from collections.abc import AsyncGenerator, Mapping

import aiohttp
import orjson
import pytest
import pytest_asyncio

from mesh.testing.upstream import ScriptedUpstream
from tests.autoscaler.fleet import Fleet, start_behind
from tests.autoscaler.load import Load
from tests.autoscaler.manifest import Deployed, deployed
from tests.autoscaler.oracle import SYNC_S, Autoscaler, directions
from tests.autoscaler.rehearsal import (
    CALLS_LIMIT,
    MOST_GATEWAYS,
    Rehearsal,
    chart,
    environ_of,
    scaled,
)
from tests.autoscaler.replicas import Observation, Pod
from tests.autoscaler.specification import PodsTarget
from tests.manifests.kustomize import ROOT

pytestmark = pytest.mark.timeout(150)

RAMP = [4, 6, 8, 10]
HIGH = [20] * 8
LOW = [6] * 30
REACTION_S = 60
"""How long after the load has grown there must be pods enough, on the control clock."""
PAGE = ROOT / "docs" / "autoscaling.md"
"""Shows this very run."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Rehearsal]:
    """The whole course: a ramp, a leap, and a fall."""
    manifest = deployed(tmp_path_factory.mktemp("manifest"))
    data_dir = tmp_path_factory.mktemp("data") / "data"
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as session:
        behind = await start_behind(data_dir, environ_behind(upstream))
        fleet, load = Fleet(behind, environ_of(manifest)), Load(upstream)
        try:
            rehearsal = Rehearsal(manifest, fleet, load, session)
            await rehearsal.run([*RAMP, *HIGH, *LOW])
            yield rehearsal
        finally:
            await load.close()
            await fleet.close()


def environ_behind(upstream: ScriptedUpstream) -> dict[str, str]:
    providers = {"up": {"kind": "openai", "base_url": upstream.openai_url}}
    return {
        "PLEXUS_ROUTER_PROVIDERS": orjson.dumps(providers).decode(),
        "PLEXUS_ROUTER_GROUPS": orjson.dumps({"default": ["up/held"]}).decode(),
        # Streams are held for as long as it takes to start a process.
        "PLEXUS_ROUTER_IDLE_TIMEOUT_S": "300",
        "PLEXUS_ROUTER_FIRST_TOKEN_TIMEOUT_S": "300",
    }


def test_pods_are_enough_a_minute_after_the_load_grew(run: Rehearsal) -> None:
    for row in run.rows:
        recent = [r.streams for r in run.rows if row.at_s - REACTION_S <= r.at_s <= row.at_s]
        if row.at_s >= REACTION_S:
            assert row.before >= _needed(run.deployed, min(recent)), row


def test_as_many_pods_as_the_load_needs_and_no_more(run: Rehearsal) -> None:
    assert max(row.replicas for row in run.rows) == _needed(run.deployed, max(HIGH)) == 4
    assert run.rows[-1].replicas == run.deployed.specification.low


def test_the_course_turns_round_once(run: Rehearsal) -> None:
    assert directions([row.replicas for row in run.rows]) == 1


def test_down_is_no_faster_than_the_manifest_says(run: Rehearsal) -> None:
    falls = [row for row in run.rows if row.replicas < row.before]
    assert falls, "the load fell, and pods stayed"
    down = run.deployed.hpa["spec"]["behavior"]["scaleDown"]
    window_s = down["stabilizationWindowSeconds"]
    for row in falls:
        recent = [r for r in run.rows if row.at_s - window_s < r.at_s <= row.at_s]
        assert row.replicas >= max(r.asked or r.before for r in recent)
        assert row.before - row.replicas == 1
    for earlier, later in zip(falls, falls[1:], strict=False):
        assert later.at_s - earlier.at_s >= 60


def test_no_stream_is_refused_dropped_or_truncated(run: Rehearsal) -> None:
    assert run.load.finished == run.load.opened > max(HIGH)
    assert not run.load.open
    for row in run.rows:
        assert all(scrape("plexus_calls_shed_total") == 0 for scrape in row.scrapes.values())


def test_each_pod_that_went_had_streams_to_drain(run: Rehearsal) -> None:
    assert len(run.drained) == MOST_GATEWAYS - run.deployed.specification.low
    assert all(run.drained)


def test_calls_in_flight_alone_would_never_ask_for_more(run: Rehearsal) -> None:
    """With the limit as the target, and the live gauges of the fullest moment."""
    fullest = max(run.rows, key=lambda row: row.queued)
    assert fullest.queued > 0
    running = {n: scrape("plexus_calls_in_flight") for n, scrape in fullest.scrapes.items()}
    demand = {n: run.deployed.demand_of(scrape) for n, scrape in fullest.scrapes.items()}
    assert set(running.values()) == {CALLS_LIMIT}
    assert _aimed_at_the_limit(run.deployed, running) == fullest.before
    assert _aimed_at_the_limit(run.deployed, demand) > fullest.before


def test_the_page_shows_this_run(run: Rehearsal) -> None:
    shown = chart(run.rows)
    assert shown in PAGE.read_text(encoding="utf-8"), f"docs/autoscaling.md should show:\n{shown}"


def _needed(manifest: Deployed, streams: int) -> int:
    """Return the fewest pods, of those allowed, whose share is within the tolerance."""
    spec = scaled(manifest)
    (target,) = (t for t in spec.targets if isinstance(t, PodsTarget))
    enough = (
        pods
        for pods in range(spec.low, spec.high + 1)
        if 1000 * streams / pods <= 1.1 * target.milli
    )
    return next(enough, spec.high)


def _aimed_at_the_limit(manifest: Deployed, values: Mapping[str, float]) -> int:
    """Return where the autoscaler comes to rest if it sees only these values, again and again."""
    target = PodsTarget(metric="calls", milli=1000 * CALLS_LIMIT)
    spec = dataclasses.replace(scaled(manifest), targets=(target,))
    autoscaler = Autoscaler(spec)
    replicas = len(values)
    for sync in range(1, 41):
        seen = Observation(
            pods=[Pod(name=name) for name in values],
            status_replicas=replicas,
            pod_metrics={"calls": {name: round(1000 * value) for name, value in values.items()}},
        )
        replicas = autoscaler.sync(sync * SYNC_S, replicas, seen).replicas
    return replicas
