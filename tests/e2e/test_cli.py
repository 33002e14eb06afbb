"""The `plexus` command against real meshes."""

import asyncio
import secrets
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
import yaml

from cli.answer import Answer, events, user_turn
from cli.client import MeshClient
from mesh.errors import Unavailable
from mesh.testing.upstream import Script, ScriptedUpstream
from tests.e2e.calls import fresh
from tests.e2e.processes import Mesh, start_embedded
from tests.e2e.terminal import Relay, Terminal, environ_of, plexus, running

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPT = "you ›"


@pytest_asyncio.fixture(loop_scope="session")
async def upstream() -> AsyncGenerator[ScriptedUpstream]:
    async with ScriptedUpstream() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def scripted(upstream: ScriptedUpstream, short_tmp: Path) -> AsyncGenerator[Mesh]:
    """A mesh that asks the scripted upstream."""
    providers = {"up": {"kind": "openai", "base_url": upstream.openai_url}}
    environ = {
        "PLEXUS_ROUTER_PROVIDERS": orjson.dumps(providers).decode(),
        "PLEXUS_ROUTER_GROUPS": orjson.dumps({"default": ["up/model"]}).decode(),
    }
    mesh = await start_embedded(short_tmp / f"cli-{secrets.token_hex(2)}", environ)
    yield mesh
    await mesh.kill()


# chat, one question


async def test_an_answer_goes_to_stdout_and_all_about_it_to_stderr(mesh: Mesh) -> None:
    said = await plexus(
        "chat", "My cat is Miez. What is my cat?", "--user", fresh("cli"), environ=environ_of(mesh)
    )
    assert said.code == 0, said.stderr
    assert said.stdout.startswith("My cat is Miez.")
    assert "offline/extractive" in said.stderr
    assert "tokens" in said.stderr
    assert "\x1b" not in said.stdout + said.stderr


async def test_what_is_piped_in_is_the_message(mesh: Mesh) -> None:
    environ = environ_of(mesh)
    said = await plexus(
        "chat", "--no-memory", environ=environ, stdin="My name is Ada. What is my name?\n"
    )
    assert said.code == 0, said.stderr
    assert said.stdout.startswith("My name is Ada.")


async def test_an_empty_pipe_is_wrong_usage(mesh: Mesh) -> None:
    said = await plexus("chat", environ=environ_of(mesh), stdin=" \n")
    assert said.code == 2


async def test_json_prints_the_events_of_the_contract(mesh: Mesh) -> None:
    said = await plexus("chat", "Hi.", "--user", fresh("cli"), "--json", environ=environ_of(mesh))
    lines = [orjson.loads(line) for line in said.stdout.splitlines()]
    assert [int(line["sequence"]) for line in lines] == list(range(1, len(lines) + 1))
    assert "started" in lines[0]
    assert "completed" in lines[-1]


async def test_a_conversation_is_continued_and_memory_reaches_the_next(mesh: Mesh) -> None:
    environ, user = environ_of(mesh), fresh("cli")
    told = await plexus(
        "chat", "My badge number is 4711.", "--user", user, "--json", environ=environ
    )
    conversation = orjson.loads(told.stdout.splitlines()[0])["started"]["conversation_id"]
    question = "What is my badge number?"
    same = ("--conversation", conversation)
    for extra in (same, ()):
        said = await plexus("chat", question, "--user", user, *extra, environ=environ)
        assert "4711" in said.stdout
        assert "no memories" not in said.stderr


async def test_without_memory_nothing_is_recalled_or_kept(mesh: Mesh) -> None:
    environ, user = environ_of(mesh), fresh("cli")
    await plexus("chat", "My badge is 4712.", "--user", user, "--no-memory", environ=environ)
    said = await plexus("chat", "What is my badge?", "--user", user, environ=environ)
    assert "4712" not in said.stdout
    assert "no memories" in said.stderr


async def test_the_cache_is_used_unless_it_is_not_wanted(mesh: Mesh) -> None:
    environ, text = environ_of(mesh), f"I am {fresh('cli')}. Who am I?"
    ask = ("chat", text, "--no-memory")
    await plexus(*ask, environ=environ)
    assert "exact hit" in (await plexus(*ask, environ=environ)).stderr
    assert "bypass" in (await plexus(*ask, "--no-cache", environ=environ)).stderr


async def test_verbose_shows_the_stages(mesh: Mesh) -> None:
    said = await plexus("chat", fresh("Hi"), "--verbose", environ=environ_of(mesh))
    for stage in ("recall", "compose", "cache", "generate", "remember", "account", "attempt 1"):
        assert stage in said.stderr


