"""The API server as a source of pods: what it binds to this node is run, what it forgets is removed.

Nothing is removed before every source has reported once: a list that fails is not an empty one (kubelet-contract
section 3). Pods are known by UID; one that was made again under its name is another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from wasmlet.base.errors import NotFoundError, RetryableError, WasmletError
from wasmlet.base.tasks import Tasks
from wasmlet.kube.client import Client
from wasmlet.kube.resources import PODS
from wasmlet.kube.types import Pod
from wasmlet.kube.watch import Added, Deleted, Modified, Synced, watch_resource
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.dispatch import Dispatch
from wasmlet.pods.mirror import Mirrors, is_mirror

logger = logging.getLogger(__name__)

SOURCE = "api"
TERMINAL_PHASES = ("Succeeded", "Failed")
RETRY_SECONDS = 10.0


class ApiSource:
    """Follows the pods of one node and hands them to `dispatch`, mirrors of static pods to `mirrors`.

    Args:
        retry_seconds: After how long a pod that could not be taken is tried again; tests shorten it.

    Attributes:
        has_synced: Whether a whole list has been seen since the start.
    """

    def __init__(
        self,
        client: Client,
        dispatch: Dispatch,
        *,
        node_name: str,
        mirrors: Mirrors,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self.has_synced = False
        self._client = client
        self._dispatch = dispatch
        self._node_name = node_name
        self._mirrors = mirrors
        self._retry_seconds = retry_seconds
        self._seen: dict[str, Pod] = {}
        self._tasks = Tasks()
        dispatch.unreported.add(SOURCE)
        self._has_pruned = False
        dispatch.on_change.append(self._changed)

    def __repr__(self) -> str:
        return f"<ApiSource {self._node_name} pods={len(self._seen)} synced={self.has_synced}>"

    async def run(self) -> None:
        """Follow, until cancelled."""
        selector = f"spec.nodeName={self._node_name}"
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._tasks.close)
            watch = watch_resource(self._client, PODS, field_selector=selector)
            async for event in await stack.enter_async_context(contextlib.aclosing(watch)):
                match event:
                    case Added(pod) | Modified(pod):
                        self._take(pod)
                    case Deleted(pod):
                        self._drop(pod)
                    case Synced():
                        self.has_synced = True
                        self._dispatch.reported(SOURCE)
                        self._prune()

    def _take(self, pod: Pod) -> None:
        uid = pod.metadata.uid
        self._seen[uid] = pod
        if is_mirror(pod):
            self._mirrors.see(pod)  # the static pod behind it runs by its own file
        elif self._dispatch.has(uid):
            self._dispatch.update(pod)
        elif pod.status.phase not in TERMINAL_PHASES:
            self._submit(pod)
        elif pod.metadata.deletion_timestamp is not None:
            # It ended under an agent that kept nothing of it, and whose last step is missing.
            self._tasks.start(self._delete(pod), name=f"left over pod {uid}")

    def _submit(self, pod: Pod) -> None:
        uid = pod.metadata.uid
        try:
            self._dispatch.submit(Bundle(pod=pod, source=SOURCE))
        except RetryableError as error:
            logger.warning("taking a pod failed", extra={"pod": pod.metadata.name, "error": str(error)})
            self._tasks.start(self._take_later(uid), name=f"pod {uid} later")
            return
        except WasmletError as error:
            logger.error("taking a pod failed", extra={"pod": pod.metadata.name, "error": str(error)})
            return
        if pod.metadata.deletion_timestamp is not None:
            self._dispatch.update(pod)  # it is to end before anything of it starts

    async def _take_later(self, uid: str) -> None:
        await asyncio.sleep(self._retry_seconds)
        if uid in self._seen and not self._dispatch.has(uid):
            self._take(self._seen[uid])

    async def _delete(self, pod: Pod) -> None:
        meta = pod.metadata
        try:
            await self._client.delete(PODS, meta.name, namespace=meta.namespace, uid=meta.uid, grace_seconds=0)
        except WasmletError as error:
            logger.info("deleting a left over pod failed", extra={"pod": meta.name, "error": str(error)})

    def _drop(self, pod: Pod) -> None:
        self._seen.pop(pod.metadata.uid, None)
        if is_mirror(pod):
            self._mirrors.lose(pod)
        self._kill(pod.metadata.uid)

    def _kill(self, uid: str) -> None:
        """The object is gone: whatever still runs of it is killed now."""
        with contextlib.suppress(NotFoundError):
            self._dispatch.end(uid, grace_seconds=1.0, remove=True)

    def _changed(self) -> None:
        """The last source may have reported."""
        if not self._has_pruned:
            self._prune()

    def _prune(self) -> None:
        """Pods that an earlier agent took and the API server does not know any more."""
        if not self.has_synced or self._dispatch.unreported:
            return
        self._has_pruned = True
        for worker in self._dispatch.workers:
            deletion = worker.facts.deletion
            is_told = deletion is not None and deletion.remove
            if worker.bundle.source == SOURCE and worker.bundle.uid not in self._seen and not is_told:
                logger.info("orphan", extra={"pod": worker.bundle.pod.metadata.name})
                self._kill(worker.bundle.uid)
