"""Which pod has which addresses (design section 4), by mode.

- `host`: every pod has the node's own
- `loopback`: each one of 127.88.0.0/16, which needs no rights
- `podcidr`: each one of every range in the Node's podCIDRs (`pod_cidr`, on top of `Addresses`)

What is held is never saved here: it is derived from the saved facts of the pods when an agent starts.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from wasmlet.base.errors import RetryableError

LOOPBACK_RANGE = "127.88.0.0/16"

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class PodAddresses(Protocol):
    """What pods need of a mode. Pods of the host's network have the node's addresses and do not ask.

    Attributes:
        namespace: The network namespace that engines of its pods join; "" is the agent's own.
    """

    @property
    def namespace(self) -> str:
        """The file that names the namespace."""

    def claim(self, uid: str) -> tuple[str, ...]:
        """The pod's addresses, the main one first: those it has, else free ones.

        Raises:
            RetryableError: There is none now; the reason `NetworkNotReady` means for no pod at all.
        """

    def adopt(self, uid: str, addresses: Sequence[str]) -> None:
        """A pod that an earlier agent left has these."""

    def release(self, uid: str) -> None:
        """The pod is gone. Is idempotent."""


class NodeAddress:
    """Mode `host`: every pod has the node's own addresses."""

    namespace = ""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    def claim(self, uid: str) -> tuple[str, ...]:  # noqa: ARG002  # as PodAddresses
        """The node's addresses."""
        return self._addresses

    def adopt(self, uid: str, addresses: Sequence[str]) -> None:
        """Nothing is held."""

    def release(self, uid: str) -> None:
        """Nothing was held."""


class Addresses:
    """One address of each range for each pod.

    Addresses are handed out in turn rather than lowest first, so that a new pod does not meet connections that were
    meant for one just gone.

    Args:
        reserved: How many at the beginning of a range stay free: 1 is the network's own, 2 also the gateway's.
        begin: How many of the others are left for last.
    """

    namespace = ""

    def __init__(self, *ranges: str, reserved: int = 1, begin: int = 0) -> None:
        self._reserved = reserved
        self._begin = begin
        self._ranges: list[_Range] = []
        self._held: dict[str, tuple[str, ...]] = {}
        self._uses: Counter[str] = Counter()
        self.set_ranges(ranges)

    def __repr__(self) -> str:
        return f"<Addresses {', '.join(self.ranges)} held={len(self._held)}>"

    @property
    def ranges(self) -> list[str]:
        """Where new addresses come from."""
        return [str(each.network) for each in self._ranges]

    @property
    def held(self) -> set[str]:
        """All addresses that pods have."""
        return set(self._uses)

    def set_ranges(self, ranges: Iterable[str]) -> None:
        """Take new addresses from these; pods keep what they have. The same ranges change nothing."""
        wanted = list(ranges)
        if wanted != self.ranges:
            networks = [ipaddress.ip_network(each) for each in wanted]
            self._ranges = [_Range(each, reserved=self._reserved, begin=self._begin) for each in networks]

    def claim(self, uid: str) -> tuple[str, ...]:
        """The pod's addresses: those it has, else one of each range.

        Raises:
            RetryableError: A range is used up.
        """
        if uid not in self._held:
            self.adopt(uid, [each.free(self._uses) for each in self._ranges])
        return self._held[uid]

    def adopt(self, uid: str, addresses: Sequence[str]) -> None:
        """The pod has these, whatever the ranges are now."""
        self.release(uid)
        self._held[uid] = tuple(addresses)
        self._uses.update(addresses)

    def release(self, uid: str) -> None:
        """The pod is gone. Is idempotent."""
        for address in self._held.pop(uid, ()):
            self._uses[address] -= 1
            if not self._uses[address]:
                del self._uses[address]


def loopback(state: Path) -> Addresses:
    """Mode `loopback`, for the agent of this state directory.

    Agents of one machine share the range and do not know of each other, so each begins at a place of its own: else
    their first pods would have one address, and could not listen on the same port.
    """
    place = hashlib.sha256(os.fsencode(state)).digest()
    return Addresses(LOOPBACK_RANGE, begin=int.from_bytes(place[:4]))


class _Range:
    """One range, and where the next free address is looked for."""

    def __init__(self, network: IpNetwork, *, reserved: int, begin: int) -> None:
        self.network = network
        self._first = reserved
        # The last one is IPv4's broadcast address; for IPv6 it is given up, so that both count alike.
        self._count = max(0, network.num_addresses - 1 - reserved)
        self._next = begin

    def free(self, taken: Counter[str]) -> str:
        for step in range(self._count):
            position = (self._next + step) % self._count
            address = str(self.network[self._first + position])
            if address not in taken:
                self._next = position + 1
                return address
        raise RetryableError(
            f"all {self._count} addresses of {self.network} are in use",
            hint="remove pods that have ended, or let the node take no more pods than that (--max-pods)",
            reason="NoFreeAddress",
        )
