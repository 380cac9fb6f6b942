"""Unused images go when their disk is full (kubelet-contract section 9): what the pods use, and the loop that looks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from wasmlet.base.errors import WasmletError
from wasmlet.images.collection import Lives, Policy
from wasmlet.images.library import Library
from wasmlet.pods.facts import Facts
from wasmlet.pods.references import images_of
from wasmlet.pods.worker import Worker

__all__ = ["Collection", "used_by"]

PERIOD_SECONDS: Final = 300.0
"""The kubelet's ImageGCPeriod."""

logger = logging.getLogger(__name__)


class Collection:
    """Frees the disk of the image store.

    Args:
        workers: Every pod that is here.
        tell: Told the reason and the message of a Warning event of the Node.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        library: Library,
        policy: Policy,
        *,
        workers: Callable[[], Iterable[Worker]],
        tell: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._library = library
        self._policy = policy
        self._workers = workers
        self._tell = tell
        self._clock = clock
        self._lives = Lives(policy)
        self._failed = False

    async def run(self) -> None:
        """Look now and every five minutes, until cancelled."""
        while not self._policy.is_off:
            await self.look()
            await asyncio.sleep(PERIOD_SECONDS)

    async def look(self) -> None:
        """Collect once. A failure is logged; from the second one in a row on it is told too, as a kubelet does."""
        try:
            await self._collect()
            self._failed = False
        except WasmletError as error:
            logger.warning("image garbage collection failed", extra={"error": error.message})
            if self._failed:
                self._tell("ImageGCFailed", error.message)
            self._failed = True

    async def _collect(self) -> None:
        now, used = self._clock(), used_by(self._workers())
        stored = await self._library.images()
        self._lives.look({each.reference: not used.isdisjoint((each.reference, each.image_id)) for each in stored}, now)
        await self._library.remove_unneeded(older_than_seconds=self._policy.minimum_age_seconds)
        for name in self._lives.old(now):
            await self._discard(name)
        disk = await self._library.disk()
        if disk.capacity_bytes == 0:
            message = "invalid capacity 0 on image filesystem"
            self._tell("InvalidDiskCapacity", message)
            raise WasmletError(message)
        excess, freed = disk.excess_bytes(self._policy), 0
        for name in self._lives.removable(now):
            if freed >= excess:
                break
            freed += await self._discard(name)
        if freed < excess:
            message = disk.insufficient(freed)
            self._tell("FreeDiskSpaceFailed", message)
            raise WasmletError(message)

    async def _discard(self, name: str) -> int:
        """Remove an image, unless a pod that wants it came meanwhile; the bytes that this frees."""
        if name in used_by(self._workers()):
            return 0
        freed = await self._library.discard(name)
        logger.info("unused image removed", extra={"image": name, "freed_bytes": freed})
        return freed


def used_by(workers: Iterable[Worker]) -> set[str]:
    """The references and image IDs of every container of these pods, also of those that ended (contract 9)."""
    found = set[str]()
    for worker in workers:
        if not worker.is_gone:
            found |= images_of(worker.bundle.pod)
        found |= _started_by(worker.facts)
    return found


def _started_by(facts: Facts) -> set[str]:
    attempts = [attempt for container in facts.containers.values() for attempt in container.attempts]
    return {each.image for each in attempts} | {each.image_id for each in attempts}
