"""Waiting for a cluster that does not answer yet, by somebody who looks at the terminal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from wasmlet.base.errors import RetryableError
from wasmlet.kube.client import Client
from wasmlet.kube.errors import UnauthorizedError

__all__ = ["until_answered"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

NEWS_SECONDS: Final = 30.0
"""How often it is told that nothing has changed: minutes of silence look like a program that hangs."""


async def until_answered(
    ask: Callable[[], Awaitable[T]], client: Client, *, server: str, seconds: float, retry_seconds: float
) -> T:
    """What `ask` gives, asked again while it may give it later; what is waited for is told at once, and now and then.

    Args:
        server: What is asked, for the error of one that says nothing at all.
        seconds: How long it is waited for.

    Raises:
        RetryableError: The last one of `ask`, when the time is over.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    last, why, told_at = RetryableError(f"{server} did not answer"), "", -NEWS_SECONDS
    try:
        async with asyncio.timeout_at(deadline):
            while True:
                try:
                    return await ask()
                except RetryableError as error:
                    last = error
                is_known = _is_told(last, client)
                is_news = str(last) != why and not (why and is_known)
                if is_news or loop.time() >= told_at + NEWS_SECONDS:
                    message = "waiting for the cluster" + ("" if is_news and is_known else f": {last}")
                    left = {"retry_seconds": retry_seconds, "left_seconds": round(deadline - loop.time())}
                    logger.log(logging.WARNING if is_news and not is_known else logging.INFO, message, extra=left)
                    why, told_at = str(last), loop.time()
                await asyncio.sleep(retry_seconds)
    except TimeoutError:
        raise type(last)(f"{last.message} (tried for {seconds:g} s)", hint=last.hint, reason=last.reason) from None


def _is_told(error: RetryableError, client: Client) -> bool:
    """Whether the client has warned of it a moment ago: of a server that is away it says so, and why, itself."""
    return not isinstance(error, UnauthorizedError) and client.level(logging.WARNING) != logging.WARNING
