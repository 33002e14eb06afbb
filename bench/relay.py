"""The ceiling: the least that a gRPC relay in Python can do. `python -m bench.relay URL`.

No memory, cache, ledger, retries, deadlines or validation: one HTTP request upstream, one message
for what each network read brings, and the end. What a whole mesh costs is measured against it.
"""

import sys
from typing import Any

import aiohttp
import grpc.aio
import orjson

from bench.process import run
from mesh.server import until_signal
from plexus.common.v1 import message_pb2, model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc


class Relay(gateway_service_pb2_grpc.GatewayServiceServicer):
    """Serves the two calls that are measured."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/chat/completions"

    async def Chat(self, request: pb.ChatRequest, context: Any) -> None:
        sequence = 0
        rest = b""
        body = _body(request.turn.request, stream=True)
        async with self._session.post(self._url, data=body) as response:
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                if text := "".join(map(_text, lines)):
                    sequence += 1
                    await context.write(pb.ChatResponse(sequence=sequence, text=text))
        ended = pb.Completed(finish_reason=model_pb2.FINISH_REASON_STOP)
        await context.write(pb.ChatResponse(sequence=sequence + 1, completed=ended))

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:
        body = _body(request.turn.request, stream=False)
        async with self._session.post(self._url, data=body) as response:
            answer = orjson.loads(await response.read())
        part = message_pb2.Part(text=answer["choices"][0]["message"]["content"])
        message = message_pb2.Message(role=message_pb2.ROLE_ASSISTANT, parts=[part])
        return pb.CompleteResponse(response=model_pb2.ModelResponse(message=message))


def _body(request: model_pb2.ModelRequest, *, stream: bool) -> bytes:
    messages = [{"role": "user", "content": m.parts[0].text} for m in request.messages]
    model = request.model.rpartition("/")[2]
    return orjson.dumps({"model": model, "messages": messages, "stream": stream})


def _text(line: bytes) -> str:
    if not line.startswith(b"data: {"):
        return ""
    choices = orjson.loads(line[6:])["choices"]
    return choices[0]["delta"].get("content", "") if choices else ""


async def serve(url: str) -> None:
    """Listen on a free port, say where, and serve until a signal."""
    connector = aiohttp.TCPConnector(limit=1024)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        server = grpc.aio.server()
        relay = Relay(session, url)
        gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(relay, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        ready = {"event": "ready", "addresses": {"gateway": f"127.0.0.1:{port}"}}
        sys.stdout.write(orjson.dumps(ready).decode() + "\n")
        sys.stdout.flush()
        await until_signal()
        await server.stop(0.5)


if __name__ == "__main__":
    run(serve(sys.argv[1]))
