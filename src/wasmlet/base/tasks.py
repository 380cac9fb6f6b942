"""Background tasks with an owner and a name.

`asyncio.create_task` is banned elsewhere (pyproject, ruff): a task without an owner is lost when it fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """Owner of tasks that come and go on their own; one that fails is logged and takes no other with it.

    Where the failure of one task must end its siblings, use `asyncio.TaskGroup` instead.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Tasks {sorted(task.get_name() for task in self._tasks)}>"

    def start(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run `coroutine` until it ends or `close` is called."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("task failed", extra={"task": task.get_name()}, exc_info=error)

    async def close(self) -> None:
        """Cancel every task and wait until all have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class InterruptedWorkError(Exception):
    """The event came before the work was done; the work was cancelled and has ended."""


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T], *, name: str) -> T:
    """The result of `work`, unless `event` is set first.

    Raises:
        InterruptedWorkError: `event` was set while the work was under way.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work, name=name)
    stop = loop.create_task(event.wait(), name=f"{name} interruption")
    try:
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise InterruptedWorkError(name)
        return task.result()
    finally:
        task.cancel()
        stop.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)
