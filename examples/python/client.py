"""A Plexus client: chats, cancels, handles typed errors, resumes a dropped stream.

Usage: make run [ADDRESS=host:port]; PLEXUS_ADDRESS and PLEXUS_API_KEY are read too.
"""
# ruff: noqa: T201

import os
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from plexus.cache.v1.cache_service_pb2 import CacheControl
from plexus.common.v1.message_pb2 import ROLE_USER, Message, Part
from plexus.common.v1.model_pb2 import ModelRequest
from plexus.common.v1.scope_pb2 import Scope
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1.gateway_service_pb2_grpc import GatewayServiceStub

TIMEOUT_S = 60.0


class Client:
    """The four things that a client of Chat needs to know."""

    def __init__(self, channel: grpc.Channel, key: str) -> None:
        self._gateway = GatewayServiceStub(channel)
        self._metadata = [("authorization", f"Bearer {key}")] if key else []

    def chat(self) -> None:
        """Print the answer as it comes."""
        for event in self._open(ask("What can you do for me?")):
            match event.WhichOneof("event"):
                case "text":
                    print(event.text, end="", flush=True)
                case "reset":
                    print(f"\n(once more: {event.reset.why})")
                case "failed":
                    raise RuntimeError(f"{event.failed.reason}: {event.failed.message}")
                case "completed":
                    print(f"\nchat: ok {event.completed.provider}/{event.completed.model}")

    def cancel(self) -> None:
        """Leave an answer in the middle: the mesh stops the model and books what was used."""
        run = ""
        call = self._open(ask("Tell me a long story.", cache=CacheControl(no_cache=True)))
        try:
            for event in call:
                run = event.started.request_id or run
                if event.text:
                    call.cancel()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise
        # No error: the answer was short, and whole before we cancelled.
        print(f"cancel: ok {run}")

    def errors(self) -> None:
        """Fail in both ways: a refused call has a status, a turn that breaks a `failed` event."""
        reason = ""
        try:
            for _ in self._open(ask("Hello.", scope=Scope(tenant="someone-else"))):
                pass
        except grpc.RpcError as error:
            reason = reason_of(error)
        expect(reason, "TENANT_MISMATCH")
        print(f"error: {reason}")

        for event in self._open(ask("Hello.", model="no-such-model")):
            reason = event.failed.reason
        expect(reason, "MODEL_NOT_FOUND")
        print(f"error: {reason}")

    def resume(self) -> None:
        """Lose the connection after the first text; read the rest, without gap or repetition."""
        events: list[pb.ChatResponse] = []
        no_cache = CacheControl(no_cache=True)
        call = self._open(ask("Tell me another story.", cache=no_cache, resume_window_ms=10_000))
        for event in call:
            events.append(event)
            if event.text:
                break
        call.cancel()
        last = events[-1].sequence
        print(f"resume: dropped after event {last}", flush=True)

        token = events[0].started.resume_token
        resume = pb.Resume(resume_token=token, after_sequence=last)
        events.extend(self._open(pb.ChatRequest(resume=resume)))
        expect([event.sequence for event in events], list(range(1, len(events) + 1)))
        expect(events[-1].WhichOneof("event"), "completed")
        print(f"resume: ok {len(events)} events")

    def _open(self, request: pb.ChatRequest) -> "grpc.CallIterator[pb.ChatResponse]":
        return self._gateway.Chat(request, timeout=TIMEOUT_S, metadata=self._metadata)


def ask(text: str, *, model: str = "", **turn: object) -> pb.ChatRequest:
    """Return a request that says `text`."""
    said = Message(role=ROLE_USER, parts=[Part(text=text)])
    request = ModelRequest(model=model, messages=[said])
    return pb.ChatRequest(turn=pb.Turn(request=request, **turn))


def reason_of(error: grpc.RpcError) -> str:
    """Return the reason that the mesh gave, or the status code when it could not give one."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return error.code().name


def expect(got: object, wanted: object) -> None:
    if got != wanted:
        raise RuntimeError(f"expected {wanted}, got {got}")


def main() -> None:
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PLEXUS_ADDRESS")
    with grpc.insecure_channel(given or "127.0.0.1:50050") as channel:
        client = Client(channel, os.environ.get("PLEXUS_API_KEY", ""))
        try:
            client.chat()
            client.cancel()
            client.errors()
            client.resume()
        except grpc.RpcError as error:
            sys.exit(f"{reason_of(error)}: {error.details()}")
        except RuntimeError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
