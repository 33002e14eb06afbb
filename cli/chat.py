"""`plexus chat`: one question, or a conversation, through a running mesh."""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Annotated, Final

import orjson
import typer
from google.protobuf import json_format

from cli.answer import Answer, events, user_turn
from cli.client import KEY_VARIABLE, MeshClient, addresses, explained, is_ready, unreachable
from cli.console import errors, output, plain
from cli.transcript import Transcript
from mesh.errors import PlexusError

PROMPT: Final = "you › "

HELP: Final = """\
/new    start a new conversation: the window is empty, memories stay
/help   this list
/quit   leave, as Ctrl-D does
Ctrl-C cancels a running answer; at the prompt it leaves."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How a person wants to be answered."""

    conversation: str = ""
    user: str = ""
    model: str = ""
    use_memory: bool = True
    use_cache: bool = True
    as_json: bool = False
    verbose: bool = False


def chat(
    message: Annotated[
        str | None, typer.Argument(help="What to say; without it a conversation begins.")
    ] = None,
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The gateway; by default as set, or here.")
    ] = "",
    key: Annotated[
        str, typer.Option(envvar=KEY_VARIABLE, help="An API key.", show_default=False)
    ] = "",
    conversation: Annotated[str, typer.Option(help="Continue this conversation.")] = "",
    user: Annotated[str, typer.Option(help="On whose behalf; memories are per user.")] = "",
    model: Annotated[str, typer.Option(help="A model group, or provider/model.")] = "",
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Recall and keep nothing.")
    ] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Ask the model anew.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show a table of stages.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line.")] = False,
) -> None:
    """Talk through a running mesh; answers stream.

    The answer goes to standard output, all about it to standard error. A piped answer is
    written when it is whole; so is what is piped in read as one message.
    """
    wishes = Wishes(
        conversation=conversation,
        user=user,
        model=model,
        use_memory=not no_memory,
        use_cache=not no_cache,
        as_json=as_json,
        verbose=verbose,
    )
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip()
    if message is not None and not message.strip():
        raise typer.BadParameter("there is no message: give one, or pipe one in")
    if message is None and as_json:
        raise typer.BadParameter("--json needs a message")
    target = address or addresses()["gateway"]
    if message is None:
        _converse(target, key, wishes)
    else:
        asyncio.run(_ask_once(target, key, wishes, message))


async def _ask_once(address: str, key: str, wishes: Wishes, message: str) -> None:
    async with MeshClient({"gateway": address}, key=key) as client, explained(address):
        answer = await ask(client, wishes, message)
    if answer.failure is not None:
        raise answer.failure


async def ask(client: MeshClient, wishes: Wishes, message: str) -> Answer:
    """Run one turn and show it as it comes; return what it said, also when it failed."""
    turn = user_turn(
        message,
        conversation_id=wishes.conversation,
        user_id=wishes.user,
        model=wishes.model,
        recall=wishes.use_memory,
        remember=wishes.use_memory,
        use_cache=wishes.use_cache,
        key=secrets.token_hex(16),
    )
    answer = Answer()
    shown = Transcript(answer, output(), errors(), verbose=wishes.verbose)
    try:
        async with contextlib.aclosing(events(client, turn)) as stream:
            async for event in stream:
                answer.add(event)
                if wishes.as_json:
                    _print_line(json_format.MessageToDict(event, preserving_proto_field_name=True))
                else:
                    shown.show(event)
    except asyncio.CancelledError:
        shown.interrupted()
        raise
    if not wishes.as_json:
        shown.close()
    return answer


def _converse(address: str, key: str, wishes: Wishes) -> None:
    """Ask and answer until the person leaves; the event loop rests while they type."""
    with contextlib.suppress(ImportError):
        import_module("readline")  # being there, it gives the prompt editing and history
    screen = errors()
    with asyncio.Runner() as runner:
        if not runner.run(is_ready(address)):
            raise unreachable(address)
        screen.print(f"Connected to {address}. /help lists what else you can type.", style="dim")
        client = MeshClient({"gateway": address}, key=key)
        try:
            conversation = wishes.conversation
            for line in _lines():
                if line == "/help":
                    screen.print(HELP, style="dim")
                elif line == "/new":
                    conversation = ""
                    screen.print("A new conversation.", style="dim")
                elif line.startswith("/"):
                    screen.print(f"There is no {line.split()[0]}; /help lists what there is.")
                else:
                    conversation = _turn(runner, client, wishes, conversation, line)
        finally:
            runner.run(client.close())


def _turn(
    runner: asyncio.Runner, client: MeshClient, wishes: Wishes, conversation: str, line: str
) -> str:
    """Run one turn of a conversation and return the conversation's id; failures are shown."""
    try:
        answer = runner.run(ask(client, replace(wishes, conversation=conversation), line))
    except KeyboardInterrupt:
        return conversation
    except PlexusError as error:
        errors().print(f"plexus: {plain(str(error))}", style="red")
        return conversation
    if answer.failure is not None:
        errors().print(f"plexus: {plain(str(answer.failure))}", style="red")
    return answer.conversation_id or conversation


def _lines() -> Iterator[str]:
    """Yield what is typed, until /quit or Ctrl-D."""
    while True:
        try:
            line = input(_prompt()).strip()
        except EOFError:
            errors().print()
            return
        except KeyboardInterrupt:
            errors().print()
            raise
        if line in ("/quit", "/exit"):
            return
        if line:
            yield line


def _prompt() -> str:
    """Return the prompt; readline must know which of its bytes take no room."""
    coloured = output().color_system is not None and not output().no_color
    return f"\001\x1b[1;36m\002{PROMPT}\001\x1b[0m\002" if coloured else PROMPT


def _print_line(event: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(event) + b"\n")
    sys.stdout.flush()
