"""Threads and cancellation."""

import asyncio
import threading

import pytest

from wasmlet.images.threads import Behind, in_thread


async def test_a_cancelled_caller_waits_for_the_thread() -> None:
    started, go, ended = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(started.set)
        go.wait(5)
        ended.set()
        raise OSError("nobody is there to hear it")

    task = loop.create_task(in_thread(work))
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # A second one does not make it leave either.
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_results_and_errors_come_back() -> None:
    assert await in_thread(pow, 2, exp=3) == 8
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 1, 0)


async def test_calls_behind_are_in_order_and_one_at_a_time() -> None:
    seen, busy = list[int](), threading.Lock()

    def work(number: int) -> None:
        assert busy.acquire(blocking=False)
        seen.append(number)
        busy.release()

    async with Behind() as behind:
        for number in range(20):
            await behind.call(work, number)
    assert seen == list(range(20))


async def test_an_error_of_a_call_behind_comes_with_the_next_or_at_the_end() -> None:
    async def caller(*more: str) -> None:
        async with Behind() as behind:
            await behind.call(_fail)
            for each in more:
                await behind.call(pytest.fail, each)

    with pytest.raises(ZeroDivisionError):
        await caller()
    with pytest.raises(ZeroDivisionError):
        await caller("the one before failed")


async def test_nothing_is_behind_when_its_context_is_left() -> None:
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(5)
        ended.set()

    async def caller() -> None:
        async with Behind() as behind:
            await behind.call(work)
            raise KeyError("of the caller")

    task = asyncio.get_running_loop().create_task(caller())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises((asyncio.CancelledError, KeyError)):
        await task
    assert ended.is_set()


def _fail() -> None:
    raise ZeroDivisionError
