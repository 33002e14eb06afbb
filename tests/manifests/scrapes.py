"""The metrics of a running mesh, one process per component, each kept to its image's packages."""

import json
import re
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from mesh.testing.qdrant import QdrantDouble
from plexus.metrics.v1 import metrics_service_pb2 as pb
from plexus.metrics.v1 import metrics_service_pb2_grpc
from tests.e2e.calls import chat, only, turn
from tests.e2e.processes import COMPONENTS, Mesh, start_distributed
from tests.manifests.kustomize import ROOT

LOCKS: Mapping[str, tuple[str, ...]] = {
    "gateway": ("gateway",),
    "memory": ("memory", "memory-nodeps"),
    "router": ("router", "nodeps"),
    "cache": ("cache",),
    "metrics": ("metrics",),
}
"""The locks that the Dockerfile puts into each component's image."""

FENCE = """\
import json, os, sys

class Fence:
    \"\"\"Refuses what is not in the image, before the installed packages are looked at.\"\"\"

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.absent:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

if "serve" in sys.orig_argv:
    fence = Fence()
    component = sys.orig_argv[sys.orig_argv.index("serve") + 1]
    fence.absent = set(json.loads(os.environ["ABSENT_MODULES"])[component])
    sys.meta_path.insert(0, fence)
"""


@dataclass
class Scrape:
    """What a process says on /metrics: labels and their values by the name of the sample."""

    samples: dict[str, list[Mapping[str, str]]] = field(
        default_factory=dict[str, list[Mapping[str, str]]]
    )


def absent_modules(component: str) -> set[str]:
    """Return the modules installed here that are in none of the locks of a component."""
    pinned: set[str] = set()
    for lock in LOCKS[component]:
        text = (ROOT / "requirements" / f"{lock}.txt").read_text()
        pinned |= {_canonical(found) for found in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    ours = {"plexus-mesh"}
    return {
        module
        for module, distributions in packages_distributions().items()
        if not {_canonical(name) for name in distributions} & (pinned | ours)
        and module not in sys.stdlib_module_names
        and module != "google"  # a namespace that several packages share
    }


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def fence(folder: Path) -> dict[str, str]:
    """Return the variables that keep `plexus serve` to what the component's image holds."""
    (folder / "fence").mkdir()
    (folder / "fence" / "sitecustomize.py").write_text(FENCE)
    absent = {name: sorted(absent_modules(name)) for name in COMPONENTS}
    return {"PYTHONPATH": str(folder / "fence"), "ABSENT_MODULES": json.dumps(absent)}


@asynccontextmanager
async def fenced_mesh(folder: Path) -> AsyncGenerator[Mesh]:
    """Run five components on Redis and on a Qdrant, with what their images hold and no more."""
    qdrant = QdrantDouble(folder / "qdrant")
    await qdrant.start()
    environ = {
        **fence(folder),
        "PLEXUS_MEMORY_STORE": "server",
        "PLEXUS_MEMORY_QDRANT_URL": qdrant.url,
    }
    try:
        mesh = await start_distributed(folder / "data", environ)
        try:
            yield mesh
        finally:
            await mesh.stop()
    finally:
        await qdrant.close()


async def scrape(mesh: Mesh) -> dict[str, Scrape]:
    """Give every metric a reason to be there, and return what each component says."""
    events = await chat(mesh, turn("What is a mesh?", conversation="c"))
    assert only(events, "completed"), events
    await _book(mesh)
    found: dict[str, Scrape] = {}
    async with aiohttp.ClientSession() as session:
        for component, process in mesh.processes.items():
            url = process.ready.get("admin_url") or process.ready["http_url"]
            await (await session.get(f"{url}/healthz")).read()
            async with session.get(f"{url}/metrics") as response:
                found[component] = _parse(await response.text())
    return found


async def _book(mesh: Mesh) -> None:
    """Book an answer with a price, and one that the cache saved."""
    request = pb.RecordUsageRequest()
    for cached in (False, True):
        event = request.events.add(
            event_id=f"manifests-{cached}",
            operation="chat",
            provider="openai",
            model="gpt-4o",
            cached=cached,
            duration_ms=900,
            time_to_first_token_ms=100,
        )
        event.usage.input_tokens = event.usage.output_tokens = 1000
    stub = metrics_service_pb2_grpc.MetricsServiceStub(mesh.channel("metrics"))
    await stub.RecordUsage(request, timeout=10)


def _parse(text: str) -> Scrape:
    scraped = Scrape()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            scraped.samples.setdefault(sample.name, []).append(sample.labels)
    return scraped
