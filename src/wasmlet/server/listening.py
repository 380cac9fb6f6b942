"""The door: connections come in over TLS, bounded in number, and strangers do not stay (style rule 19).

Nothing that one peer does keeps another out: handshakes run in tasks of their own with a time limit; a peer has to
show who it is within another; and when the house is full, the oldest stranger leaves for the newest caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from wasmlet.base.errors import UserError
from wasmlet.base.tasks import Tasks

if TYPE_CHECKING:
    import ssl

    from aiohttp import web
    from aiohttp.web_protocol import RequestHandler

logger = logging.getLogger(__name__)

BACKLOG: Final = 128
ACCEPT_DELAY_SECONDS: Final = 1.0
"""After an accept that failed for want of something; asyncio's own ACCEPT_RETRY_DELAY."""

PATIENCE_SECONDS: Final = 1.0
"""How long a stranger is left alone even when the house is full: an honest one is known within milliseconds."""

KEEP_ALIVE: Final = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 9))
"""Seconds, seconds and probes: Go's defaults. They end a `logs -f` whose client has vanished without a word."""

GONE_BEFORE_ACCEPTED: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.EPERM})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What peers may take.

    Attributes:
        connections: At a time; never more than half of the file descriptors that this process may have.
        handshake_seconds: For TLS.
        stranger_seconds: From there until the first request of somebody who is identified.
    """

    connections: int = 1000
    handshake_seconds: float = 10.0
    stranger_seconds: float = 30.0


class Door:
    """Accepts connections for an aiohttp server.

    Args:
        context: What the next connection is served with; None turns it away (there is no certificate yet).
    """

    def __init__(self, server: web.Server, *, context: Callable[[], ssl.SSLContext | None], limits: Limits) -> None:
        self._server = server
        self._context = context
        self._limits = limits
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        is_endless = descriptors == resource.RLIM_INFINITY
        self._most = limits.connections if is_endless else min(limits.connections, descriptors // 2)
        self._listener: socket.socket | None = None
        self._handshakes: dict[asyncio.Task[None], float] = {}
        self._strangers: dict[RequestHandler, tuple[float, asyncio.TimerHandle]] = {}
        self._refused = 0
        self._tasks = Tasks()

    def __repr__(self) -> str:
        known = len(self._server.connections) - len(self._strangers)
        return f"<Door known={known} strangers={len(self._strangers)} handshakes={len(self._handshakes)}>"

    @property
    def port(self) -> int:
        """Where it listens; the chosen one after `open` with port 0."""
        assert self._listener is not None
        return int(self._listener.getsockname()[1])

    async def open(self, address: str, port: int) -> None:
        """Listen.

        Raises:
            UserError: The address is not this machine's, or the port is taken.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
            listener.bind((address, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise UserError(
                f"cannot listen on {address} port {port}: {error.strerror}",
                hint="another kubelet may serve this machine; choose another --port (or --node-ip)",
                reason="AddressInUse" if error.errno == errno.EADDRINUSE else "AddressUnusable",
            ) from error
        self._listener = listener
        self._tasks.start(self._accept(listener), name="kubelet port")

    async def close(self) -> None:
        """Accept nobody any more, and give up handshakes. Connections stay; the server ends them."""
        await self._tasks.close()
        for _, timer in self._strangers.values():
            timer.cancel()
        self._strangers.clear()
        if self._listener is not None:
            self._listener.close()

    def know(self, handler: RequestHandler) -> None:
        """Whoever speaks on this connection is identified: it may stay."""
        if (found := self._strangers.pop(handler, None)) is not None:
            found[1].cancel()

    # --- accepting ----------------------------------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno not in GONE_BEFORE_ACCEPTED:
                    logger.warning("accept failed", extra={"error": str(error)})
                    await asyncio.sleep(ACCEPT_DELAY_SECONDS)
                continue
            context = self._context()
            if context is None or not self._has_room():
                self._refuse(accepted, "no certificate" if context is None else "too many connections")
                continue
            task = self._tasks.start(self._welcome(accepted, context), name="handshake")
            self._handshakes[task] = loop.time()
            task.add_done_callback(lambda ended: self._handshakes.pop(ended, None))

    def _refuse(self, accepted: socket.socket, reason: str) -> None:
        accepted.close()
        self._refused += 1
        if self._refused.bit_count() == 1:  # the first, second, fourth, eighth … : a flood must not fill the log
            logger.warning("connection refused", extra={"reason": reason, "so far": self._refused})

    async def _welcome(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # gone already: the handshake will tell
            for option, value in KEEP_ALIVE:
                accepted.setsockopt(socket.IPPROTO_TCP, option, value)
        try:
            transport, _ = await loop.connect_accepted_socket(
                self._server,
                accepted,
                ssl=context,
                ssl_handshake_timeout=self._limits.handshake_seconds,
                ssl_shutdown_timeout=self._limits.handshake_seconds,
            )
        except OSError as error:  # TLS errors are such, and so is a time that is over
            logger.debug("handshake failed", extra={"error": str(error)})
            accepted.close()
            return
        # What uvloop returns beside the transport is its layer of TLS, not the protocol above it.
        handler = cast("RequestHandler", transport.get_protocol())
        if handler.transport is not None:
            timer = loop.call_later(self._limits.stranger_seconds, self._send_away, handler)
            self._strangers[handler] = (loop.time(), timer)
            if len(self._strangers) > 2 * self._most:
                self._forget_the_gone()

    # --- strangers ----------------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        if len(self._handshakes) + len(self._server.connections) < self._most:
            return True
        patience = asyncio.get_running_loop().time() - PATIENCE_SECONDS
        self._forget_the_gone()
        for handler, (since, _) in self._strangers.items():
            if since <= patience:
                self._send_away(handler)
                return True
            break
        for task, since in self._handshakes.items():
            if since <= patience:
                del self._handshakes[task]
                task.cancel()
                return True
            break
        return False

    def _forget_the_gone(self) -> None:
        for handler in [each for each in self._strangers if each.transport is None]:
            self.know(handler)

    def _send_away(self, handler: RequestHandler) -> None:
        self.know(handler)
        if handler.transport is not None:
            handler.transport.abort()
