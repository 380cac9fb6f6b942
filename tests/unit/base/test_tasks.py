"""Tasks with an owner."""

import asyncio
import logging

import pytest

from wasmlet.base.tasks import InterruptedWorkError, Tasks, unless


async def test_close_cancels_and_waits() -> None:
    tasks, ended = Tasks(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    tasks.start(work(), name="work")
    await asyncio.sleep(0)
    assert repr(tasks) == "<Tasks ['work']>"
    await tasks.close()
    assert ended.is_set()
    assert repr(tasks) == "<Tasks []>"


async def test_a_task_that_fails_is_logged_and_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    tasks, go = Tasks(), asyncio.Event()

    async def fail() -> None:
        raise ValueError("oops")

    async def go_on() -> int:
        await go.wait()
        return 3

    failing, other = tasks.start(fail(), name="failing"), tasks.start(go_on(), name="other")
    with caplog.at_level(logging.ERROR):
        await asyncio.wait([failing])
        await asyncio.sleep(0)
    assert "task failed" in caplog.text
    assert "oops" in caplog.text
    go.set()
    assert await other == 3
    await tasks.close()


async def test_unless_gives_the_result() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await unless(asyncio.Event(), work(), name="work") == "done"


async def test_unless_raises_what_the_work_raises() -> None:
    async def work() -> None:
        raise KeyError("k")

    with pytest.raises(KeyError):
        await unless(asyncio.Event(), work(), name="work")


async def test_unless_interrupts_the_work_and_waits_for_its_end() -> None:
    event, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    asyncio.get_running_loop().call_soon(event.set)
    with pytest.raises(InterruptedWorkError, match="work"):
        await unless(event, work(), name="work")
    assert ended.is_set()


async def test_work_that_is_done_in_time_counts_though_the_event_came_too() -> None:
    event = asyncio.Event()

    async def work() -> int:
        event.set()
        return 1

    assert await unless(event, work(), name="work") == 1


async def test_cancelling_unless_cancels_the_work() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tasks = Tasks()
    outer = tasks.start(unless(asyncio.Event(), work(), name="work"), name="outer")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert ended.is_set()
