"""Work in threads that survives a cancelled caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

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


class Behind:
    """Calls in threads, in order and one at a time, while their caller gets the next one ready.

    A context: its end waits for the last call, whatever happened, so nothing is under way afterwards.
    """

    def __init__(self) -> None:
        self._last: asyncio.Future[None] | None = None

    async def call(
        self, function: Callable[Parameters, None], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> None:
        """Begin a call once the one before it is done; raises what that one raised."""
        await self._done()
        self._last = asyncio.get_running_loop().run_in_executor(None, lambda: function(*args, **kwargs))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self._done()
        elif self._last is not None:
            await _until_done(self._last)

    async def _done(self) -> None:
        if self._last is None:
            return
        try:
            await asyncio.shield(self._last)
        except asyncio.CancelledError:
            await _until_done(self._last)
            raise
        finally:
            self._last = None


async def _until_done(future: asyncio.Future[Result]) -> None:
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue  # The caller re-raises the first one.
    if not future.cancelled():
        future.exception()  # Retrieved: nobody else will ask.
