"""The sockets of an HTTP client, so that its end can be waited for.

A TLS connection that is closed in the middle of an answer says goodbye to its peer first. aiohttp forgets it at that
moment, and closing the session does not wait for it; whoever ends the event loop then leaves it open.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from typing import Any, Final

__all__ = ["Sockets"]

PATIENCE_SECONDS: Final = 2.0
"""For a peer that does not answer the goodbye; the end of the process closes its socket then."""
POLL_SECONDS: Final = 0.002


class Sockets:
    """Every socket that `make` gave and that is open yet. Hand `make` to an aiohttp connector as its socket_factory."""

    def __init__(self) -> None:
        self._made: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def make(self, address: tuple[Any, ...]) -> socket.socket:
        """A new socket for an address as `socket.getaddrinfo` gives it."""
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self._made.add(made)
        return made

    @property
    def are_closed(self) -> bool:
        """Whether none is open."""
        return all(each.fileno() == -1 for each in self._made)

    async def closed(self) -> None:
        """Wait until none is open, `PATIENCE_SECONDS` at most. The session must be closed."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not self.are_closed and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(POLL_SECONDS)
