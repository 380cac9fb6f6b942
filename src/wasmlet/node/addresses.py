"""Under which addresses the node is known (kubelet-contract 1.2).

The order: what the operator says, a name that is an address itself, what DNS says of the name, the default route's
interface. `choose` decides; the rest asks the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from wasmlet.base.errors import RetryableError, UserError

__all__ = ["check", "choose", "default_route_addresses", "find", "is_local"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PROC: Final = Path("/proc")
RESOLVE_SECONDS: Final = 5.0
SIOCGIFADDR: Final = 0x8915
"""linux/sockios.h: an interface's address."""

RTF_UP: Final = 0x1
RTF_REJECT: Final = 0x200
SCOPE_GLOBAL: Final = "00"


def check(text: str) -> Address:
    """A configured node IP.

    Raises:
        UserError: It is no address, or one under which nobody can reach a node.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise UserError(f"node IP {text!r} is no IP address", hint="write it like 192.0.2.7 or fd00::7") from None
    for name in ("loopback", "multicast", "link_local", "unspecified"):
        if getattr(address, f"is_{name}"):
            raise UserError(f"node IP {text} is {name.replace('_', '-')}", hint="others must reach the node under it")
    return address


def is_usable(address: Address, *, is_own: Callable[[str], bool]) -> bool:
    """Whether `check` and the machine's interfaces agree to it."""
    with contextlib.suppress(UserError):
        check(str(address))
        return is_own(str(address))
    return False


def choose(
    *,
    configured: Sequence[str],
    name: str,
    resolved: Iterable[str],
    routed: Sequence[str],
    is_own: Callable[[str], bool],
) -> tuple[str, ...]:
    """The node's addresses, the first one the most important; two only when the operator gave one per family.

    Args:
        configured: What the operator gave; none: find one.
        name: The node's name.
        resolved: What DNS says of the name.
        routed: The addresses of the default route's interface, in order of preference.
        is_own: Whether an address is on one of this machine's interfaces.

    Raises:
        UserError: A configured address cannot be used.
        RetryableError: There is none (yet).
    """
    if configured:
        addresses = [check(each) for each in configured]
        if len(addresses) != len({each.version for each in addresses}):
            raise UserError(f"node IPs {', '.join(configured)} are of one family", hint="give one per family at most")
        for each in addresses:
            if not is_own(str(each)):
                raise UserError(f"node IP {each} is on no interface of this machine", hint="see: ip address")
        return tuple(map(str, addresses))
    for candidates in ([name], sorted(resolved, key=_family), routed):
        for text in candidates:
            with contextlib.suppress(ValueError):
                address = ipaddress.ip_address(text)
                if is_usable(address, is_own=is_own):
                    return (str(address),)
    raise RetryableError("this machine has no address that others can reach", hint="give one with --node-ip")


def _family(text: str) -> int:
    """IPv4 first."""
    return 1 if ":" in text else 0


async def find(*, configured: Sequence[str], name: str) -> tuple[str, ...]:
    """The node's addresses now: `choose` with this machine's own facts.

    Raises:
        UserError, RetryableError: See `choose`.
    """
    resolved = [] if configured else await _resolve(name)
    return choose(
        configured=configured, name=name, resolved=resolved, routed=default_route_addresses(), is_own=is_local
    )


async def _resolve(name: str) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return []
    return [str(each[4][0]).partition("%")[0] for each in found]


def is_local(address: str) -> bool:
    """Whether the address is on an interface: only then a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def default_route_addresses(proc: Path = PROC) -> list[str]:
    """The addresses of the interfaces that hold the default routes, IPv4 first."""
    found = []
    if interface := _default_interface_v4(proc):
        found += _address_v4(interface)
    if interface := _default_interface_v6(proc):
        found += _addresses_v6(proc, interface)
    return found


def _default_interface_v4(proc: Path) -> str | None:
    """Of the default routes the one with the lowest metric."""
    routes = []
    for line in _lines(proc / "net/route")[1:]:
        fields = line.split()
        if fields[1] == "00000000" and fields[7] == "00000000" and _is_up(int(fields[3], 16)):
            routes.append((int(fields[6]), fields[0]))
    return min(routes)[1] if routes else None


def _default_interface_v6(proc: Path) -> str | None:
    routes = []
    for line in _lines(proc / "net/ipv6_route"):
        fields = line.split()
        if fields[0] == "0" * 32 and fields[1] == "00" and _is_up(int(fields[8], 16)):
            routes.append((int(fields[5], 16), fields[9]))
    return min(routes)[1] if routes else None


def _is_up(flags: int) -> bool:
    return bool(flags & RTF_UP) and not flags & RTF_REJECT


def _address_v4(interface: str) -> list[str]:
    """The interface's first address; a bridge port, say, has none."""
    request = struct.pack("256s", interface.encode()[:15])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            answer = fcntl.ioctl(asking, SIOCGIFADDR, request)
    except OSError:
        return []
    return [socket.inet_ntoa(answer[20:24])]


def _addresses_v6(proc: Path, interface: str) -> list[str]:
    found = []
    for line in _lines(proc / "net/if_inet6"):
        address, _, _, scope, _, name = line.split()
        if name == interface and scope == SCOPE_GLOBAL:
            found.append(str(ipaddress.IPv6Address(int(address, 16))))
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # a kernel without IPv6
        return []
