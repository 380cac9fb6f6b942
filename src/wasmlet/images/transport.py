"""HTTP to registries on aiohttp: connections, TLS, time limits, redirects, attempts. Knows nothing of images.

Only `registry` and what it imports use this module, and `library` imports those when it first needs a network.

Foreign errors end here: whoever calls sees `RetryableError`, or `UserError` for an untrusted certificate. Messages
name the host only, since the paths and queries of redirects carry signatures.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from wasmlet.base.errors import RetryableError, UserError
from wasmlet.base.sockets import Sockets
from wasmlet.images.settings import Settings
from wasmlet.images.threads import in_thread

Result = TypeVar("Result")
Upload = Callable[["Progress"], AsyncIterator[bytes]]

MAX_REDIRECTS: Final = 5  # docker and containerd allow 10; a registry needs one, its storage perhaps another
MAX_RETRY_AFTER_SECONDS: Final = 10.0  # longer waits belong to the caller's back-off
READ_SIZE: Final = 1 << 18
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_KEEPING_METHOD: Final = (307, 308)
_HUB_HOST: Final = "registry-1.docker.io"  # where docker.io's registry is

_log = logging.getLogger(__name__)


class PassingError(RetryableError):
    """Worth another attempt at once, or after `retry_after_seconds`."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes:
        authorization: The header's value for the request's own origin; it never goes to another.
        upload: The body in chunks, made anew for each attempt.
        size_bytes: The body's length.
        follow: Whether redirects are followed; not where the body is a secret.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    upload: Upload | None = None
    size_bytes: int = 0
    follow: bool = True


class Progress:
    """A deadline that moves whenever bytes move."""

    def __init__(self, timeout: asyncio.Timeout, seconds: float) -> None:
        self._timeout = timeout
        self._seconds = seconds

    def made(self) -> None:
        """Something moved: the time starts again."""
        self._timeout.reschedule(asyncio.get_running_loop().time() + self._seconds)

    def ends(self) -> None:
        """The other limits take over."""
        self._timeout.reschedule(None)


class Transport:
    """The connections of one library. Make it anywhere, use it on one event loop, close it there."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._sockets = Sockets()
        self._starting = asyncio.Lock()
        self._checked: ssl.SSLContext | None = None
        self._unchecked: ssl.SSLContext | None = None
        self._schemes: dict[str, str] = {}

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await self._sockets.closed()

    async def origin(self, registry: str) -> str:
        """`https://host[:port]` of a registry; `http://…` when it is one that may and does speak plain HTTP.

        Raises:
            RetryableError: Nothing answers.
            UserError: Its certificate is not trusted.
        """
        host = _HUB_HOST if registry == "docker.io" else registry
        if not self._may_be_plain(registry):
            return f"https://{host}"
        scheme = self._schemes.get(registry) or await self._find_scheme(registry, host)
        return f"{scheme}://{host}"

    @contextlib.asynccontextmanager
    async def exchange(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, after redirects; its body must be read inside.

        Raises:
            PassingError: The line was cut, inside too.
            RetryableError: No answer, too many redirects, no progress.
            UserError: An untrusted certificate.
        """
        url, followed = request.url, 0
        while True:
            async with self._once(request, url) as response:
                target = _redirect(request, url, response)
                if target is None:
                    yield response
                    return
            url, followed = target, followed + 1
            if followed > MAX_REDIRECTS:
                raise RetryableError(f"{_host(request.url)} redirects in circles")

    async def attempts(self, act: Callable[[], Awaitable[Result]]) -> Result:
        """What `act` returns, tried again while it raises `PassingError` and attempts are left."""
        delay = self._settings.retry_delay_seconds
        for attempt in range(1, self._settings.attempts + 1):
            try:
                return await act()
            except PassingError as error:
                wait = error.retry_after_seconds
                if attempt == self._settings.attempts or (wait or 0) > MAX_RETRY_AFTER_SECONDS:
                    raise
                _log.info("attempt failed: %s", error.message, extra={"attempt": attempt})
                # Jitter, so that the nodes of a cluster do not come back together.
                await asyncio.sleep(wait if wait is not None else delay * random.uniform(0.5, 1.0))  # noqa: S311
                delay *= 2
        raise AssertionError("attempts is at least 1")

    async def read_small(self, response: aiohttp.ClientResponse, limit: int, *, what: str) -> bytes:
        """The body, if it has at most `limit` bytes and comes without a pause.

        Raises:
            UserError: It is longer.
            RetryableError: It drips.
        """
        content = bytearray()
        seconds = self._settings.idle_timeout_seconds
        try:
            # One limit for all of it, or a byte now and then could keep us for ever.
            async with asyncio.timeout(2 * seconds) as timeout:
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > limit:
                        raise UserError(f"{what} is longer than {limit} bytes")
        except TimeoutError as error:
            if not timeout.expired():
                raise  # Of aiohttp: nothing came at all.
            raise RetryableError(f"{what} did not come within {2 * seconds:g} s") from error
        return bytes(content)

    def _may_be_plain(self, registry: str) -> bool:
        return registry in self._settings.insecure_registries or is_loopback(registry)

    async def _find_scheme(self, registry: str, host: str) -> str:
        """As docker does for loopback: https first, and http only if the port does not speak TLS."""
        try:
            async with self.exchange(Request("HEAD", f"https://{host}/v2/")):
                self._schemes[registry] = "https"
                return "https"
        except RetryableError as error:
            if isinstance(error.__cause__, aiohttp.ClientConnectorDNSError):
                raise
            if isinstance(error, PassingError) or isinstance(error.__cause__, aiohttp.ClientConnectorSSLError):
                self._schemes[registry] = "http"  # It answered, but not in TLS; one that is down may yet speak it.
        return "http"

    @contextlib.asynccontextmanager
    async def _once(self, request: Request, url: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """One exchange without redirects."""
        session = await self._started()
        headers = dict(request.headers)
        if request.authorization is not None and _origin(url) == _origin(request.url):
            headers["Authorization"] = request.authorization
        registry = urlsplit(url).netloc
        tls = self._unchecked if registry in self._settings.insecure_registries else self._checked
        with _translated(_host(url), self._settings):
            async with asyncio.timeout(None) as timeout:
                progress = Progress(timeout, self._settings.idle_timeout_seconds)
                body = None
                if request.upload is not None:
                    headers["Content-Length"] = str(request.size_bytes)
                    body = request.upload(progress)
                # `encoded`: a signature in the query must arrive as it was written.
                async with session.request(
                    request.method,
                    URL(url, encoded=True),
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                    ssl=tls if tls is not None else True,
                ) as response:
                    progress.ends()
                    yield response

    async def _started(self) -> aiohttp.ClientSession:
        async with self._starting:
            if self._session is None:
                # Reading the system's authorities takes some 20 ms.
                self._checked, self._unchecked = await in_thread(self._contexts)
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(socket_factory=self._sockets.make),
                    timeout=aiohttp.ClientTimeout(
                        total=None,
                        connect=self._settings.connect_timeout_seconds,
                        sock_read=self._settings.idle_timeout_seconds,
                    ),
                    headers={"User-Agent": "wasmlet", "Accept-Encoding": "identity"},
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,  # Digests are of what was sent; and no bombs.
                    read_bufsize=READ_SIZE,
                )
            return self._session

    def _contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        checked = ssl.create_default_context()
        for path in self._settings.ca_files:
            try:
                checked.load_verify_locations(cafile=path)
            except (OSError, ssl.SSLError) as error:
                raise UserError(f"cannot use the certificate authorities in {path}: {error}") from error
        unchecked = ssl.create_default_context()
        unchecked.check_hostname = False
        unchecked.verify_mode = ssl.CERT_NONE
        return checked, unchecked


