"""`plexus bench`: measure the mesh beside the bare relay, and beside peers that are installed."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from cli.console import errors, output
from mesh.errors import FailedPrecondition, Reason

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench/results"
RECORDED = RESULTS / "result.json"
PARTIAL = RESULTS / "partial"
TERMINATED = 143
"""The exit code after SIGTERM, as shells have it."""
CHECKED_STEPS = ("streams",)


def bench(
    only: Annotated[
        str,
        typer.Option(metavar="STEPS", help="Some of the steps, by comma; see --list."),
    ] = "",
    targets: Annotated[
        str, typer.Option(metavar="NAMES", help="Some of the scenarios, by comma; see --list.")
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Small counts: rough figures.")] = False,
    peers: Annotated[bool, typer.Option(help="Measure the peers that are installed.")] = True,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the recorded ratios; fail on a drop.")
    ] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List steps and scenarios.")] = False,
) -> None:
    """Measure the mesh beside the bare relay, and beside peers that are installed.

    A whole run is recorded in bench/results; any other goes to bench/results/partial.
    """
    _need_sources()
    if check and not RECORDED.exists():
        raise _refused("nothing is recorded to compare with: run `make bench` first")
    if show_list:
        _list()
        return
    result = _run(only, targets, quick=quick or check, with_peers=peers and not check, check=check)
    folder = RESULTS if result.is_whole else PARTIAL
    if check:
        _check(result)
        return
    from bench.record import write

    page = write(result, folder)
    output().print(page, soft_wrap=True)
    errors().print(f"written to {folder}")


def _run(only: str, targets: str, *, quick: bool, with_peers: bool, check: bool) -> Any:
    from bench.plan import STEPS, Plan, quick_plan
    from bench.progress import Shown
    from bench.run import run_benchmark
    from bench.scenarios import LABELS

    steps = CHECKED_STEPS if check else _chosen(only, STEPS)
    plan = quick_plan(steps) if quick else Plan(steps=steps)
    scenarios = _chosen(targets, tuple(LABELS))
    runner = asyncio.Runner(loop_factory=_loop_factory())
    with Shown() as shown, runner:
        try:
            return runner.run(
                run_benchmark(plan, scenarios=scenarios, with_peers=with_peers, shown=shown)
            )
        except asyncio.CancelledError as error:
            raise typer.Exit(TERMINATED) from error


def _check(result: Any) -> None:
    """Print how the ratios changed; leave with code 1 when one dropped too far."""
    from bench.comparison import DROP, changes, ratios
    from bench.record import as_json
    from bench.scenarios import LABELS

    before = ratios(orjson.loads(RECORDED.read_bytes()), targets=tuple(LABELS))
    after = ratios(orjson.loads(as_json(result)), targets=tuple(LABELS))
    found = changes(before, after)
    for each in found:
        verdict = f"dropped by {each.drop:.0%}" if each.is_failure else "ok"
        output().print(
            f"{each.target:<15} {each.kind:<7} {each.before:.2f} → {each.after:.2f}  {verdict}"
        )
    if not found:
        raise _refused("the two runs have no ratio in common")
    if any(each.is_failure for each in found):
        errors().print(f"A ratio dropped by more than {DROP:.0%}; see docs/performance.md.")
        raise typer.Exit(1)


def _chosen(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names in their usual order; all of them for an empty text."""
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise typer.BadParameter(f"there is no {unknown[0]!r}; known: {', '.join(known)}")
    return tuple(name for name in known if name in wanted) or known


def _list() -> None:
    from bench.peers import PEERS
    from bench.plan import STEPS
    from bench.scenarios import LABELS

    output().print(f"steps: {', '.join(STEPS)}")
    for name, label in LABELS.items():
        output().print(f"{name:<15} {label}")
    for peer in PEERS:
        state = "" if peer.is_installed() else f" (not here: {peer.missing})"
        output().print(f"{peer.name:<15} {peer.label}{state}")


def _need_sources() -> None:
    if not (ROOT / "bench/run.py").exists():
        raise _refused("the benchmark comes with the sources only: clone the repository")


def _refused(why: str) -> FailedPrecondition:
    return FailedPrecondition(why, reason=Reason.INVALID_SETTINGS)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
