"""Waiting for a condition with a deadline: tests never sleep for luck."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_SECONDS = 20.0
POLL_SECONDS = 0.005


async def eventually(condition: Callable[[], T | None], what: object = "", *, seconds: float = DEADLINE_SECONDS) -> T:
    """The first true value of `condition`.

    Args:
        what: Told when the deadline has passed; its `repr` is taken then, so that it shows the last state.

    Raises:
        AssertionError: The deadline has passed.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what!r}"
        await asyncio.sleep(POLL_SECONDS)
    return value


def eventually_now(condition: Callable[[], T | None], what: object = "", *, seconds: float = DEADLINE_SECONDS) -> T:
    """`eventually` for tests without an event loop."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what!r}"
        time.sleep(POLL_SECONDS)
    return value