def is_loopback(registry: str) -> bool:
    """Whether a registry (`host[:port]`) is on this machine by its name: localhost, 127.0.0.0/8, ::1."""
    host = urlsplit(f"//{registry}").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _redirect(request: Request, url: str, response: aiohttp.ClientResponse) -> str | None:
    """Where an answer sends us, None when it is the answer itself."""
    location = response.headers.get("Location")
    if response.status not in _REDIRECTS or not location or not request.follow:
        return None
    if request.method not in ("GET", "HEAD") and response.status not in _KEEPING_METHOD:
        return None
    target = urljoin(url, location)
    scheme = urlsplit(target).scheme
    if scheme not in ("http", "https") or (scheme == "http" and urlsplit(url).scheme == "https"):
        raise RetryableError(f"{_host(url)} redirects from https to {scheme}, which is not followed")
    return target


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


@contextlib.contextmanager
def _translated(host: str, settings: Settings) -> Iterator[None]:
    """Errors of aiohttp → ours."""
    try:
        yield
    except aiohttp.ClientConnectorDNSError as error:
        raise RetryableError(
            f"cannot resolve the name of {host}", hint="check the registry's name and this machine's network"
        ) from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise UserError(
            f"the TLS certificate of {host} is not trusted: {error.certificate_error}",
            hint="add its authority to the images settings (ca_files), or name the registry in insecure_registries",
        ) from error
    except aiohttp.ClientConnectorSSLError as error:
        raise RetryableError(
            f"{host} does not speak TLS",
            hint="a registry with plain HTTP must be named in insecure_registries",
        ) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise RetryableError(f"{host} cannot be reached within {settings.connect_timeout_seconds:g} s") from error
    except TimeoutError as error:
        raise RetryableError(f"{host} made no progress for {settings.idle_timeout_seconds:g} s") from error
    except aiohttp.ClientConnectorError as error:
        raise RetryableError(f"cannot connect to {host}: {error.strerror or 'no connection'}") from error
    except aiohttp.ClientError as error:
        # A cut line, a broken answer: the next attempt often works.
        raise PassingError(f"the connection to {host} broke ({type(error).__name__})") from error
