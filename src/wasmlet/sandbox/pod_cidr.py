"""Mode `podcidr`: pods have addresses of the Node's podCIDRs, in a network namespace of their node's own.

The cluster tells the ranges (`offer`), `run` has the namespace carry them and looks again now and then, and pods claim
addresses as soon as it does. Until then, and whenever making it fails, `problem` says why and new pods wait: there is
no falling back to another mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wasmlet.base.errors import RetryableError, WasmletError
from wasmlet.sandbox.namespace import Namespace
from wasmlet.sandbox.network import Addresses

logger = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
"""After a failure; the kubelet's sync period."""

CHECK_SECONDS = 60.0
"""Between two looks at whether what was made is still there; a look takes a few tens of milliseconds of a thread."""

RESERVED = 2
"""The network's own address and the gateway's: ours needs none, but bridges of other agents have it by custom."""


@dataclass(frozen=True)
class Problem:
    """Why there is no pod network: one CamelCase word, and a sentence."""

    reason: str
    message: str


NO_RANGE = Problem(
    "NoPodCIDR",
    "the Node has no podCIDR: let the cluster allocate one (kube-controller-manager --allocate-node-cidrs), "
    "or give pods the node's own address: wasmlet node --network host",
)


class PodCidr:
    """The pods' addresses and their network.

    Args:
        host_ips: The node's own addresses, which pods of the host's network have.

    Attributes:
        problem: None when the network is up.
        on_change: Called when `problem` becomes another.
    """

    def __init__(self, namespace: Namespace, *, host_ips: Sequence[str] = ()) -> None:
        self.problem: Problem | None = NO_RANGE
        self.on_change: Callable[[], None] = lambda: None
        self._namespace = namespace
        self._host_ips = frozenset(host_ips)
        self._addresses = Addresses(reserved=RESERVED)
        self._wanted: tuple[str, ...] = ()
        self._woken = asyncio.Event()

    def __repr__(self) -> str:
        return f"<PodCidr {self._addresses!r} {self.problem or 'up'}>"

    # --- for pods -----------------------------------------------------------------------------------------------------

    @property
    def namespace(self) -> str:
        """What engines of pods join."""
        return str(self._namespace.path)

    def claim(self, uid: str) -> tuple[str, ...]:
        """The pod's addresses, one of each family.

        Raises:
            RetryableError: The network is not up (`NetworkNotReady`), or a range is used up.
        """
        if self.problem is not None:
            raise RetryableError(f"network is not ready: {self.problem.message}", reason="NetworkNotReady")
        return self._addresses.claim(uid)

    def adopt(self, uid: str, addresses: Sequence[str]) -> None:
        """The pod has these; the node's own are nobody's."""
        self._addresses.adopt(uid, [each for each in addresses if each not in self._host_ips])

    def release(self, uid: str) -> None:
        """The pod is gone."""
        self._addresses.release(uid)

    # --- for the node -------------------------------------------------------------------------------------------------

    def offer(self, ranges: Sequence[str]) -> None:
        """The Node's podCIDRs as they are now. None of them leaves the network as it is, but no pod is added."""
        if tuple(ranges) != self._wanted:
            self._wanted = tuple(ranges)
            self.problem = Problem("NoPodNetwork", "the network is being made")  # no pod takes the former ranges now
            self._woken.set()

    async def restore(self) -> None:
        """Make what an earlier agent had made: pods start, and the Node is well, before the API server is heard."""
        record = self._namespace.record
        if not record.ranges:
            return
        self._wanted = tuple(record.ranges)
        try:
            await asyncio.to_thread(self._namespace.make, record.ranges, strays=record.strays)
        except WasmletError as error:
            self.problem = _problem_of(error)
            logger.warning("pod network not restored", extra={"error": str(error)})
        else:
            self._addresses.set_ranges(record.ranges)
            self.problem = None

    async def run(self) -> None:
        """Keep the network up until cancelled; it stays when this ends."""
        while True:
            self._woken.clear()
            before = self.problem
            self.problem = await self._sync()
            if self.problem != before:
                self._tell()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS if self.problem in (None, NO_RANGE) else RETRY_SECONDS):
                    await self._woken.wait()

    async def _sync(self) -> Problem | None:
        wanted = self._wanted
        if not wanted:
            return NO_RANGE
        try:
            ranges = _checked(wanted)
            strays = {each for each in self._addresses.held if not _is_in(each, ranges)}
            if strays:
                logger.warning(
                    "pods have addresses outside of the node's podCIDR; other nodes may not reach them",
                    extra={"podCIDRs": ", ".join(ranges), "addresses": ", ".join(sorted(strays)[:5])},
                )
            await asyncio.to_thread(self._namespace.make, ranges, strays=strays)
        except WasmletError as error:
            return _problem_of(error)
        self._addresses.set_ranges(ranges)
        return None

    def _tell(self) -> None:
        if self.problem is None:
            logger.info("pod network up", extra={"namespace": self.namespace, "ranges": ", ".join(self._wanted)})
        else:
            logger.warning("no pod network", extra={"reason": self.problem.reason, "why": self.problem.message})
        self.on_change()


def _problem_of(error: WasmletError) -> Problem:
    return Problem(error.reason if error.reason != type(error).__name__ else "NoPodNetwork", str(error))


def _checked(ranges: Sequence[str]) -> list[str]:
    """The ranges as the kernel writes them, one of each family.

    Raises:
        RetryableError: One cannot be used.
    """
    chosen: dict[int, str] = {}
    for each in ranges:
        try:
            network = ipaddress.ip_network(each)
        except ValueError as error:
            raise RetryableError(f"the Node's podCIDR cannot be used: {error}") from error
        if network.num_addresses < RESERVED + 2:
            raise RetryableError(f"the Node's podCIDR {each} is too small for pods")
        chosen.setdefault(network.version, str(network))
    return list(chosen.values())


def _is_in(address: str, ranges: Sequence[str]) -> bool:
    known = ipaddress.ip_address(address)
    return any(known in ipaddress.ip_network(each) for each in ranges)
