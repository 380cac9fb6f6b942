"""Buckets, limiters, back-off: on clocks of their own."""

import asyncio

import pytest

from tests.unit.node import virtual
from wasmlet.kube.pace import BackOff, Bucket, Limiter


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate=2, burst=3)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(0.4)
    assert bucket.take(0.5)
    assert not bucket.take(0.5)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(rate=1, burst=1)
    assert bucket.take(10.0)
    assert not bucket.take(5.0)
    assert bucket.take(11.0)


def test_reserved_tokens_come_one_after_another() -> None:
    bucket = Bucket(rate=10, burst=1)
    assert [bucket.reserve(0.0) for _ in range(3)] == [0.0, pytest.approx(0.1), pytest.approx(0.2)]
    bucket.give_back()
    assert bucket.reserve(0.0) == pytest.approx(0.2)


def test_a_cancelled_waiter_uses_nothing_up() -> None:
    async def story() -> float:
        limiter = Limiter(rate=20, burst=1)
        await limiter.take()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await limiter.take()
        await limiter.take()
        return asyncio.get_running_loop().time()

    assert virtual.run(story()) == pytest.approx(0.05)


def test_back_off_doubles_to_its_limit_and_starts_again() -> None:
    back_off = BackOff(first_seconds=1, max_seconds=5, jitter=0.5, random=lambda: 1.0)
    assert [back_off.next() for _ in range(4)] == [1.5, 3.0, 6.0, 7.5]
    back_off.reset()
    assert back_off.next() == 1.5


def test_back_off_bears_endless_failures() -> None:
    back_off = BackOff()
    assert all(0 < back_off.next() <= 60 for _ in range(5000))
