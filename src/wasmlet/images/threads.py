"""Work in threads that survives a cancelled caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def in_thread(
    function: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """As `asyncio.to_thread`, but a cancelled caller first waits for the thread.

    Otherwise the caller's cleanup would close a file while the thread still writes to it, and the descriptor's number
    may belong to somebody else by then. So `function` must be short (one chunk, one file).
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, lambda: function(*args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await _until_done(future)
        raise


async def _until_done(future: asyncio.Future[Result]) -> None:
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue  # The caller re-raises the first one.
    if not future.cancelled():
        future.exception()  # Retrieved: nobody else will ask.
