"""Verdicts: kept for their time, bounded, asked for once."""

import asyncio

import pytest

from tests.unit.server.kubelet_api import Time
from wasmlet.base.errors import RetryableError
from wasmlet.server.caching import Expiring, Verdicts


def test_values_expire() -> None:
    time = Time()
    kept: Expiring[str, int | None] = Expiring(size=10, now=time)
    kept.put("a", None, seconds=10)
    time.now += 9.9
    assert kept.get("a") == (None,)
    time.now += 0.1
    assert kept.get("a") is None
    assert len(kept) == 0


def test_the_least_recently_used_goes_first() -> None:
    kept: Expiring[str, int] = Expiring(size=2, now=Time())
    kept.put("a", 1, seconds=10)
    kept.put("b", 2, seconds=10)
    kept.get("a")
    kept.put("c", 3, seconds=10)
    assert [kept.get(key) for key in "abc"] == [(1,), None, (3,)]


class Oracle:
    """Answers when it is told to."""

    def __init__(self, *, size: int = 10, parallel: int = 10) -> None:
        self.time = Time()
        self.asked: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: Exception | None = None
        self.verdicts: Verdicts[str, bool] = Verdicts(
            "question", lifetime=lambda value: 300 if value else 30, favours=bool, size=size, parallel=parallel,
            now=self.time,
        )  # fmt: skip

    async def ask(self, key: str) -> bool:
        async def question() -> bool:
            self.asked.append(key)
            await self.answers.wait()
            if self.error is not None:
                raise self.error
            return key.isupper()

        return await self.verdicts.ask(key, question, label=key)


async def test_verdicts_hold_for_their_time() -> None:
    oracle = Oracle()
    for _ in range(3):
        assert await oracle.ask("A") is True
        assert await oracle.ask("a") is False
    assert oracle.asked == ["A", "a"]
    oracle.time.now += 31
    assert (await oracle.ask("A"), await oracle.ask("a")) == (True, False)
    assert oracle.asked == ["A", "a", "a"]


async def test_callers_with_one_question_wait_for_one_answer() -> None:
    oracle = Oracle()
    oracle.answers.clear()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(oracle.ask("A")) for _ in range(50)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # the first caller leaves: the others get their answer
        await asyncio.sleep(0)
        oracle.answers.set()
    assert [task.result() for task in waiting[1:]] == [True] * 49
    assert oracle.asked == ["A"]


async def test_failures_are_told_and_not_kept() -> None:
    oracle = Oracle()
    oracle.error = RetryableError("away")
    with pytest.raises(RetryableError):
        await oracle.ask("A")
    oracle.error = None
    assert await oracle.ask("A") is True


async def test_strangers_push_nobody_out() -> None:
    oracle = Oracle(size=3)
    await oracle.ask("A")
    for number in range(100):
        await oracle.ask(f"a{number}")
    oracle.asked.clear()
    await oracle.ask("A")
    assert oracle.asked == []
    assert sum(len(kept) for kept in oracle.verdicts._kept.values()) == 4


async def test_few_questions_at_a_time() -> None:
    oracle = Oracle(parallel=2)
    oracle.answers.clear()
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(oracle.ask(f"a{number}"))
        await asyncio.sleep(0.01)
        assert len(oracle.asked) == 2
        oracle.answers.set()
    assert len(oracle.asked) == 10


async def test_closing_ends_what_is_asked() -> None:
    oracle = Oracle()
    oracle.answers.clear()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(asyncio.wait_for(_failed(oracle), 5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await oracle.verdicts.close()
    assert waiting.result()


async def _failed(oracle: Oracle) -> bool:
    try:
        await oracle.ask("A")
    except RetryableError:
        return True
    return False
