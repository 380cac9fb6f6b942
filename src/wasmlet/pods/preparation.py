"""What a pod has before its first container: addresses, a pool, logs, volumes (kubelet-contract 4.3, 6.4)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from wasmlet.base.errors import NotFoundError, RetryableError, WasmletError, first_of
from wasmlet.pods import image_volumes, pools
from wasmlet.pods.facts import Failure
from wasmlet.pods.handlers import ISOLATED, SANDBOX_REASON
from wasmlet.pods.rooms import Rooms
from wasmlet.pods.start import Starter
from wasmlet.pods.view import all_containers

if TYPE_CHECKING:
    from wasmlet.pods.worker import Worker

__all__ = ["Preparer"]

SANDBOX_TEXT = "Failed to create pod sandbox: "
MOUNT_RETRY_SECONDS = 0.25
"""Doubled at each failure, so the first wait is the kubelet's half second; the sync period is the longest here."""


class Preparer:
    """Prepares one worker's pod.

    Args:
        starter: It makes the volumes, and remembers them for the containers.
    """

    def __init__(self, rooms: Rooms, worker: Worker, starter: Starter) -> None:
        self._rooms = rooms
        self._worker = worker
        self._starter = starter

    async def prepare(self) -> None:
        """Make it all, or leave a failure that says when it is tried again."""
        try:
            self._worker.facts.runtime_handler = await self._rooms.runtime_handler(self._worker.bundle.pod)
            self._claim_addresses()
        except (WasmletError, OSError) as error:
            self._sandbox_failed(error)
            return
        try:
            self._enter_pool()
            await self._make_directories()
        except (WasmletError, OSError) as error:
            self._failed("volumes", error, event="FailedMount", text=str(error))
            return
        self._worker.facts.volumes_at = self._rooms.clock()
        self._worker.facts.volume_failure = None

    def _claim_addresses(self) -> None:
        """Addresses for the pod, kept until it is gone (contract 4.3).

        Raises:
            RetryableError: There is none now.
        """
        bundle, rooms = self._worker.bundle, self._rooms
        if not self._worker.facts.pod_ips:
            on_host = bundle.pod.spec.host_network
            self._worker.facts.pod_ips = list(rooms.settings.host_ips if on_host else rooms.addresses.claim(bundle.uid))

    def _enter_pool(self) -> None:
        """Give the pod its place in a pool. Raises WasmletError when there is none for it, OSError of the disk."""
        rooms, worker = self._rooms, self._worker
        if rooms.directories.users is not None:
            pools.refuse_users(worker.bundle.pod, rooms.directories.users)
        worker.facts.pool = worker.facts.pool or pools.choose(
            worker.bundle.pod,
            isolated=worker.facts.runtime_handler == ISOLATED,
            isolation=rooms.settings.isolation,
        )
        worker.places = rooms.directories.places(worker.bundle.pod, worker.facts.pool)
        rooms.directories.open(worker.places, living=rooms.engines.keys)

    async def _make_directories(self) -> None:
        """Volumes and logs side by side: what has to come from the API server (tokens, say) is asked for first."""
        try:
            async with asyncio.TaskGroup() as group:
                for volume in image_volumes.others(self._worker.bundle.pod):
                    group.create_task(self._starter.set_up_volume(volume), name=f"volume {volume.name}")
                group.create_task(asyncio.to_thread(self._make_log_directories), name="log directories")
        except* (WasmletError, OSError) as errors:
            raise first_of(errors) from None

    def _make_log_directories(self) -> None:
        """The engine writes there, and nowhere above."""
        for container in all_containers(self._worker.bundle.pod):
            directory = self._worker.places.logs / container.name
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o770)

    def _sandbox_failed(self, error: Exception) -> None:
        text, event = str(error), SANDBOX_REASON
        if isinstance(error, RetryableError) and error.reason == "NetworkNotReady":
            event = error.reason
        elif not text.startswith(SANDBOX_TEXT):
            text = SANDBOX_TEXT + text
        self._failed("network", error, event=event, text=text)

    def _failed(self, stage: str, error: Exception, *, event: str, text: str) -> None:
        before, now = self._worker.facts.volume_failure, self._rooms.clock()
        count = 1 + (before.count if before is not None else 0)
        wait = MOUNT_RETRY_SECONDS * 2 ** min(count, 10)
        fault = error.fault.value if isinstance(error, WasmletError) else "wasmlet"
        self._worker.facts.volume_failure = Failure(
            stage=stage, shown="ContainerCreating", message=str(error), at=now, fault=fault,
            not_found=isinstance(error, NotFoundError), error=str(error),
            cause=error.reason if isinstance(error, WasmletError) else event,
            count=count, retry_at=now + min(self._rooms.settings.sync_seconds, wait),
        )  # fmt: skip
        self._worker.tell("Warning", event, text)
