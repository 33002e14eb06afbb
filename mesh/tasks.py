"""Running work side by side without losing a task or hiding an error in a group."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def alongside(main: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, None]) -> T:
    """Run `main` here and `others` beside it; return main's result once all are done.

    The first error to be noticed is raised as it is, main's before the others'; what still runs
    then, or when the caller is cancelled, is cancelled and awaited.
    """
    tasks = [asyncio.get_running_loop().create_task(other) for other in others]
    try:
        result = await main
        for task in tasks:
            await task
        return result
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
