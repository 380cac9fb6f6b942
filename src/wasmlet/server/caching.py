"""Verdicts that hold for a while: bounded, and asked for once however many callers wait."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from wasmlet.base.flights import Flight, Flights

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Seconds = Callable[[], float]
"""A clock that does not go back; its zero means nothing."""


class Expiring(Generic[K, V]):
    """Values that are forgotten when their time is over, or when there are too many (the least recently used first).

    Args:
        size: How many are kept at most.
        now: Tests pass their own.
    """

    def __init__(self, *, size: int, now: Seconds) -> None:
        self._size = size
        self._now = now
        self._values: collections.OrderedDict[K, tuple[V, float]] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> tuple[V] | None:
        """The value, wrapped, since it may be None itself; None when there is none any more."""
        found = self._values.get(key)
        if found is None:
            return None
        value, until = found
        if self._now() >= until:
            del self._values[key]
            return None
        self._values.move_to_end(key)
        return (value,)

    def put(self, key: K, value: V, *, seconds: float) -> None:
        """Keep the value for `seconds`."""
        self._values[key] = (value, self._now() + seconds)
        self._values.move_to_end(key)
        while len(self._values) > self._size:
            self._values.popitem(last=False)


class Verdicts(Generic[K, V]):
    """Asks for a verdict, keeps it, and lets callers with the same question wait for one answer.

    Favourable and unfavourable verdicts are kept apart, so that strangers push out only the latter. What fails is
    not kept.

    Args:
        lifetime: How long a verdict holds, in seconds.
        favours: Whether a verdict is favourable.
        parallel: How many questions are asked at a time; others wait.
    """

    def __init__(
        self,
        name: str,
        *,
        lifetime: Callable[[V], float],
        favours: Callable[[V], bool],
        size: int,
        parallel: int,
        now: Seconds,
    ) -> None:
        self._lifetime = lifetime
        self._favours = favours
        self._kept: dict[bool, Expiring[K, V]] = {each: Expiring(size=size, now=now) for each in (True, False)}
        self._flights: Flights[K, V, None] = Flights(name)
        self._permits = asyncio.Semaphore(parallel)

    async def ask(self, key: K, question: Callable[[], Awaitable[V]], *, label: str) -> V:
        """The verdict on `key`. Raises what `question` raises.

        Args:
            label: For task names and errors; the key may be something secret.
        """
        for kept in self._kept.values():
            if (found := kept.get(key)) is not None:
                return found[0]

        async def work(_: Flight[V, None]) -> V:
            async with self._permits:
                verdict = await question()
            self._kept[self._favours(verdict)].put(key, verdict, seconds=self._lifetime(verdict))
            return verdict

        return await self._flights.join(key, work, label=label)

    async def close(self) -> None:
        """Give up the questions under way."""
        await self._flights.close()
