"""GET /healthz and /healthz/{check}: whether this agent still does its work (kubelet-contract 7.2).

`Health` answers behind the kubelet API's door; `HealthPort` answers the same on loopback, without TLS and to everybody,
for whoever watches the agent on its machine.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web

from wasmlet.server.caching import Seconds

logger = logging.getLogger(__name__)

ADDRESS: Final = "127.0.0.1"
RETRY_SECONDS: Final = 60.0
"""Until a port that somebody else has (a kubelet beside this agent) is tried again."""

END_SECONDS: Final = 1.0

LONGEST_LOOP_SECONDS = 300.0
"""The kubelet's least bound for its sync loop; with a longer sync period it is twice that."""

Check = Callable[[], str]
"""Gives what is wrong, "" when all is well."""


class Health:
    """Answers health checks.

    Args:
        last_loop: When the agent last went through its housekeeping, on the clock `now`; None: the loop that answers
            is all there is, so an answer is proof enough.
        sync_seconds: The period of that housekeeping.
    """

    def __init__(
        self,
        *,
        last_loop: Callable[[], float] | None = None,
        sync_seconds: float = 60.0,
        now: Seconds = time.monotonic,
    ) -> None:
        self._last_loop = last_loop
        self._longest = max(LONGEST_LOOP_SECONDS, 2 * sync_seconds)
        self._now = now
        self._checks: dict[str, Check] = {"ping": _well, "log": _well, "syncloop": self._sync_loop}

    async def handle(self, request: web.Request) -> web.Response:
        """All checks; `?verbose` names each, `?exclude=` leaves one out."""
        excluded = set(request.query.getall("exclude", []))
        lines, failed = [], False
        for name, check in self._checks.items():
            if name in excluded:
                lines.append(f"[+]{name} excluded: ok\n")
            elif check():
                failed = True
                lines.append(f"[-]{name} failed: reason withheld\n")
            else:
                lines.append(f"[+]{name} ok\n")
        if failed:
            return web.Response(status=500, text=f"{''.join(lines)}healthz check failed\n")
        return web.Response(text=f"{''.join(lines)}healthz check passed\n" if "verbose" in request.query else "ok")

    async def handle_one(self, request: web.Request) -> web.Response:
        """One check, with its reason when it fails."""
        check = self._checks.get(request.match_info["check"])
        if check is None:
            raise web.HTTPNotFound(text="404 page not found\n")
        problem = check()
        return (
            web.Response(status=500, text=f"internal server error: {problem}\n") if problem else web.Response(text="ok")
        )

    def _sync_loop(self) -> str:
        if self._last_loop is None or self._now() <= self._last_loop() + self._longest:
            return ""
        return "sync Loop took longer than expected"


def _well() -> str:
    return ""


class HealthPort:
    """`healthzPort` of a kubelet: 127.0.0.1, plain HTTP.

    A port that is taken is told once and tried again: two agents of one machine must not keep each other from
    starting, and a kubelet goes on without it too.
    """

    def __init__(self, health: Health, port: int, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._port = port
        self._retry_seconds = retry_seconds
        application = web.Application()
        application.add_routes(routes(health))
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=END_SECONDS)

    def __repr__(self) -> str:
        return f"<HealthPort {self._port} {self._runner.addresses}>"

    @property
    def port(self) -> int:
        """Where it listens; 0 while it does not."""
        return int(self._runner.addresses[0][1]) if self._runner.addresses else 0

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._runner.setup()
        try:
            await self._listen()
            await asyncio.Event().wait()
        finally:
            await self._runner.cleanup()

    async def _listen(self) -> None:
        is_told = False
        while True:
            try:
                await web.TCPSite(self._runner, ADDRESS, self._port).start()
            except OSError as error:
                if not is_told:
                    taken = " (another agent has it?)" if error.errno == errno.EADDRINUSE else ""
                    text = f"{error.strerror}{taken}"
                    logger.warning("healthz not served", extra={"port": self._port, "error": text})
                is_told = True
                await asyncio.sleep(self._retry_seconds)
            else:
                logger.info("healthz started", extra={"address": ADDRESS, "port": self.port})
                return


def routes(health: Health) -> list[web.RouteDef]:
    """The paths of health checks."""
    return [
        web.get("/healthz", health.handle, allow_head=False),
        web.get("/healthz/{check}", health.handle_one, allow_head=False),
    ]
