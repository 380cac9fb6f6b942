"""One piece of work per key, however many callers wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from wasmlet.base.errors import RetryableError

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
Report = TypeVar("Report")

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Flight(Generic[Result, Report]):
    """A piece of work under way, and who wants to hear of it."""

    listeners: list[Callable[[Report], None]] = field(default_factory=list)
    latest: Report | None = None
    waiters: int = 0
    task: asyncio.Task[Result] = field(init=False)

    def report(self, report: Report) -> None:
        """Tell every waiter; one that fails is not told again, and disturbs nobody."""
        self.latest = report
        for listener in list(self.listeners):
            self._tell(listener, report)

    def join(self, listener: Callable[[Report], None] | None) -> None:
        """One more waiter, which first hears where things stand."""
        self.waiters += 1
        if listener is not None:
            self.listeners.append(listener)
            if self.latest is not None:
                self._tell(listener, self.latest)

    def leave(self, listener: Callable[[Report], None] | None) -> None:
        """One waiter less."""
        self.waiters -= 1
        if listener in self.listeners:
            self.listeners.remove(listener)

    def _tell(self, listener: Callable[[Report], None], report: Report) -> None:
        try:
            listener(report)
        except Exception:
            _log.exception("a progress listener failed and is dropped")
            self.listeners.remove(listener)


class Flights(Generic[Key, Result, Report]):
    """Owns the tasks of its flights.

    A waiter that is cancelled leaves; the work goes on while anybody waits, and is cancelled when nobody does.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._flights: dict[Key, Flight[Result, Report]] = {}
        self._ending: set[asyncio.Task[Result]] = set()

    def __repr__(self) -> str:
        waiters = sum(flight.waiters for flight in self._flights.values())
        return f"<Flights {self._name} flying={len(self._flights)} waiters={waiters} ending={len(self._ending)}>"

    async def join(
        self,
        key: Key,
        work: Callable[[Flight[Result, Report]], Awaitable[Result]],
        listener: Callable[[Report], None] | None = None,
        *,
        label: str,
    ) -> Result:
        """The result of the work under way for `key`, which `work` starts when there is none.

        Args:
            label: What it is about, for the task's name and for an error (the key may hold credentials).

        Raises:
            RetryableError: `close` was called meanwhile.
            Exception: Whatever the work raises, for every waiter.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._start(key, work, label)
        flight.join(listener)
        try:
            # Not `await task`: a cancelled waiter must not cancel the work of the others.
            await asyncio.wait([flight.task])
        finally:
            flight.leave(listener)
            if not flight.waiters and not flight.task.done():
                await self._end(key, flight)
        if flight.task.cancelled():
            raise RetryableError(f"{self._name} of {label} was given up: wasmlet is stopping")
        return flight.task.result()

    async def close(self) -> None:
        """Cancel everything and wait for its end."""
        tasks = [*(flight.task for flight in self._flights.values()), *self._ending]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start(
        self, key: Key, work: Callable[[Flight[Result, Report]], Awaitable[Result]], label: str
    ) -> Flight[Result, Report]:
        flight: Flight[Result, Report] = Flight()

        async def run() -> Result:
            return await work(flight)

        flight.task = asyncio.get_running_loop().create_task(run(), name=f"{self._name} of {label}")
        self._flights[key] = flight
        flight.task.add_done_callback(lambda task: self._landed(key, flight, task))
        return flight

    def _landed(self, key: Key, flight: Flight[Result, Report], task: asyncio.Task[Result]) -> None:
        self._ending.discard(task)
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # Retrieved here, since every waiter may be gone.

    async def _end(self, key: Key, flight: Flight[Result, Report]) -> None:
        """The last waiter left: stop the work, so that the next caller starts anew, and wait for its cleanup."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        self._ending.add(flight.task)
        flight.task.cancel()
        await asyncio.wait([flight.task])
