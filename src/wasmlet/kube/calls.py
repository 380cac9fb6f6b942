"""Requests in bytes: limited in rate and number, tried again where the server says "later", errors by class.

The layer below `client`, which adds the types.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Final

from wasmlet.base.errors import RetryableError, WasmletError
from wasmlet.kube.errors import RESOURCE_VERSION_TOO_LARGE, UnreachableError, failure, parse_status
from wasmlet.kube.kubeconfig import Access
from wasmlet.kube.pace import BackOff, Limiter
from wasmlet.kube.settings import Settings

if TYPE_CHECKING:
    import aiohttp

    from wasmlet.kube.connection import Connection, Request

__all__ = ["Calls"]

logger = logging.getLogger(__name__)

MAX_FAILURE_BYTES: Final = 1 << 16
_REDIRECTION: Final = 300
"""The first status that is no success; the API server redirects nobody."""
_LATER: Final = 429
_SERVER_ERRORS: Final = 500
_RETRY_AFTER_DIGITS: Final = 6


class Calls:
    """The requests of one client; `sharing` makes another on the same connections with limits of its own."""

    def __init__(self, settings: Settings, shared: Shared, *, limiter: Limiter | None, timeout_seconds: float) -> None:
        self._settings = settings
        self._shared = shared
        self._limiter = limiter
        self._timeout_seconds = timeout_seconds

    @classmethod
    def to(cls, access: Access, settings: Settings) -> Calls:
        """With the limits of the settings, on connections of its own."""
        limiter = Limiter(rate=settings.queries_per_second, burst=settings.burst)
        return cls(settings, Shared(access, settings), limiter=limiter, timeout_seconds=settings.timeout_seconds)

    def sharing(self, *, limiter: Limiter | None, timeout_seconds: float | None) -> Calls:
        """See `Client.sharing`."""
        seconds = timeout_seconds if timeout_seconds is not None else self._timeout_seconds
        return Calls(self._settings, self._shared, limiter=limiter, timeout_seconds=seconds)

    def level(self, usual: int) -> int:
        """See `Client.level`."""
        return self._shared.outage.level(usual)

    async def close(self) -> None:
        """See `Client.close`."""
        await self._shared.close()

    async def rotate(self, access: Access | None) -> None:
        """See `Client.rotate`."""
        await self._shared.rotate(access)

    async def raw(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        what: str = "",
    ) -> bytes:
        """The body of a successful answer.

        Args:
            query: Empty values are left out.
            what: Verb and object for messages; default: method and path.
        """
        from wasmlet.kube.connection import Request  # noqa: PLC0415  # a run without a cluster has no aiohttp

        request = Request(
            method=method,
            path=path,
            what=what or f"{method} {path}",
            query=_pairs(query or {}),
            body=body,
            content_type=content_type,
            timeout_seconds=self._timeout_seconds,
        )
        back_off = BackOff(first_seconds=self._settings.retry_delay_seconds, jitter=0.5)
        for attempt in range(1, self._settings.attempts + 1):
            try:
                return await self._once(request)
            except _LaterError as later:
                delay = self._delay(later, method, back_off)
                if delay is None or attempt == self._settings.attempts:
                    raise later.error from later.__cause__
                extra = {"attempt": attempt, "seconds": delay}
                logger.log(self.level(logging.INFO), "request delayed: %s", later.error.message, extra=extra)
            await asyncio.sleep(delay)
        raise AssertionError("attempts is at least 1")

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, *, query: Mapping[str, str], what: str, idle_seconds: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """The body of a successful answer that goes on and on (a watch).

        It ends when the server ends it, breaks with `RetryableError` when nothing comes for `idle_seconds`, and when
        the credentials change.
        """
        from wasmlet.kube.connection import Request  # noqa: PLC0415

        request = Request(method="GET", path=path, what=what, query=_pairs(query), idle_seconds=idle_seconds)
        await self._take_turn()
        connection = await self._shared.connection()
        has_answered = False
        try:
            async with connection.exchange(request, is_stream=True) as response:
                has_answered = True
                self._shared.outage.ends()
                if response.status >= _REDIRECTION:
                    raise (await _failure(response, request)).error
                yield response.content
        except UnreachableError as error:
            if not has_answered:  # a watch that is cut later says nothing of the server: the next request does
                self._shared.outage.begins(error)
            raise

    async def _once(self, request: Request) -> bytes:
        """One attempt.

        Raises:
            _LaterError: The server is away, has failed, or asks to come again.
            WasmletError: As the server's answer says.
        """
        from wasmlet.kube.connection import read_bounded  # noqa: PLC0415

        await self._take_turn()
        connection = await self._shared.connection()
        async with self._shared.permits:
            try:
                async with connection.exchange(request) as response:
                    self._shared.outage.ends()
                    if response.status < _REDIRECTION:
                        return await read_bounded(response, self._settings.max_body_bytes, what=request.what)
                    raise await _failure(response, request)
            except RetryableError as error:
                if isinstance(error, UnreachableError):
                    self._shared.outage.begins(error)
                raise _LaterError(error, code=0) from error

    async def _take_turn(self) -> None:
        if self._limiter is not None:
            await self._limiter.take()

    def _delay(self, later: _LaterError, method: str, back_off: BackOff) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        if later.error.reason == RESOURCE_VERSION_TOO_LARGE:
            return None  # The server has already waited for that version; the same again would wait for long.
        named = later.error.retry_after_seconds if isinstance(later.error, RetryableError) else None
        if later.code == _LATER or (later.code >= _SERVER_ERRORS and named is not None):
            if named is not None and named > self._settings.max_retry_after_seconds:
                return None
            # All nodes of a cluster are told the same number.
            return back_off.next() if named is None else named * random.uniform(1.0, 1.2)  # noqa: S311
        # What failed without such a word may have been done: only a GET is harmless twice.
        is_passing = later.code == 0 or later.code >= _SERVER_ERRORS
        return back_off.next() if method == "GET" and is_passing else None


class _LaterError(Exception):
    """An attempt failed with `error`, and there may be another. `code` is the HTTP status, 0 without an answer."""

    def __init__(self, error: WasmletError, *, code: int) -> None:
        super().__init__(error.message)
        self.error = error
        self.code = code


class Outage:
    """The time in which the API server is not there: its beginning and its end are told, once each."""

    def __init__(self) -> None:
        self._since: float | None = None

    def __repr__(self) -> str:
        return f"<Outage {'none' if self._since is None else f'since {self._since:.0f}'}>"

    def begins(self, error: UnreachableError) -> None:
        """A request found nobody."""
        if self._since is None:
            self._since = time.monotonic()
            logger.warning("API server away: %s", error)

    def ends(self) -> None:
        """The server has answered, whatever it said."""
        if self._since is not None:
            logger.warning("API server back", extra={"seconds": time.monotonic() - self._since})
            self._since = None

    def level(self, usual: int) -> int:
        """See `Client.level`."""
        return usual if self._since is None else logging.DEBUG


class Shared:
    """What clients with different limits have in common. The connection is made when it is first needed."""

    def __init__(self, access: Access, settings: Settings) -> None:
        self._access = access
        self._settings = settings
        self._connection: Connection | None = None
        self._is_closed = False
        self.outage = Outage()
        self.permits = asyncio.Semaphore(settings.parallel_requests)

    async def connection(self) -> Connection:
        if self._connection is None:
            from wasmlet.kube.connection import Connection  # noqa: PLC0415

            if self._is_closed:
                raise RetryableError(f"the connection to {self._access.server} was closed by wasmlet")
            self._connection = Connection(self._access, self._settings)
        return self._connection

    async def rotate(self, access: Access | None) -> None:
        await (await self.connection()).rotate(access)

    async def close(self) -> None:
        self._is_closed = True
        if self._connection is not None:
            await self._connection.close()


async def _failure(response: aiohttp.ClientResponse, request: Request) -> _LaterError:
    """The error of an answer that is no success."""
    content = bytearray()
    while len(content) < MAX_FAILURE_BYTES and (chunk := await response.content.read(MAX_FAILURE_BYTES)):
        content += chunk
    error = failure(
        response.status,
        parse_status(bytes(content)),
        what=request.what,
        retry_after_seconds=_retry_after(response.headers.get("Retry-After", "")),
    )
    return _LaterError(error, code=response.status)


def _retry_after(text: str) -> float | None:
    """The header's seconds; the API server never sends a date."""
    return float(text) if text.isascii() and text.isdigit() and len(text) <= _RETRY_AFTER_DIGITS else None


def _pairs(query: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in query.items() if value)
