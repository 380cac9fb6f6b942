"""Waiting out the moment after a pod was bound, in which the Node authorizer does not know of it (contract 13)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from wasmlet.kube.errors import ForbiddenError
from wasmlet.kube.pace import BackOff

__all__ = ["GRACE_SECONDS", "RETRY_SECONDS", "while_forbidden"]

T = TypeVar("T")

GRACE_SECONDS: Final = 5.0
"""How long a 403 may be the authorizer's lag; its informers need milliseconds, under load a second or two."""

RETRY_SECONDS: Final = 0.1
"""The first wait; a pod's start should not notice."""


async def while_forbidden(act: Callable[[], Awaitable[T]], *, seconds: float = GRACE_SECONDS) -> T:
    """What `act` returns, tried again while it raises `ForbiddenError`.

    Args:
        seconds: After these the error counts.

    Raises:
        ForbiddenError: It still may not.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    back_off = BackOff(first_seconds=RETRY_SECONDS, max_seconds=1.0)
    while True:
        try:
            return await act()
        except ForbiddenError:
            delay = back_off.next()
            if loop.time() + delay > deadline:
                raise
        await asyncio.sleep(delay)