async def test_an_unknown_model_is_one_sentence(mesh: Mesh) -> None:
    said = await plexus("chat", "Hi.", "--model", "none/such", environ=environ_of(mesh))
    assert (said.code, said.stdout) == (1, "")
    assert "plexus: " in said.stderr
    assert "Traceback" not in said.stderr


# chat, when the line breaks


async def test_an_answer_is_resumed_where_the_line_broke(
    scripted: Mesh, upstream: ScriptedUpstream
) -> None:
    goes_on = asyncio.Event()
    upstream.script(Script(tokens=("one ", "two ", "three"), fault_at=2, stall_until=goes_on))
    answer = Answer()
    async with Relay(scripted.addresses["gateway"]) as relay:
        async with MeshClient({"gateway": relay.address}) as client:
            async for event in events(client, user_turn("Count.", key=fresh("cli"))):
                answer.add(event)
                if "one" in answer.text and not goes_on.is_set():
                    relay.cut()
                    goes_on.set()
        assert relay.connections >= 2
    assert answer.text == "one two three"
    assert answer.completed is not None
    assert len(upstream.requests) == 1


async def test_wherever_the_line_breaks_nothing_is_lost_or_repeated(mesh: Mesh) -> None:
    user, expected = fresh("cli"), "My cat is Miez."
    async with Relay(mesh.addresses["gateway"]) as relay:
        for cut_after_bytes in range(30, 1500, 70):
            relay.cut_after_bytes = cut_after_bytes
            turn = user_turn("My cat is Miez. What is my cat?", user_id=user, key=fresh("cli"))
            turn.memory.no_remember = True
            answer = Answer()
            # A client of its own each time, so that the bytes count from a connection's start.
            async with MeshClient({"gateway": relay.address}) as client:
                async for event in events(client, turn):
                    assert event.sequence == answer.sequence + 1
                    answer.add(event)
            assert answer.text.startswith(expected)
            assert answer.text.count(expected) == 1
            assert answer.completed is not None


