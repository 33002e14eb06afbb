"""What the end-to-end tests say to a mesh, and how they wait for what it does."""

import asyncio
import os
import subprocess
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from plexus.common.v1 import message_pb2, model_pb2, scope_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc
from plexus.memory.v1 import memory_service_pb2 as memory_pb
from plexus.memory.v1 import memory_service_pb2_grpc
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb
from plexus.metrics.v1 import metrics_service_pb2_grpc
from tests.e2e.processes import Mesh

TIMEOUT_S = 20.0
POLL_S = 0.02
POLLS = 1500

T = TypeVar("T")


def turn(text: str, *, conversation: str = "", user: str = "", **fields: object) -> pb.ChatRequest:
    """Return a request that says `text`."""
    message = message_pb2.Message(role=message_pb2.ROLE_USER, parts=[message_pb2.Part(text=text)])
    started = pb.Turn(
        scope=scope_pb2.Scope(conversation_id=conversation, user_id=user),
        request=model_pb2.ModelRequest(messages=[message]),
    )
    for name, value in fields.items():
        setattr(started, name, value)
    return pb.ChatRequest(turn=started)


async def chat(
    mesh: Mesh, request: pb.ChatRequest, *, timeout_s: float = TIMEOUT_S
) -> list[pb.ChatResponse]:
    """Return all events of a stream."""
    stub = gateway_service_pb2_grpc.GatewayServiceStub(mesh.channel())
    return [event async for event in stub.Chat(request, timeout=timeout_s)]


def text_of(events: list[pb.ChatResponse]) -> str:
    """Return the text that counts: what a reset voids is left out."""
    pieces: list[tuple[int, str]] = []
    for event in events:
        if event.HasField("reset"):
            pieces = [piece for piece in pieces if piece[0] <= event.reset.after_sequence]
        elif event.WhichOneof("event") == "text":
            pieces.append((event.sequence, event.text))
    return "".join(text for _, text in pieces)


def only(events: list[pb.ChatResponse], kind: str) -> list[pb.ChatResponse]:
    """Return the events of one kind."""
    return [event for event in events if event.WhichOneof("event") == kind]


def warnings(events: list[pb.ChatResponse]) -> set[str]:
    """Return the reasons of the warnings."""
    return {event.warning.reason for event in only(events, "warning")}


def fresh(prefix: str) -> str:
    """Return a name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


async def remembered(mesh: Mesh, conversation: str) -> list[tuple[message_pb2.Role, str]]:
    """Return what memory holds of a conversation, oldest first."""
    memory = memory_service_pb2_grpc.MemoryServiceStub(mesh.channel("memory"))
    request = memory_pb.ListMemoriesRequest(
        scope=scope_pb2.Scope(conversation_id=conversation),
        order=memory_pb.ORDER_OLDEST_FIRST,
        page_size=500,
    )
    listed = await memory.ListMemories(request, timeout=TIMEOUT_S)
    return [(m.role, m.text) for m in listed.memories]


async def booked(mesh: Mesh) -> list[metrics_pb.LedgerEntry]:
    """Return the whole ledger, newest first."""
    metrics = metrics_service_pb2_grpc.MetricsServiceStub(mesh.channel("metrics"))
    entries: list[metrics_pb.LedgerEntry] = []
    token = ""
    while True:
        request = metrics_pb.ListLedgerRequest(page_size=500, page_token=token)
        page = await metrics.ListLedger(request, timeout=TIMEOUT_S)
        entries.extend(page.entries)
        token = page.next_page_token
        if not token:
            return entries


async def eventually(probe: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    """Probe another process until what it says is good; give up after many tries.

    There is no event to wait for across processes, so this polls; it never waits for a fixed time.
    """
    last: object = None
    for _ in range(POLLS):
        try:
            value = await probe()
        except Exception as error:
            last = error
        else:
            if good(value):
                return value
            last = value
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"still not so after many tries; last seen: {last!r}")


async def embedder_ready(mesh: Mesh) -> None:
    """Return once texts can be embedded; the model loads in the background after the start."""
    stub = gateway_service_pb2_grpc.GatewayServiceStub(mesh.channel())
    await stub.Embed(pb.EmbedRequest(texts=["ready?"]), timeout=TIMEOUT_S)


def children(pid: int, command: str) -> list[int]:
    """Return the children of a process whose command line holds `command`."""
    return [child for child, parent, line in _processes() if parent == pid and command in line]


def _processes() -> list[tuple[int, int, str]]:
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True
        )
        rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
        return [(int(row[0]), int(row[1]), row[2]) for row in rows if len(row) == 3]
    found: list[tuple[int, int, str]] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            folder = Path("/proc") / name
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                line = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            found.append((int(name), int(stat[1]), line))
    return found


def engine_pid(mesh: Mesh) -> int:
    """Return the process id of memory's engine."""
    owner = mesh.processes.get("memory") or mesh.processes["up"]
    (pid,) = children(owner.pid, "services.memory.engine")
    return pid


def redis_pid(mesh: Mesh) -> int:
    """Return the process id of Redis."""
    if mesh.redis is not None and mesh.redis.pid is not None:
        return mesh.redis.pid
    (pid,) = children(mesh.processes["up"].pid, "redis-server")
    return pid
