"""HTTP to registries on aiohttp: connections, TLS, time limits, redirects, attempts. Knows nothing of images.

Only `registry` and what it imports use this module, and `library` imports those when it first needs a network.

Foreign errors end here: whoever calls sees `RetryableError`, or `RegistryError` for an untrusted certificate. Messages
name the host only, since the paths and queries of redirects carry signatures.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

from yarl import URL

from wasmlet.base.errors import Fault, RetryableError, UserError
from wasmlet.base.http import aiohttp
from wasmlet.base.sockets import Sockets
from wasmlet.images import proxies
from wasmlet.images.settings import Settings
from wasmlet.images.tls import Contexts, Tls

Result = TypeVar("Result")
Upload = Callable[["Progress"], AsyncIterator[bytes]]

MAX_REDIRECTS: Final = 5  # docker and containerd allow 10; a registry needs one, its storage perhaps another
MAX_RETRY_AFTER_SECONDS: Final = 10.0  # longer waits belong to the caller's back-off
READ_SIZE: Final = 1 << 18
LEAST_PROGRESS_BYTES: Final = 16 << 10  # less is a registry that holds us
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_KEEPING_METHOD: Final = (307, 308)
_HUB_HOST: Final = "registry-1.docker.io"  # where docker.io's registry is

_log = logging.getLogger(__name__)


class RegistryError(UserError):
    """The registry, or who stands in its place, does not do what was well asked, and asking again would not help."""

    fault = Fault.CLUSTER


class PassingError(RetryableError):
    """Worth another attempt at once, or after `retry_after_seconds`."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes:
        authorization: The header's value for the request's own origin; it never goes to another.
        tls: Of that origin; others that it sends us to get its authorities only.
        private: Further headers for that origin only.
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
    tls: Tls = field(default_factory=Tls)
    private: Mapping[str, str] = field(default_factory=dict, repr=False)


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
        self._contexts = Contexts()
        self._schemes: dict[str, str] = {}

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await self._sockets.closed()

    async def origin(self, registry: str, tls: Tls = Tls()) -> str:  # noqa: B008  # it is a value
        """`https://host[:port]` of a registry; `http://…` when it is one that may and does speak plain HTTP.

        Raises:
            RetryableError: Nothing answers.
            RegistryError: Its certificate is not trusted.
        """
        host = _HUB_HOST if registry == "docker.io" else registry
        if not self._may_be_plain(registry):
            return f"https://{host}"
        scheme = self._schemes.get(registry) or await self._find_scheme(registry, host, tls)
        return f"{scheme}://{host}"

    @contextlib.asynccontextmanager
    async def exchange(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, after redirects; its body must be read inside.

        Raises:
            PassingError: The line was cut, inside too.
            RetryableError: No answer, too many redirects, no progress.
            RegistryError: An untrusted certificate.
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

    async def attempts(self, act: Callable[[], Awaitable[Result]], *, moved: Callable[[], int] = lambda: 0) -> Result:
        """What `act` returns, tried again while it raises `PassingError` and attempts are left.

        Args:
            moved: How many bytes came so far; an attempt that brought some is not counted.
        """
        attempt, before = 1, moved()
        while True:
            try:
                return await act()
            except PassingError as error:
                if moved() - before >= LEAST_PROGRESS_BYTES:
                    attempt, before = 1, moved()
                wait = error.retry_after_seconds
                if attempt == self._settings.attempts or (wait or 0) > MAX_RETRY_AFTER_SECONDS:
                    raise
                _log.info("attempt failed: %s", error.message, extra={"attempt": attempt})
                delay = self._settings.retry_delay_seconds * 2 ** (attempt - 1)
                # Jitter, so that the nodes of a cluster do not come back together.
                await asyncio.sleep(wait if wait is not None else delay * random.uniform(0.5, 1.0))  # noqa: S311
                attempt += 1

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

    async def _find_scheme(self, registry: str, host: str, tls: Tls) -> str:
        """As docker does for loopback: https first, and http only if the port does not speak TLS."""
        try:
            async with self.exchange(Request("HEAD", f"https://{host}/v2/", tls=tls)):
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
        is_own = _origin(url) == _origin(request.url)
        if is_own:
            headers |= request.private
            if request.authorization is not None:
                headers["Authorization"] = request.authorization
        context = await self._contexts.of(self._tls(request.tls if is_own else request.tls.for_others(), url))
        proxy = self._settings.proxies.of(url)
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
                    ssl=context,
                    proxy=None if proxy is None else proxy.url,
                    proxy_headers=_proxy_login(proxy) or None,
                ) as response:
                    progress.ends()
                    yield response

    async def _started(self) -> aiohttp.ClientSession:
        async with self._starting:
            if self._session is None:
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

    def _tls(self, told: Tls, url: str) -> Tls:
        """What was told of a host, with the node's own settings."""
        verify = told.verify and urlsplit(url).netloc not in self._settings.insecure_registries
        return dataclasses.replace(told, ca_files=(*self._settings.ca_files, *told.ca_files), verify=verify)


def is_loopback(registry: str) -> bool:
    """Whether a registry (`host[:port]`) is on this machine by its name: localhost, 127.0.0.0/8, ::1."""
    return proxies.is_loopback(urlsplit(f"//{registry}").hostname or "")


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


def _proxy_login(proxy: proxies.Proxy | None) -> dict[str, str]:
    if proxy is None or not proxy.username:
        return {}
    # aiohttp sends the Authorization of these headers to the proxy, as Proxy-Authorization, with a tunnel and without.
    return {"Authorization": aiohttp.encode_basic_auth(proxy.username, proxy.password)}


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


@contextlib.contextmanager
def _translated(host: str, settings: Settings) -> Iterator[None]:
    """Errors of aiohttp → ours."""
    try:
        yield
    except (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError) as error:
        what = f"answered {error.status}" if isinstance(error, aiohttp.ClientHttpProxyError) else "cannot be reached"
        raise RetryableError(
            f"the proxy on the way to {host} {what}", hint="see HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the agent"
        ) from error
    except aiohttp.ClientConnectorDNSError as error:
        raise RetryableError(
            f"cannot resolve the name of {host}", hint="check the registry's name and this machine's network"
        ) from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise RegistryError(
            f"the TLS certificate of {host} is not trusted: {error.certificate_error}",
            hint="add its authority to ca-files or to its hosts.toml, or name the registry in insecure-registries",
        ) from error
    except aiohttp.ClientConnectorSSLError as error:
        raise RetryableError(
            f"{host} does not speak TLS",
            hint="a registry with plain HTTP must be named in insecure-registries, or by http:// in its hosts.toml",
        ) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise RetryableError(f"{host} cannot be reached within {settings.connect_timeout_seconds:g} s") from error
    except TimeoutError as error:
        raise RetryableError(f"{host} made no progress for {settings.idle_timeout_seconds:g} s") from error
    except aiohttp.ClientConnectorError as error:
        # The system's word: asyncio's own text is `Connect call failed ('127.0.0.1', 1)`.
        why = os.strerror(error.errno).lower() if error.errno else error.strerror or "no connection"
        raise RetryableError(
            f"cannot connect to {host}: {why}", hint="check the registry's name and port, and that it runs"
        ) from error
    except aiohttp.ClientError as error:
        # A cut line, a broken answer: the next attempt often works.
        raise PassingError(f"the connection to {host} broke ({type(error).__name__})") from error