async def test_a_mesh_that_is_gone_is_said_in_one_sentence(
    scripted: Mesh, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.answer.RESUME_WINDOW_MS", 200)
    upstream.script(Script(tokens=("one ", "two"), stall_until=asyncio.Event()))

    async def lose_the_mesh() -> None:
        async with MeshClient({"gateway": scripted.addresses["gateway"]}) as client:
            async for event in events(client, user_turn("Count.", key=fresh("cli"))):
                if event.WhichOneof("event") == "text":
                    await scripted.kill()

    with pytest.raises(Unavailable, match="ask again"):
        await lose_the_mesh()


async def test_ctrl_c_reaches_the_provider(scripted: Mesh, upstream: ScriptedUpstream) -> None:
    upstream.script(Script(tokens=("one ", "two"), stall_until=asyncio.Event()))
    async with running("chat", "Count.", "--json", environ=environ_of(scripted)) as child:
        assert child.stdout is not None
        async with asyncio.timeout(20):
            while b'"text"' not in await child.stdout.readline():
                pass
            child.send_signal(signal.SIGINT)
            stdout, stderr = await child.communicate()
        assert child.returncode == 130
        assert (b"Traceback" in stderr, stdout) == (False, b"")
    # Sooner than the resume window, after which the mesh would cancel by itself.
    async with asyncio.timeout(10):
        await upstream.requests[0].disconnected.wait()


# chat, as a conversation on a terminal


async def test_a_conversation_on_a_terminal(mesh: Mesh) -> None:
    async with Terminal("chat", "--user", fresh("cli"), environ=environ_of(mesh)) as terminal:
        await terminal.expect(PROMPT)
        terminal.type("My dog is called Rex.")
        await terminal.expect("Noted.")
        await terminal.expect("offline/extractive")
        await terminal.expect(PROMPT)
        terminal.type("/new")
        await terminal.expect("A new conversation.")
        terminal.type("What is my dog called?")
        await terminal.expect("My dog is called Rex.")
        await terminal.expect("1 memory")
        terminal.type("/nonsense")
        await terminal.expect("There is no /nonsense")
        terminal.type("/help")
        await terminal.expect("/new")
        terminal.type("/quit")
        assert await terminal.end() == 0


async def test_ctrl_c_cancels_the_answer_and_a_second_one_leaves(
    scripted: Mesh, upstream: ScriptedUpstream
) -> None:
    upstream.script(Script(tokens=("slow ", "never"), stall_until=asyncio.Event()))
    async with Terminal("chat", environ=environ_of(scripted)) as terminal:
        await terminal.expect(PROMPT)
        terminal.type("Take your time.")
        await terminal.expect("slow")
        terminal.interrupt()
        await terminal.expect("cancelled")
        await terminal.expect(PROMPT)
        async with asyncio.timeout(10):
            await upstream.requests[0].disconnected.wait()
        terminal.type("And now?")
        await terminal.expect("Hello world.")
        await terminal.expect(PROMPT)
        terminal.interrupt()
        assert await terminal.end() == 130


async def test_a_failed_answer_does_not_end_the_conversation(
    scripted: Mesh, upstream: ScriptedUpstream
) -> None:
    upstream.script(Script(status=400, error={"message": "no", "type": "invalid_request_error"}))
    async with Terminal("chat", environ=environ_of(scripted)) as terminal:
        await terminal.expect(PROMPT)
        terminal.type("Fail.")
        await terminal.expect("plexus: ")
        await terminal.expect(PROMPT)
        terminal.type("Try again.")
        await terminal.expect("Hello world.")


# doctor, cost, config


async def test_doctor_finds_a_mesh_healthy_and_has_it_answer(mesh: Mesh) -> None:
    said = await plexus("doctor", "--probe", "--json", environ=environ_of(mesh))
    assert said.code == 0, said.stdout
    checks = {check["name"]: check for check in orjson.loads(said.stdout)["checks"]}
    for name in ("gateway", "memory", "router", "cache", "metrics"):
        assert "with reflection" in checks[name]["detail"]
    assert checks["models"]["detail"] == "default: offline/extractive"
    assert "offline/extractive answered" in checks["generation"]["detail"]


async def test_doctor_says_which_component_is_missing(mesh: Mesh) -> None:
    environ = {**environ_of(mesh), "PLEXUS_MEMORY_PORT": "1"}
    said = await plexus("doctor", environ=environ)
    assert said.code == 1
    assert "nothing serves at 127.0.0.1:1" in said.stdout
    assert "plexus serve memory" in said.stdout


async def test_cost_sums_what_was_asked_and_lists_it(
    scripted: Mesh, upstream: ScriptedUpstream
) -> None:
    environ = environ_of(scripted)
    assert "Nothing booked yet" in (await plexus("cost", environ=environ)).stdout
    for _ in range(2):
        await plexus("chat", "Hi.", "--no-memory", environ=environ)
    said = await plexus("cost", environ=environ)
    assert said.code == 0, said.stderr
    assert "2 answers, 50% of them cached" in said.stdout
    assert "up/model" in said.stdout
    assert "p95" in said.stdout
    summary = orjson.loads((await plexus("cost", "--json", environ=environ)).stdout)
    assert summary["totals"]["event_count"] == "2"
    ledger = await plexus("cost", "--ledger", "1", environ=environ)
    assert [line.split()[-1] for line in ledger.stdout.splitlines()] == ["end", "cached"]


async def test_config_prints_what_a_mesh_would_run_with(mesh: Mesh) -> None:
    said = await plexus("config", environ=environ_of(mesh))
    assert said.code == 0, said.stderr
    shown: dict[str, Any] = yaml.safe_load(said.stdout)
    assert shown["mesh"]["data_dir"] == str(mesh.data_dir)


# demo


async def test_the_demo_runs_in_the_mesh_that_runs_and_leaves_nothing_in_its_memory(
    mesh: Mesh,
) -> None:
    said = await plexus("demo", "--json", environ=environ_of(mesh))
    assert said.code == 0, said.stderr
    assert "Using the mesh that runs" in said.stderr
    steps = {step["turn"]: step for step in orjson.loads(said.stdout)}
    assert steps["about the document"]["recalled_count"] > 0
    assert "250" in steps["needs the fact"]["text"]
    assert steps["asked again"]["cache"] == "exact hit"
    found = await plexus(
        "chat", "What does a server see when a deadline expires?", environ=environ_of(mesh)
    )
    assert "DEADLINE_EXCEEDED" not in found.stdout


async def test_the_demo_starts_a_mesh_of_its_own_and_ends_it(tmp_path: Path) -> None:
    environ = {"PLEXUS_GATEWAY_PORT": "1", "PLEXUS_DATA_DIR": str(tmp_path / "untouched")}
    said = await plexus("demo", environ=environ)
    assert said.code == 0, said.stdout + said.stderr
    for expected in ("Starting a mesh", "the unmodified OpenAI client", "exact hit", "plexus cost"):
        assert expected in said.stdout
    assert "250 milliseconds" in said.stdout
    assert not (tmp_path / "untouched").exists()
