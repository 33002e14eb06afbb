"""Cold starts and resident memory."""

from pathlib import Path

from bench.plan import Plan
from bench.process import Processes, tree
from bench.progress import Shown
from bench.result import FootprintRow, StartRow
from bench.statistics import spread
from bench.systems import System, start_distributed, start_embedded

MIB = 2**20


async def run_cold(folder: Path, upstream_url: str, plan: Plan, shown: Shown) -> list[StartRow]:
    """Start each topology a few times, in turns, each time with a new data folder."""
    shown.begin("cold", plan.cold_starts * 2)
    embedded: list[float] = []
    slowest: list[float] = []
    for number in range(plan.cold_starts):
        place = folder / f"cold-{number}"
        place.mkdir()
        async with Processes(place) as processes:
            shown.advance("plexus up")
            system = await start_embedded(processes, place, upstream_url)
            embedded.append(system.cold_start_s)
        async with Processes(place) as processes:
            shown.advance("plexus serve, each component")
            system = await start_distributed(processes, place, upstream_url)
            slowest.append(system.cold_start_s)
    return [
        StartRow(system="plexus up", cold_start_s=spread(embedded)),
        StartRow(system="plexus serve, the slowest component", cold_start_s=spread(slowest)),
    ]


def weigh(*pids: int) -> dict[tuple[int, str], float]:
    """Return the resident MiB of these processes and what they started, by id and name."""
    return {
        (sample.pid, process_name(sample.command)): sample.resident_bytes / MIB
        for sample in tree(*pids)
    }


def footprint(
    system: System,
    idle: dict[tuple[int, str], float],
    loaded: dict[tuple[int, str], float],
) -> list[FootprintRow]:
    """Return a row per process that was there both times."""
    return [
        FootprintRow(
            system=system.name, process=name, idle_mib=idle[pid, name], loaded_mib=loaded[pid, name]
        )
        for pid, name in idle
        if (pid, name) in loaded
    ]


def process_name(command: str) -> str:
    """Return what a process is, from its command line."""
    words = command.split()
    if "redis-server" in command:
        return "redis-server"
    if "services.memory.engine" in command:
        return "memory engine"
    if "cli.main" in words:
        rest = words[words.index("cli.main") + 1 :]
        return " ".join(["plexus", *(word for word in rest if not word.startswith("-"))])
    if "-m" in words:
        return words[words.index("-m") + 1]
    return Path(words[0]).name if words else "?"
