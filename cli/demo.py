"""`plexus demo`: the main job on real input, step by step, in a running mesh or one of its own."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from cli.client import KEY_VARIABLE, MeshClient, addresses, explained, http_url, is_ready
from cli.console import errors, output
from cli.tour import DOCUMENT, Tour, as_data, results_table
from mesh.errors import NotFound
from mesh.logs import configure

NEXT_STEPS = """\
What to try next
  make run                      a mesh that stays; then, in another terminal:
  plexus chat                   talk to it; tell it something, and ask in a new conversation
  plexus cost                   what it cost, and what the cache saved
  plexus doctor                 whether all is well
  export OPENAI_API_KEY=...     or ANTHROPIC_API_KEY: the same mesh with a language model"""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A mesh to tour: its client and its HTTP edge."""

    client: MeshClient
    http_url: str


def demo(
    own: Annotated[
        bool, typer.Option("--own", help="Start a mesh for it, even if one is running.")
    ] = False,
    key: Annotated[
        str, typer.Option(envvar=KEY_VARIABLE, help="An API key.", show_default=False)
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, the tour to stderr.")
    ] = False,
) -> None:
    """A guided tour: a document, a conversation, memory, cache, cost. It needs no key.

    It runs in the mesh that is running here, else in one of its own that leaves nothing behind.
    What it stores is under an agent of its own, and is deleted at the end. Exit code 1 when a
    step did not do what it should.
    """
    if not DOCUMENT.is_file():
        raise NotFound(f"The demo's document {DOCUMENT} is missing: run the demo from a checkout.")
    asyncio.run(_demo(own=own, key=key, as_json=as_json))


async def _demo(*, own: bool, key: str, as_json: bool) -> None:
    screen = errors() if as_json else output()
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(_place(own, key, screen))
        await stack.enter_async_context(explained(place.client.addresses["gateway"]))
        tour = Tour(place.client, place.http_url, key=key, screen=screen)
        try:
            await tour.run()
        finally:
            if as_json:
                typer.echo(orjson.dumps(as_data(tour.steps), option=orjson.OPT_INDENT_2).decode())
            elif tour.steps:
                screen.print("\nWhat each turn took", style="bold cyan")
                screen.print(results_table(tour.steps))
            await tour.clean_up()
    if not as_json:
        screen.print(f"\n{NEXT_STEPS}", highlight=False)


@asynccontextmanager
async def _place(own: bool, key: str, screen: Console) -> AsyncGenerator[_Place]:
    """Find the running mesh, or run one for as long as the block lasts."""
    where = addresses()
    if not own and await is_ready(where["gateway"]):
        screen.print(f"Using the mesh that runs at {where['gateway']}.", style="dim")
        async with MeshClient(where, key=key) as client:
            yield _Place(client=client, http_url=http_url())
        return
    from cli.embedded import embedded_mesh

    configure("error")
    screen.print("Starting a mesh for this demo, on free ports and in a temporary folder.")
    environ = {**os.environ, "PLEXUS_AUTH": "open", "PLEXUS_HOST": "127.0.0.1"}
    with tempfile.TemporaryDirectory(prefix="plexus-demo-") as folder:
        async with embedded_mesh(data_dir=Path(folder), ports="free", environ=environ) as mesh:
            for line in mesh.provider_lines:
                screen.print(f"  {line}", style="dim")
            async with MeshClient(mesh.addresses, tls=mesh.host.tls) as client:
                yield _Place(client=client, http_url=mesh.http_url)
