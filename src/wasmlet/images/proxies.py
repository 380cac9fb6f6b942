"""Proxies by environment variables: HTTPS_PROXY, HTTP_PROXY, NO_PROXY, in either case.

As with Go's golang.org/x/net/http/httpproxy, loopback hosts are never asked for through a proxy, and NO_PROXY takes
names, names with a leading dot, addresses, ranges in CIDR notation, each with an optional port, and `*`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from wasmlet.base.errors import UserError

SCHEMES: Final = ("http", "https")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """Attributes: `url` is without user and password; those are for its Proxy-Authorization."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Proxies:
    """Which proxy a URL goes through.

    Attributes:
        by_scheme: The proxy for `http` and for `https` URLs.
        direct: What NO_PROXY lists, in lower case.
    """

    by_scheme: Mapping[str, Proxy] = field(default_factory=dict)
    direct: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash((tuple(self.by_scheme.items()), self.direct))

    def of(self, url: str) -> Proxy | None:
        """The proxy for a URL; None goes there directly."""
        parts = urlsplit(url)
        proxy, host = self.by_scheme.get(parts.scheme), parts.hostname or ""
        if proxy is None or is_loopback(host):
            return None
        port = parts.port or _PORTS[parts.scheme]
        return None if any(_fits(each, host, port) for each in self.direct) else proxy


def from_environment(environment: Mapping[str, str]) -> Proxies:
    """What the environment says; lower-case names win, as with curl.

    Raises:
        UserError: A proxy is not an http or https URL; the message names the variable, not the value.
    """
    found = {}
    for scheme in SCHEMES:
        name = f"{scheme}_proxy"
        if value := environment.get(name) or environment.get(name.upper()):
            found[scheme] = _parse(name.upper(), value)
    listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return Proxies(found, tuple(each for part in listed.split(",") if (each := part.strip().lower())))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name: localhost, 127.0.0.0/8, ::1."""
    if host == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _parse(name: str, value: str) -> Proxy:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise UserError(f"{name} is no URL of a proxy", hint="write http://proxy.example:3128")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = host if port is None else f"{host}:{port}"
    return Proxy(
        urlunsplit((parts.scheme, netloc, "", "", "")), unquote(parts.username or ""), unquote(parts.password or "")
    )


def _fits(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY names the host."""
    if entry == "*":
        return True
    address = _address(host)
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, entry_port = _split_port(entry)
    if entry_port is not None and entry_port != port:
        return False
    if address is not None:
        return _address(name) == address
    name = name.removeprefix("*")
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith(f".{name}")


def _split_port(entry: str) -> tuple[str, int | None]:
    if _address(entry) is not None:  # ::1 without brackets has no port
        return entry, None
    name, colon, port = entry.rpartition(":")
    if colon and port.isdecimal():
        return name.strip("[]"), int(port)
    return entry.strip("[]"), None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
