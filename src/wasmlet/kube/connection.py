"""HTTP to one API server on aiohttp: connections, TLS, identity, time limits, and the change of all that at run time.

Foreign errors end here: whoever calls sees `RetryableError`, or `UserError` where a certificate is not trusted.
aiohttp is imported by this module only, and this module by `client` when it first needs a network.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from yarl import URL

from wasmlet import __version__
from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.base.http import aiohttp
from wasmlet.base.sockets import Sockets
from wasmlet.kube.credentials import UNUSABLE_CREDENTIALS, Credentials, Identity, tls_context
from wasmlet.kube.errors import UnreachableError
from wasmlet.kube.kubeconfig import Access
from wasmlet.kube.settings import Settings

__all__ = ["Connection", "Request", "read_bounded"]

READ_SIZE: Final = 1 << 18
KEEP_ALIVE_SECONDS: Final = 60.0
"""Less than the 90 s and more of load balancers, so that we are the ones who close."""

UNAUTHORIZED: Final = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request.

    Attributes:
        what: Verb and object for messages: `get pods default/web`.
        query: Never holds a secret.
        body: May hold secrets.
        content_type: Of the body.
        accept: What the answer may be.
        timeout_seconds: For all of it; None: no limit but the idle one.
        idle_seconds: The longest time without a byte; None: no limit.
    """

    method: str
    path: str
    what: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = field(default=None, repr=False)
    content_type: str = "application/json"
    accept: str = "application/json"
    timeout_seconds: float | None = None
    idle_seconds: float | None = None


class _Line:
    """One session: everything in it was opened with one TLS context."""

    def __init__(self, session: aiohttp.ClientSession, context: ssl.SSLContext | None, identity: Identity) -> None:
        self.session = session
        self.context = context
        self.identity = identity
        self.users = 0
        self.is_retired = False
        self.streams: set[aiohttp.ClientResponse] = set()

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[aiohttp.ClientSession]:
        if self.session.closed:  # by a change of the credentials that came just between
            raise RetryableError("the connection to the API server was replaced by another")
        self.users += 1
        try:
            yield self.session
        finally:
            self.users -= 1
            if self.is_retired and self.users == 0:
                await self.session.close()

    async def retire(self) -> None:
        """Streams end now, requests when they are done, connections with the last of them."""
        self.is_retired = True
        for response in list(self.streams):
            response.close()
        if self.users == 0:
            await self.session.close()


