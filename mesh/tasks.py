"""Running work side by side without losing a task or hiding an error in a group."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def alongside(main: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, None]) -> T:
    """Run `main` here and `others` beside it; return main's result once all are done.

    The first error ends the others at once and is raised as it is; what still runs then, or when
    the caller is cancelled, is cancelled and awaited.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(other) for other in others]
            result = await main
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    for task in tasks:
        task.result()  # A group takes a task that was cancelled for one that is done.
    return result
