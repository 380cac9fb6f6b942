"""Shared work: one task per key, cancellation of some and of all."""

import asyncio

import pytest

from wasmlet.base.errors import RetryableError, UserError
from wasmlet.base.flights import Flight, Flights

Test = Flights[str, str, int]


class Work:
    """Work that waits to be let go, and tells how it ended."""

    def __init__(self) -> None:
        self.started = 0
        self.running = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, flight: Flight[str, int]) -> str:
        self.started += 1
        flight.report(self.started)
        self.running.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        flight.report(100)
        return "result"


async def test_many_waiters_share_one_task() -> None:
    flights, work = Test("test"), Work()
    async with asyncio.TaskGroup() as group:
        waiters = [group.create_task(flights.join("a", work, label="a")) for _ in range(5)]
        await work.running.wait()
        work.go.set()
    assert [waiter.result() for waiter in waiters] == ["result"] * 5
    assert work.started == 1
    assert "flying=0" in repr(flights)


async def test_one_cancelled_waiter_does_not_stop_the_others() -> None:
    flights, work = Test("test"), Work()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(flights.join("a", work, label="a"))
        second = group.create_task(flights.join("a", work, label="a"))
        await work.running.wait()
        first.cancel()
        await asyncio.wait([first])
        assert work.cancelled == 0
        work.go.set()
    assert first.cancelled()
    assert second.result() == "result"


async def test_the_work_stops_when_every_waiter_is_cancelled_and_a_new_one_starts_anew() -> None:
    flights, work = Test("test"), Work()
    async with asyncio.TaskGroup() as group:
        waiters = [group.create_task(flights.join("a", work, label="a")) for _ in range(3)]
        await work.running.wait()
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
        assert work.cancelled == 1
        work.go.set()
        assert await flights.join("a", work, label="a") == "result"
    assert work.started == 2
    assert "flying=0 waiters=0 ending=0" in repr(flights)


async def test_an_error_reaches_every_waiter_and_is_not_kept() -> None:
    flights = Test("test")

    async def fail(_: Flight[str, int]) -> str:
        raise UserError("no")

    async def succeed(_: Flight[str, int]) -> str:
        return "yes"

    results = await asyncio.gather(*(flights.join("a", fail, label="a") for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [UserError] * 3
    assert await flights.join("a", succeed, label="a") == "yes"


async def test_every_listener_hears_and_a_late_one_hears_where_things_stand() -> None:
    flights, work = Test("test"), Work()
    early: list[int] = []
    late: list[int] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(flights.join("a", work, early.append, label="a"))
        await work.running.wait()
        group.create_task(flights.join("a", work, late.append, label="a"))
        await asyncio.sleep(0)
        work.go.set()
    assert early == [1, 100]
    assert late == [1, 100]


async def test_a_listener_that_fails_is_dropped() -> None:
    flights, work = Test("test"), Work()
    work.go.set()
    heard: list[int] = []

    def listener(report: int) -> None:
        heard.append(report)
        raise RuntimeError("bad listener")

    assert await flights.join("a", work, listener, label="a") == "result"
    assert heard == [1]


async def test_close_gives_waiters_an_error_and_leaves_no_task() -> None:
    flights, work = Test("test"), Work()
    waiter = asyncio.get_running_loop().create_task(flights.join("a", work, label="image a"))
    await work.running.wait()
    await flights.close()
    with pytest.raises(RetryableError, match="image a was given up"):
        await waiter
    assert work.cancelled == 1
    await flights.close()
