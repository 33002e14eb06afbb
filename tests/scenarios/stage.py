"""Plays the commands of a scenario against an embedded mesh and a scripted model."""

import asyncio
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from google.protobuf import json_format

from cli.embedded import EmbeddedMesh, embedded_mesh
from mesh.call import Identity, outgoing_call
from mesh.testing.upstream import Script, ScriptedUpstream
from plexus.common.v1 import message_pb2, scope_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc
from plexus.memory.v1 import memory_service_pb2 as memory_pb
from plexus.memory.v1 import memory_service_pb2_grpc
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb
from plexus.metrics.v1 import metrics_service_pb2_grpc
from tests.e2e.calls import children, eventually
from tests.e2e.processes import clean_environ
from tests.scenarios.transcript import ledger_line, said_line, transcript

WHO = Identity("default", "scenario")
TIMEOUT_S = 30.0
ENGINE = "services.memory.engine"


class Stage:
    """One scenario's mesh and model. `play` takes a command and returns the lines it gives."""

    def __init__(self, data_dir: Path, upstream: ScriptedUpstream) -> None:
        self._data_dir = data_dir
        self._upstream = upstream
        self._settings: dict[str, str] = {}
        self._running: Any = None
        self._mesh: EmbeddedMesh | None = None
        self._stalls: deque[asyncio.Event] = deque()
        self._call: Any = None
        self._events: list[pb.ChatResponse] = []
        self._token = ""
        self._frozen: set[int] = set()
        self._commands: dict[str, Callable[[str], Awaitable[list[str]]]] = {
            "settings": self._set,
            "upstream": self._script,
            "turn": self._turn,
            "turn until text": self._turn_until_text,
            "read until text": self._until_text,
            "read on": self._read_on,
            "cancel": self._cancel,
            "drop": self._drop,
            "resume after": self._resume,
            "go on": self._let_go_on,
            "kill": self._kill,
            "freeze": self._freeze,
            "thaw": self._thaw,
            "asked": self._asked,
            "remembered": self._remembered,
            "ledger": self._ledger,
        }

    async def play(self, command: str) -> list[str]:
        """Do as `name: argument` says."""
        name, _, argument = command.partition(":")
        with outgoing_call(WHO, timeout_s=TIMEOUT_S):
            return await self._commands[name](argument.strip())

    async def close(self) -> None:
        """Stop the mesh."""
        await self._thaw("")
        if self._running is not None:
            await self._running.__aexit__(None, None, None)

    async def _opened(self) -> EmbeddedMesh:
        if self._mesh is None:
            provider = {"kind": "openai", "base_url": self._upstream.openai_url}
            environ = {
                **clean_environ(),
                "PLEXUS_ROUTER_PROVIDERS": orjson.dumps({"up": provider}).decode(),
                "PLEXUS_ROUTER_GROUPS": '{"default": ["up/first", "up/second"]}',
                "PLEXUS_MEMORY_EMBEDDING": "false",
                "PLEXUS_DRAIN_HOLD_S": "0",
                **self._settings,
            }
            self._running = embedded_mesh(data_dir=self._data_dir, ports="free", environ=environ)
            mesh: EmbeddedMesh = await self._running.__aenter__()
            self._mesh = mesh
        return self._mesh

    async def _stub(self) -> gateway_service_pb2_grpc.GatewayServiceStub:
        mesh = await self._opened()
        return gateway_service_pb2_grpc.GatewayServiceStub(mesh.host.channel_to("gateway"))

    async def _set(self, argument: str) -> list[str]:
        assert self._mesh is None, "settings come before anything else"
        self._settings.update(orjson.loads(argument))
        return []

    async def _script(self, argument: str) -> list[str]:
        """Queue a `Script`, given as its fields; `stall` waits, after `fault_at`, for `go on`."""
        fields: dict[str, Any] = orjson.loads(argument)
        if fields.pop("stall", False):
            self._stalls.append(asyncio.Event())
            fields["stall_until"] = self._stalls[-1]
        self._upstream.script(Script(**fields))
        return []

    async def _turn(self, argument: str) -> list[str]:
        await self._begin(argument)
        return await self._read_on("")

    async def _turn_until_text(self, argument: str) -> list[str]:
        await self._begin(argument)
        return await self._until_text("")

    async def _until_text(self, argument: str) -> list[str]:
        text = False
        while not text:
            event = await self._call.read()
            assert isinstance(event, pb.ChatResponse), f"no text came: {self._events}"
            self._events.append(event)
            text = event.WhichOneof("event") == "text"
        return []

    async def _begin(self, argument: str) -> None:
        turn = turn_of(argument)
        stub = await self._stub()
        self._call = stub.Chat(pb.ChatRequest(turn=turn))
        self._events = []

    async def _read_on(self, argument: str) -> list[str]:
        self._events += [event async for event in self._call]
        sequences = [event.sequence for event in self._events]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
        ends = [e.sequence for e in self._events if e.HasField("completed") or e.HasField("failed")]
        assert ends == sequences[-1:], "one terminal event, at the end"
        if self._events[0].HasField("started"):
            self._token = self._events[0].started.resume_token
        return transcript(self._events)

    async def _cancel(self, argument: str) -> list[str]:
        stub = await self._stub()
        request = pb.CancelChatRequest(resume_token=self._token or self._started_token())
        cancelled = (await stub.CancelChat(request)).cancelled
        return ["cancelled" if cancelled else "it had ended"]

    async def _drop(self, argument: str) -> list[str]:
        self._token = self._started_token()
        self._call.cancel()
        await asyncio.gather(self._call.read(), return_exceptions=True)
        return []

    async def _resume(self, argument: str) -> list[str]:
        resume = pb.Resume(resume_token=self._token, after_sequence=int(argument))
        self._call = (await self._stub()).Chat(pb.ChatRequest(resume=resume))
        self._events = []
        return await self._read_on("")

    def _started_token(self) -> str:
        return self._events[0].started.resume_token

    async def _let_go_on(self, argument: str) -> list[str]:
        self._stalls.popleft().set()
        return []

    async def _kill(self, argument: str) -> list[str]:
        os.kill(await self._pid(argument), signal.SIGKILL)
        return []

    async def _freeze(self, argument: str) -> list[str]:
        pid = await self._pid(argument)
        os.kill(pid, signal.SIGSTOP)
        self._frozen.add(pid)
        return []

    async def _thaw(self, argument: str) -> list[str]:
        while self._frozen:
            os.kill(self._frozen.pop(), signal.SIGCONT)
        return []

    async def _pid(self, name: str) -> int:
        mesh = await self._opened()
        if name == "redis":
            assert mesh.redis.pid is not None
            return mesh.redis.pid
        (pid,) = children(os.getpid(), ENGINE)
        return pid

    async def _asked(self, argument: str) -> list[str]:
        """The prompt of the model's latest request."""
        messages: list[dict[str, Any]] = self._upstream.requests[-1].body["messages"]
        return [f"{message['role']}: {message.get('content')!r}" for message in messages]

    async def _remembered(self, argument: str) -> list[str]:
        """What memory holds of a conversation; `c 2` waits until it holds two messages."""
        conversation, _, count = argument.partition(" ")
        mesh = await self._opened()
        memory = memory_service_pb2_grpc.MemoryServiceStub(mesh.host.channel_to("memory"))
        request = memory_pb.ListMemoriesRequest(
            scope=scope_pb2.Scope(conversation_id=conversation), order=memory_pb.ORDER_OLDEST_FIRST
        )

        async def listed() -> list[str]:
            response = await memory.ListMemories(request)
            said = sorted(response.memories, key=lambda m: m.event_time.ToNanoseconds())
            return [said_line(m.role, m.text) for m in said]

        return await eventually(listed, lambda lines: len(lines) >= int(count or 0))

    async def _ledger(self, argument: str) -> list[str]:
        """The ledger, oldest first; a number waits until it has as many lines."""
        mesh = await self._opened()
        metrics = metrics_service_pb2_grpc.MetricsServiceStub(mesh.host.channel_to("metrics"))

        async def listed() -> list[str]:
            response = await metrics.ListLedger(metrics_pb.ListLedgerRequest())
            return [ledger_line(entry) for entry in reversed(response.entries)]

        return await eventually(listed, lambda lines: len(lines) >= int(argument or 0))


def turn_of(argument: str) -> pb.Turn:
    """Return a turn: a text, or the fields of `Turn` in JSON, in which `say` is a user message."""
    fields: dict[str, Any] = (
        orjson.loads(argument) if argument.startswith("{") else {"say": argument}
    )
    said = fields.pop("say", None)
    turn = json_format.ParseDict(fields, pb.Turn())
    if said is not None:
        turn.request.messages.add(
            role=message_pb2.ROLE_USER, parts=[message_pb2.Part(text=str(said))]
        )
    return turn
