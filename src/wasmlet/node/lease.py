"""The node's sign of life: `kube-node-lease/{node}`, renewed each quarter of its life (kubelet-contract 1.4)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from wasmlet.base.clock import Clock, system_clock
from wasmlet.base.errors import NotFoundError, WasmletError
from wasmlet.kube.client import Client
from wasmlet.kube.errors import AlreadyExistsError, OutdatedError
from wasmlet.kube.pace import BackOff
from wasmlet.kube.types import ObjectMeta, OwnerReference
from wasmlet.node.objects import LEASE_NAMESPACE, LEASES, Lease, LeaseSpec

__all__ = ["LeaseRenewer", "micro_time"]

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE: Final = 4
JITTER: Final = 0.04
ATTEMPTS: Final = 5
FIRST_RETRY_SECONDS: Final = 0.1
MAX_RETRY_SECONDS: Final = 7.0


def micro_time(moment: float) -> str:
    """metav1.MicroTime: six digits of the second, which the API server insists on."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class LeaseRenewer:
    """Keeps one Lease.

    Args:
        client: With limits of its own and a timeout of no more than a renewal (`Client.sharing`).
        node: The node's name.
        node_uid: The present UID of the Node, which owns the Lease; empty: not known.
        seconds: How long the Lease is good.
    """

    def __init__(
        self, client: Client, node: str, *, node_uid: Callable[[], str], seconds: int, now: Clock = system_clock
    ) -> None:
        self._client = client
        self._node = node
        self._node_uid = node_uid
        self._seconds = seconds
        self._now = now
        self._latest: Lease | None = None
        self._woken = asyncio.Event()

    def __repr__(self) -> str:
        renewed = self._latest.spec.renew_time if self._latest is not None else "never"
        return f"<LeaseRenewer {self._node} renewed {renewed}>"

    def wake(self) -> None:
        """Renew now: the Node is another one, and the garbage collector takes what an unknown one owns."""
        self._woken.set()

    async def run(self) -> None:
        """Renew for ever. A failure is told and tried again: it never ends this."""
        interval = self._seconds / RENEWALS_PER_LEASE
        while True:
            self._woken.clear()
            try:
                await self.renew()
            except WasmletError as error:
                level = self._client.level(logging.WARNING)
                logger.log(level, "lease renewal failed: %s", error, extra={"node": self._node})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval * random.uniform(1.0, 1.0 + JITTER)):  # noqa: S311
                    await self._woken.wait()

    async def renew(self) -> None:
        """Renew once; the first time, or after it was deleted, create it.

        Raises:
            WasmletError: It failed five times in a row.
        """
        if self._latest is None:
            self._latest = await self._ensure()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._latest = await self._client.update(LEASES, self._renewed(self._latest), namespace=LEASE_NAMESPACE)
            except (OutdatedError, NotFoundError):
                self._latest = await self._ensure()
            except WasmletError:
                if attempt == ATTEMPTS:
                    raise
            else:
                return
        raise WasmletError(f"the lease of {self._node} changes faster than it can be renewed")

    async def _ensure(self) -> Lease:
        """The Lease as it is, or a new one; tries until there is one."""
        back_off = BackOff(first_seconds=FIRST_RETRY_SECONDS, max_seconds=MAX_RETRY_SECONDS, jitter=0.0)
        while True:
            try:
                return await self._get_or_create()
            except WasmletError as error:
                delay = back_off.next()
                extra = {"node": self._node, "retry_seconds": delay}
                logger.log(self._client.level(logging.WARNING), "lease not there: %s", error, extra=extra)
            await asyncio.sleep(delay)

    async def _get_or_create(self) -> Lease:
        try:
            return await self._client.get(LEASES, self._node, namespace=LEASE_NAMESPACE)
        except NotFoundError:
            pass
        new = self._renewed(Lease(metadata=ObjectMeta(name=self._node, namespace=LEASE_NAMESPACE)))
        try:
            return await self._client.create(LEASES, new, namespace=LEASE_NAMESPACE)
        except AlreadyExistsError:
            return await self._client.get(LEASES, self._node, namespace=LEASE_NAMESPACE)

    def _renewed(self, lease: Lease) -> Lease:
        """`lease` as of now, owned by the Node of now (one that was registered anew has another UID)."""
        uid = self._node_uid()
        owners = [OwnerReference(api_version="v1", kind="Node", name=self._node, uid=uid)] if uid else []
        return Lease(
            metadata=msgspec.structs.replace(lease.metadata, owner_references=owners),
            spec=LeaseSpec(
                holder_identity=self._node,
                lease_duration_seconds=self._seconds,
                renew_time=micro_time(self._now()),
            ),
        )
