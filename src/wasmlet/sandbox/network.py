"""Addresses of pods. Mode `loopback`: each pod has one of 127.88.0.0/16, which needs no rights (design section 4)."""

from __future__ import annotations

import ipaddress

from wasmlet.base.errors import RetryableError

LOOPBACK_RANGE = "127.88.0.0/16"


class NodeAddress:
    """Mode `host`: every pod has the node's own address."""

    def __init__(self, address: str) -> None:
        self._address = address

    def claim(self, uid: str, *, wanted: str = "") -> str:  # noqa: ARG002  # as Addresses
        """The node's address."""
        return self._address

    def release(self, uid: str) -> None:
        """Nothing was held."""


class Addresses:
    """Which pod has which address of a range; the first and the last are never given out.

    Addresses are handed out in turn rather than lowest first, so that a new pod does not meet connections that were
    meant for one just gone.
    """

    def __init__(self, cidr: str = LOOPBACK_RANGE) -> None:
        self._network = ipaddress.ip_network(cidr)
        self._held: dict[str, str] = {}
        self._last = 0

    def __repr__(self) -> str:
        return f"<Addresses {self._network} held={len(self._held)}>"

    def claim(self, uid: str, *, wanted: str = "") -> str:
        """The pod's address: the one it has, else `wanted` (saved by an earlier agent), else a free one.

        Raises:
            RetryableError: The range is used up.
        """
        if uid in self._held:
            return self._held[uid]
        taken = set(self._held.values())
        address = wanted if wanted and wanted not in taken else self._free(taken)
        self._held[uid] = address
        return address

    def release(self, uid: str) -> None:
        """The pod is gone. Is idempotent."""
        self._held.pop(uid, None)

    def _free(self, taken: set[str]) -> str:
        count = self._network.num_addresses - 2
        for step in range(count):
            position = (self._last + step) % count + 1
            address = str(self._network[position])
            if address not in taken:
                self._last = position
                return address
        raise RetryableError(f"all {count} addresses of {self._network} are in use", hint="remove pods that have ended")
