"""The httpGet of probes and hooks: one request, as a kubelet makes it (kubelet-contract 4.8 and section 5)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from wasmlet.kube.types import Container, HTTPGetAction

if TYPE_CHECKING:
    from aiohttp import ClientSession

MAX_BODY_BYTES = 10 * 1024
MAX_REDIRECTS = 10


class FailedRequestError(Exception):
    """There was no answer; says what was asked, and why not.

    Attributes:
        is_plain: The server was asked for TLS, and spoke something else.
    """

    def __init__(self, message: str, *, is_plain: bool) -> None:
        super().__init__(message)
        self.is_plain = is_plain


def url_of(container: Container, action: HTTPGetAction, *, pod_ip: str, scheme: str = "") -> str | None:
    """What to ask: the pod's own address and HTTP unless the action says otherwise; None when its port is none."""
    port = resolve_port(container, action.port)
    if port is None:
        return None
    scheme = (scheme or action.scheme or "HTTP").lower()
    return f"{scheme}://{bracketed(action.host or pod_ip)}:{port}{_absolute(action.path)}"


async def get(url: str, action: HTTPGetAction, *, user_agent: str) -> tuple[int, str]:
    """The answer's status, and a warning when redirects led elsewhere. Certificates are not checked.

    Raises:
        FailedRequestError: Nobody answered.
    """
    import aiohttp  # noqa: PLC0415  # only pods with such probes and hooks pay for the import

    connector = aiohttp.TCPConnector(force_close=True, ssl=False)
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            headers=_headers(action, user_agent),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as session:
            return await _final_status(session, url)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        is_plain = isinstance(error, aiohttp.ClientConnectorSSLError)
        raise FailedRequestError(f'Get "{url}": {error}', is_plain=is_plain) from error


async def _final_status(session: ClientSession, url: str) -> tuple[int, str]:
    """The status after redirects to the same host, and a warning: one that leads elsewhere is not followed."""
    for _ in range(MAX_REDIRECTS + 1):
        async with session.get(url, allow_redirects=False) as response:
            await response.content.read(MAX_BODY_BYTES)
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or location is None:
                return response.status, ""
            target = response.url.join(type(response.url)(location))
            if target.host != response.url.host:
                return response.status, f"Probe terminated redirects at {target.host}"
            url = str(target)
    raise ValueError(f"stopped after {MAX_REDIRECTS} redirects")


def _headers(action: HTTPGetAction, user_agent: str) -> list[tuple[str, str]]:
    """The action's headers, and the kubelet's where it says nothing; an empty value removes one."""
    said = {header.name.lower() for header in action.http_headers}
    defaults = (("User-Agent", user_agent), ("Accept", "*/*"))
    own = [(header.name, header.value) for header in action.http_headers if header.value]
    return own + [(name, value) for name, value in defaults if name.lower() not in said]


def resolve_port(container: Container, port: int | str) -> int | None:
    """The number of a port given by number, by digits, or by a containerPort's name; None when no port has it."""
    named = {each.name: each.container_port for each in container.ports if each.name}
    number = int(port) if isinstance(port, int) or port.isdecimal() else named.get(port, 0)
    return number if 0 < number < 65536 else None


def bracketed(host: str) -> str:
    """The host as a URL has it."""
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"
