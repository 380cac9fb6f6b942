"""How often and how soon: token buckets and back-off with jitter. Clocks are arguments, nothing here waits on its own.

Used by the client (qps and burst), the watches (back-off) and the events (spam filter).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["BackOff", "Bucket", "Limiter"]


class Bucket:
    """A token bucket. It starts full.

    Args:
        rate: Tokens a second that flow in.
        burst: What it holds at most, at least 1.
    """

    def __init__(self, *, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at: float | None = None

    def __repr__(self) -> str:
        return f"<Bucket {self._tokens:.1f} of {self._burst:g}>"

    def take(self, now: float) -> bool:
        """Take a token if there is one.

        Args:
            now: Seconds on any clock that does not go back (one that does only stops the flow).
        """
        self._flow(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def reserve(self, now: float) -> float:
        """Take a token that may still have to come; the seconds until it is there."""
        self._flow(now)
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)

    def give_back(self) -> None:
        """Return a token that was reserved and not used."""
        self._tokens = min(self._burst, self._tokens + 1)

    def _flow(self, now: float) -> None:
        if self._at is not None and now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now if self._at is None else max(self._at, now)


class Limiter:
    """Lets callers through at a rate, in the order in which they came; a cancelled caller uses nothing up."""

    def __init__(self, *, rate: float, burst: int) -> None:
        self._bucket = Bucket(rate=rate, burst=burst)

    def __repr__(self) -> str:
        return f"<Limiter {self._bucket!r}>"

    async def take(self) -> None:
        """Return when the caller may go on."""
        delay = self._bucket.reserve(asyncio.get_running_loop().time())
        if delay <= 0:
            return
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self._bucket.give_back()
            raise


@dataclass(slots=True, kw_only=True)
class BackOff:
    """Growing delays with jitter, so that the nodes of a cluster do not come back together.

    Attributes:
        first_seconds: The first delay, before jitter. Default 0.8, and
        max_seconds: the longest one, before jitter, 30: both as in client-go's reflector.
        jitter: Up to this share is added at random; 1 doubles at most.
        random: Gives numbers from 0 to 1; tests pass their own.
    """

    first_seconds: float = 0.8
    max_seconds: float = 30.0
    jitter: float = 1.0
    random: Callable[[], float] = random.random
    failures: int = 0

    def next(self) -> float:
        """The seconds to wait after one more failure."""
        grown = self.first_seconds * _FACTOR ** min(self.failures, _MAX_DOUBLINGS)
        self.failures += 1
        return min(grown, self.max_seconds) * (1 + self.jitter * self.random())

    def reset(self) -> None:
        """It worked: the next delay is the first one again."""
        self.failures = 0


_FACTOR: Final = 2.0
_MAX_DOUBLINGS: Final = 32
"""Beyond the longest delay anyway; a float would overflow after a thousand failures."""
