"""Fairness on one event loop: a burst of work is spread over many of its rounds.

asyncio runs all that is ready before it looks at timers and sockets again, so a hundred small things that become
ready at once stop everything else for their sum. Whoever begins a piece of work waits for its turn first.
"""

from __future__ import annotations

import asyncio
import collections

DEFAULT_TURNS = 2
"""For each round. A step of a pod takes about 1 ms; 20 ms is the longest that anybody shall wait (design section 8)."""


class Turns:
    """Lets a few waiters go on in each round of the loop, in the order in which they came."""

    def __init__(self, each_round: int = DEFAULT_TURNS) -> None:
        self._each_round = each_round
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._is_scheduled = False

    def __repr__(self) -> str:
        return f"<Turns {len(self._waiting)} waiting>"

    async def take(self) -> None:
        """Return when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._release)
        await turn

    def _release(self) -> None:
        for _ in range(min(self._each_round, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
        self._is_scheduled = bool(self._waiting)
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._release)
