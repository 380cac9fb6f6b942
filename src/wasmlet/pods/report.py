"""PodStatus → API server: one patch for each change that matters, newest wins (kubelet-contract 4.3).

`Reporter` listens to workers; a few tasks send what changed. A pod that is gone here and being deleted there is removed
from the API server only when its final status has been taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from wasmlet.base.errors import NotFoundError, RetryableError, WasmletError
from wasmlet.kube.client import Client
from wasmlet.kube.errors import OutdatedError
from wasmlet.kube.resources import PODS
from wasmlet.kube.types import Pod, PodStatus
from wasmlet.pods.status import DISRUPTION_TARGET, OWN_CONDITIONS
from wasmlet.pods.worker import Worker

logger = logging.getLogger(__name__)

SENDERS = 8
HOLD_SECONDS = 0.05
"""A pod that is still starting is reported this long after it was first seen, or when it has got somewhere. Most pods
run by then, and one request says it all."""

RESYNC_SECONDS = 10.0
"""A report that failed is tried again after this (the kubelet's status manager)."""


class Reporter:
    """Sends the statuses of pods that the API server knows.

    Args:
        resync_seconds: Tests shorten it.
        mirror_of: The mirror of a static pod, by the static pod's UID; None while there is none.
    """

    def __init__(
        self,
        client: Client,
        *,
        resync_seconds: float = RESYNC_SECONDS,
        mirror_of: Callable[[str], Pod | None] = lambda _: None,
    ) -> None:
        self.mirror_of = mirror_of
        self._client = client
        self._resync_seconds = resync_seconds
        self._waiting: dict[str, Worker] = {}
        self._some = asyncio.Event()
        self._busy: set[str] = set()
        self._sent: dict[str, dict[str, Any]] = {}
        self._held: dict[str, float] = {}
        self._ran: dict[str, dict[str, Any] | None] = {}
        self._deleted: set[str] = set()

    def __repr__(self) -> str:
        return f"<Reporter waiting={len(self._waiting)} busy={len(self._busy)}>"

    def changed(self, worker: Worker) -> None:
        """The pod's status may be another."""
        if not self._is_held(worker):
            self._keep_running(worker)
            self._waiting[worker.bundle.uid] = worker
            self._some.set()

    def _keep_running(self, worker: Worker) -> None:
        """Watchers are told that a pod runs, also when it ends before the report is on its way."""
        if worker.bundle.uid not in self._ran and worker.has_started:
            status = worker.status()
            if status.phase != "Pending":
                self._ran[worker.bundle.uid] = msgspec.to_builtins(status) if status.phase == "Running" else None

    def _is_held(self, worker: Worker) -> bool:
        loop, uid = asyncio.get_running_loop(), worker.bundle.uid
        if uid not in self._held:
            self._held[uid] = loop.time() + HOLD_SECONDS
            loop.call_at(self._held[uid], self._hold_ends, worker)
        return worker.is_starting and loop.time() < self._held[uid]

    def _hold_ends(self, worker: Worker) -> None:
        if worker.bundle.uid in self._held:
            self._held[worker.bundle.uid] = 0.0
            if worker.is_starting:
                self.changed(worker)

    def forget(self, uid: str) -> None:
        """The pod is gone from the API server."""
        self._waiting.pop(uid, None)
        self._sent.pop(uid, None)
        self._held.pop(uid, None)
        self._ran.pop(uid, None)
        self._deleted.discard(uid)

    async def run(self) -> None:
        """Send, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(SENDERS):
                group.create_task(self._send_all(), name=f"status sender {number}")

    async def _send_all(self) -> None:
        while True:
            worker = self._take()
            if worker is None:
                self._some.clear()
                await self._some.wait()
                continue
            uid = worker.bundle.uid
            self._busy.add(uid)
            try:
                await self.report(worker)
            except (NotFoundError, OutdatedError):
                self.forget(uid)  # the object is gone, or its name belongs to another pod
            except WasmletError as error:
                level = logging.INFO if isinstance(error, RetryableError) else logging.ERROR
                logger.log(self._client.level(level), "reporting failed", extra={"pod": uid, "error": str(error)})
                asyncio.get_running_loop().call_later(self._resync_seconds, self.changed, worker)
            finally:
                self._busy.discard(uid)
                self._some.set()

    def _object(self, worker: Worker) -> Pod | None:
        """What the API server has of the worker's pod."""
        return self.mirror_of(worker.bundle.uid) if worker.bundle.source == "file" else worker.bundle.pod

    def _take(self) -> Worker | None:
        """The next pod that nobody is sending for."""
        for uid in self._waiting:
            if uid not in self._busy:
                return self._waiting.pop(uid)
        return None

    async def report(self, worker: Worker) -> None:
        """Bring the API server's status up to date; delete the object when nothing is left of the pod here."""
        pod = self._object(worker)
        if pod is None:
            return
        meta = pod.metadata
        status = _as_told(pod, worker)
        if (ran := self._ran.get(worker.bundle.uid)) is not None:
            if status["phase"] != "Running" and self._before(pod).get("phase", "Pending") == "Pending":
                await self._send(pod, ran)
            self._ran[worker.bundle.uid] = None
        await self._send(pod, status)
        if worker.is_gone and meta.deletion_timestamp is not None and meta.uid not in self._deleted:
            # Once: finalizers may keep the object, and it is not ours to ask again.
            await self._client.delete(PODS, meta.name, namespace=meta.namespace, uid=meta.uid, grace_seconds=0)
            self._deleted.add(meta.uid)

    async def _send(self, pod: Pod, status: dict[str, Any]) -> None:
        meta, before = pod.metadata, self._before(pod)
        if change := patch(before, status):
            body = {"metadata": {"uid": meta.uid}, "status": change}
            await self._client.patch(PODS, meta.name, body, namespace=meta.namespace, subresource="status")
        self._sent[meta.uid] = status

    def _before(self, pod: Pod) -> dict[str, Any]:
        """What the API server has."""
        sent = self._sent.get(pod.metadata.uid)
        return sent if sent is not None else _known(pod)


def _as_told(pod: Pod, worker: Worker) -> dict[str, Any]:
    """The worker's status as that of the object `pod`; a static pod's mirror has a generation of its own."""
    status: dict[str, Any] = msgspec.to_builtins(worker.status())
    if pod is not worker.bundle.pod:
        for each in (status, *status.get("conditions", ())):
            each["observedGeneration"] = pod.metadata.generation
    return status


def patch(before: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """The strategic merge patch from one status to the next: fields that went are null, addresses replace.

    podIPs merges by `ip`, so an address that went would stay without `$patch: replace` (contract 4.3). Conditions merge
    by `type`, field by field: only own ones that differ are sent, so that others' are never set back to what we saw
    last.
    """
    changed = {key: value for key, value in status.items() if before.get(key) != value}
    changed |= {key: None for key in before if key not in status}
    for key in ("podIPs", "hostIPs"):
        if before.get(key) and changed.get(key):
            changed[key] = [*changed[key], {"$patch": "replace"}]
    if "conditions" in changed:
        changed["conditions"] = list(_changed_conditions(before.get("conditions", ()), status.get("conditions", ())))
        if not changed["conditions"]:
            del changed["conditions"]
    return changed


def _changed_conditions(before: Iterable[dict[str, Any]], after: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    known = {each["type"]: each for each in before}
    for each in after:
        old = known.get(each["type"], {})
        if each["type"] in (*OWN_CONDITIONS, DISRUPTION_TARGET) and each != old:
            yield each | {key: None for key in old if key not in each}


def _known(pod: Pod) -> dict[str, Any]:
    """What the API server had when the pod was last seen."""
    status: PodStatus = pod.status
    return dict(msgspec.to_builtins(status))
