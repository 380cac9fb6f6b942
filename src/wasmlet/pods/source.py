"""The API server as a source of pods: what it binds to this node is run, what it forgets is removed.

Nothing is removed before the first whole list: a list that fails is not an empty one (kubelet-contract section 3).
"""

from __future__ import annotations

import contextlib
import logging

from wasmlet.base.errors import NotFoundError, WasmletError
from wasmlet.kube.client import Client
from wasmlet.kube.resources import PODS
from wasmlet.kube.types import Pod
from wasmlet.kube.watch import Added, Deleted, Modified, Synced, watch_resource
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.dispatch import Dispatch

logger = logging.getLogger(__name__)

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
TERMINAL_PHASES = ("Succeeded", "Failed")


class ApiSource:
    """Follows the pods of one node and hands them to `dispatch`.

    Attributes:
        has_synced: Whether a whole list has been seen since the start.
    """

    def __init__(self, client: Client, dispatch: Dispatch, *, node_name: str) -> None:
        self.has_synced = False
        self._client = client
        self._dispatch = dispatch
        self._node_name = node_name
        self._seen: set[str] = set()

    def __repr__(self) -> str:
        return f"<ApiSource {self._node_name} pods={len(self._seen)} synced={self.has_synced}>"

    async def run(self) -> None:
        """Follow, until cancelled."""
        selector = f"spec.nodeName={self._node_name}"
        async with contextlib.aclosing(watch_resource(self._client, PODS, field_selector=selector)) as events:
            async for event in events:
                match event:
                    case Added(pod) | Modified(pod):
                        self._take(pod)
                    case Deleted(pod):
                        self._drop(pod.metadata.uid)
                    case Synced():
                        self._prune()

    def _take(self, pod: Pod) -> None:
        uid = pod.metadata.uid
        self._seen.add(uid)
        if MIRROR_ANNOTATION in pod.metadata.annotations:
            return  # the static pod behind it runs by its own file
        if self._dispatch.has(uid):
            self._dispatch.update(pod)
            return
        if pod.status.phase in TERMINAL_PHASES:
            return  # ended under an agent that kept nothing of it
        try:
            self._dispatch.submit(Bundle(pod=pod, source="api"))
        except WasmletError as error:
            logger.error("taking a pod failed", extra={"pod": pod.metadata.name, "error": str(error)})

    def _drop(self, uid: str) -> None:
        """The object is gone: whatever still runs of it is killed now."""
        self._seen.discard(uid)
        with contextlib.suppress(NotFoundError):
            self._dispatch.end(uid, grace_seconds=1.0, remove=True)

    def _prune(self) -> None:
        """Pods that an earlier agent took and the API server does not know any more."""
        self.has_synced = True
        for worker in self._dispatch.workers:
            if worker.bundle.source == "api" and worker.bundle.uid not in self._seen:
                logger.info("orphan", extra={"pod": worker.bundle.pod.metadata.name})
                self._drop(worker.bundle.uid)
