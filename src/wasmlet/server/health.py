"""GET /healthz and /healthz/{check}: whether this agent still does its work (kubelet-contract 7.2)."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web

from wasmlet.server.caching import Seconds

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
