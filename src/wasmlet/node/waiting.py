"""Waiting for a cluster that does not answer yet, by somebody who looks at the terminal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from wasmlet.base.errors import RetryableError
from wasmlet.kube.client import Client
from wasmlet.kube.errors import UnauthorizedError

__all__ = ["until_answered"]

T = TypeVar("T")

logger = logging.getLogger(__name__)


async def until_answered(
    ask: Callable[[], Awaitable[T]], client: Client, *, server: str, seconds: float, retry_seconds: float
) -> T:
    """What `ask` gives, asked again while it may give it later; what is waited for is told at once, and once.

    Args:
        server: What is asked, for the error of one that says nothing at all.
        seconds: How long it is waited for.

    Raises:
        RetryableError: The last one of `ask`, when the time is over.
    """
    last, told = RetryableError(f"{server} did not answer within {seconds:g} s"), ""
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    return await ask()
                except RetryableError as error:
                    last = error
                if str(last) != told:  # minutes are long for somebody who has mistyped an address or a token
                    level = logging.WARNING if isinstance(last, UnauthorizedError) else client.level(logging.WARNING)
                    logger.log(level, "waiting for the cluster: %s", last)
                told = str(last)
                await asyncio.sleep(retry_seconds)
    except TimeoutError:
        raise last from None