class Connection:
    """The connections to one API server. Make it anywhere, use it on one event loop, close it there."""

    def __init__(self, access: Access, settings: Settings) -> None:
        self._access = access
        self._settings = settings
        self._credentials = Credentials(access)
        self._sockets = Sockets()
        self._line: _Line | None = None
        self._starting = asyncio.Lock()
        self._is_closed = False

    def __repr__(self) -> str:
        state = "idle" if self._line is None else f"{self._line.users} requests"
        return f"<Connection to {self._access.server}: {state}>"

    async def close(self) -> None:
        """End everything, requests under way too. Idempotent."""
        self._is_closed = True
        line, self._line = self._line, None
        if line is not None:
            line.is_retired = True
            await line.session.close()
        await self._sockets.closed()

    async def rotate(self, access: Access | None = None) -> None:
        """Begin anew: whatever is opened from now on uses `access`, or what the files of the old one say now.

        Watches on the old connections break and go on at once; requests are finished.

        Raises:
            UserError: The new certificates cannot be used; everything stays as it was.
        """
        access = access if access is not None else self._access
        credentials = Credentials(access)
        async with self._starting:
            if self._line is None:
                self._access, self._credentials = access, credentials
                return
            line = await self._open(access, await credentials.identity())
            old, self._line = self._line, line
            self._access, self._credentials = access, credentials
            await old.retire()

    @contextlib.asynccontextmanager
    async def exchange(self, request: Request, *, is_stream: bool = False) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, whatever its status; its body must be read inside.

        A 401 is answered once with a fresh token or certificate, if there is one.

        Args:
            is_stream: It goes on until somebody ends it; it breaks when the credentials change.

        Raises:
            RetryableError: No answer; or the line was cut, inside too.
            UserError: The server's certificate is not trusted, or our own cannot be used.
        """
        line = await self._current()
        with _translated(self._access, request, self._settings):
            identity = line.identity
            async with line.used(), self._ask(line, request) as response:
                fresh = None
                if response.status == UNAUTHORIZED:
                    fresh = await self._current(refused=identity)
                if fresh is None or fresh.identity is identity:
                    async with _streaming(line, response, is_stream=is_stream):
                        yield response
                    return
            async with (
                fresh.used(),
                self._ask(fresh, request) as response,
                _streaming(fresh, response, is_stream=is_stream),
            ):
                yield response

    def _ask(self, line: _Line, request: Request) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = {"Accept": request.accept}
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        if line.identity.token is not None:
            headers["Authorization"] = f"Bearer {line.identity.token}"
        return line.session.request(
            request.method,
            URL(self._access.server + request.path, encoded=True).with_query(request.query),
            headers=headers,
            data=request.body,
            allow_redirects=False,
            ssl=line.context if line.context is not None else True,
            server_hostname=self._access.tls_server_name,
            timeout=aiohttp.ClientTimeout(
                total=request.timeout_seconds,
                sock_connect=self._settings.connect_timeout_seconds,
                sock_read=request.idle_seconds,
            ),
        )

    async def _current(self, *, refused: Identity | None = None) -> _Line:
        """The line for the identity of now: a new token goes over the old one, a new certificate needs a new one."""
        async with self._starting:
            if self._is_closed:
                raise RetryableError(f"the connection to {self._access.server} was closed by wasmlet")
            identity = await self._credentials.identity(refused=refused)
            line = self._line
            if line is None:
                line = self._line = await self._open(self._access, identity)
            elif (line.identity.certificate, line.identity.key) != (identity.certificate, identity.key):
                old, line = line, await self._open(self._access, identity)
                self._line = line
                await old.retire()
            line.identity = identity
            return line

    async def _open(self, access: Access, identity: Identity) -> _Line:
        context = None
        if access.server.startswith("https:"):
            context = await asyncio.to_thread(tls_context, access, identity)
        if self._is_closed:
            raise RetryableError(f"the connection to {access.server} was closed by wasmlet")
        session = aiohttp.ClientSession(
            # Watches are bounded by those who start them, requests by the client.
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, socket_factory=self._sockets.make
            ),
            headers={"User-Agent": f"wasmlet/{__version__}", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_SIZE,
        )
        return _Line(session, context, identity)


async def read_bounded(response: aiohttp.ClientResponse, limit: int, *, what: str) -> bytes:
    """The whole body.

    Raises:
        WasmletError: It has more than `limit` bytes.
    """
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limit:
            response.close()
            raise WasmletError(f"cannot {what}: the answer has more than {limit} bytes")
    return bytes(content)


@contextlib.asynccontextmanager
async def _streaming(line: _Line, response: aiohttp.ClientResponse, *, is_stream: bool) -> AsyncIterator[None]:
    if not is_stream:
        yield
        return
    line.streams.add(response)
    try:
        if line.is_retired:
            response.close()
        yield
    finally:
        line.streams.discard(response)
        response.close()  # Its connection can serve nobody else.


@contextlib.contextmanager
def _translated(access: Access, request: Request, settings: Settings) -> Iterator[None]:
    """Errors of aiohttp → ours. Not chained where the cause might quote headers."""
    server = urlsplit(access.server).netloc
    to = f"cannot {request.what}: "
    try:
        yield
    except aiohttp.ClientConnectorDNSError as error:
        raise UnreachableError(
            f"{to}the name of the API server {server} cannot be resolved", hint=f"check server in {access.source}"
        ) from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise UserError(
            f"{to}the TLS certificate of {server} is not trusted: {error.certificate_error}",
            hint=f"check certificate-authority and tls-server-name in {access.source}, and this machine's clock",
            reason=UNUSABLE_CREDENTIALS,
        ) from error
    except aiohttp.ClientConnectorSSLError as error:
        raise UnreachableError(f"{to}{server} does not shake hands in TLS: {error.strerror or error}") from error
    except aiohttp.ConnectionTimeoutError as error:
        seconds = settings.connect_timeout_seconds
        raise UnreachableError(f"{to}{server} cannot be reached within {seconds:g} s") from error
    except TimeoutError as error:
        limits = [each for each in (request.timeout_seconds, request.idle_seconds) if each is not None]
        raise RetryableError(f"{to}{server} did not answer within {min(limits, default=0):g} s") from error
    except aiohttp.ClientConnectorError as error:
        raise UnreachableError(f"{to}cannot connect to the API server {server}: {_why(error)}") from error
    except (aiohttp.ClientError, ssl.SSLError) as error:
        # TLS 1.3 refuses our certificate only when we read: that is an SSLError here.
        raise UnreachableError(f"{to}the connection to {server} broke ({type(error).__name__})") from None


def _why(error: aiohttp.ClientConnectorError) -> str:
    """The system's word: asyncio's own text is `Connect call failed ('127.0.0.1', 1)`."""
    code = error.os_error.errno
    return os.strerror(code).lower() if code else error.strerror or "no connection"
