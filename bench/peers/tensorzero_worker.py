"""Drives TensorZero's gateway embedded in this process; runs in that peer's own environment.

One JSON command a line on standard input, one JSON answer a line on standard output. It uses the
standard library and the peer only: nothing of ours is installed where it runs.
"""

import asyncio
import json
import sys
import time
from importlib import import_module
from typing import Any

MODEL = "scripted"


async def call(gateway: Any, kind: str, last: str, number: int) -> dict[str, Any] | None:
    """Make one call; return its times, or None for an answer that is not whole."""
    messages = [{"role": "user", "content": f"{number} what is there to say?"}]
    asked = {"messages": messages}
    begun_s = time.perf_counter()
    if kind == "unary":
        said = await gateway.inference(model_name=MODEL, input=asked)
        total_s = time.perf_counter() - begun_s
        whole = "".join(part.text for part in said.content).endswith(last)
        return {"total_s": total_s, "first_s": 0.0} if whole else None
    first_s, text = 0.0, ""
    async for chunk in await gateway.inference(model_name=MODEL, input=asked, stream=True):
        for part in chunk.content:
            if part.text:
                first_s = first_s or time.perf_counter() - begun_s
                text = part.text
    total_s = time.perf_counter() - begun_s
    return {"total_s": total_s, "first_s": first_s} if text.endswith(last) else None


async def window(gateway: Any, ask: dict[str, Any]) -> dict[str, Any]:
    """Run one closed loop, as the benchmark's own does."""
    seen: list[dict[str, Any]] = []
    failures = calls = 0
    opens_s = time.perf_counter() + ask["warm_up_s"]
    closes_s = opens_s + ask["window_s"]

    async def caller(number: int) -> None:
        nonlocal failures, calls
        while time.perf_counter() < closes_s:
            timing = await call(gateway, ask["kind"], ask["last"], number)
            calls += 1
            if not opens_s <= time.perf_counter() < closes_s:
                continue
            if timing is None:
                failures += 1
            else:
                seen.append(timing)

    await asyncio.gather(*(caller(number) for number in range(ask["concurrency"])))
    elapsed_s = ask["window_s"]
    return {"timings": seen, "failures": failures, "calls": calls, "elapsed_s": elapsed_s}


async def main(config: str) -> None:
    """Serve commands until standard input ends."""
    gateways: Any = import_module("tensorzero").AsyncTensorZeroGateway
    building = gateways.build_embedded(config_file=config, async_setup=True)
    loop = asyncio.get_running_loop()
    async with await building as gateway:
        answer({"event": "ready"})
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            answer(await window(gateway, json.loads(line)))


def answer(said: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
