"""Threads and cancellation."""

import asyncio
import threading

import pytest

from wasmlet.images.threads import in_thread


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
