"""GET /stats/summary: the node's file systems and its pods (kubelet-contract 7.5, stats/v1alpha1).

`node.fs` is where the pods are, `runtime.imageFs` where the images are, with what they take of it. CPU, memory and
network are left out, as the API allows: nobody measures them here yet.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from wasmlet.base import clock
from wasmlet.images.threads import in_thread
from wasmlet.images.usage import Usage, measured
from wasmlet.pods.dispatch import Dispatch

if TYPE_CHECKING:
    from wasmlet.pods.worker import Worker

KEPT_SECONDS: Final = 10.0
"""How long numbers are given again, as a kubelet does: looking at every file of the images takes its time."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Whose file systems are told of.

    Attributes:
        state: Where pods are.
        images: The store.
    """

    node_name: str
    state: Path
    images: Path


class Summary:
    """Answers with what is measured now, or was a moment ago."""

    def __init__(self, places: Places, dispatch: Dispatch) -> None:
        self._places = places
        self._dispatch = dispatch
        self._known: tuple[float, dict[str, Any]] | None = None

    async def handle(self, _: web.Request) -> web.Response:
        """The summary."""
        now = time.monotonic()
        if self._known is None or now - self._known[0] >= KEPT_SECONDS:
            self._known = now, await in_thread(self._node)
        pods = [_pod(worker) for worker in self._dispatch.workers]
        document = {"node": self._known[1], "pods": pods}
        return web.Response(body=msgspec.json.encode(document), content_type="application/json")

    def _node(self) -> dict[str, Any]:
        moment = clock.to_text(time.time())
        state, images = os.statvfs(self._places.state), self._places.images
        images.mkdir(mode=0o700, parents=True, exist_ok=True)
        whole = _file_system(
            moment,
            Usage(
                used_bytes=(state.f_blocks - state.f_bfree) * state.f_frsize,
                inodes_used=state.f_files - state.f_ffree,
                capacity_bytes=state.f_blocks * state.f_frsize,
                available_bytes=state.f_bavail * state.f_frsize,
                inodes=state.f_files,
                inodes_free=state.f_favail,
            ),
        )
        runtime = {"imageFs": _file_system(moment, measured(images)), "containerFs": whole}
        return {"nodeName": self._places.node_name, "fs": whole, "runtime": runtime}


def _file_system(moment: str, usage: Usage) -> dict[str, Any]:
    return {
        "time": moment,
        "availableBytes": usage.available_bytes,
        "capacityBytes": usage.capacity_bytes,
        "usedBytes": usage.used_bytes,
        "inodesFree": usage.inodes_free,
        "inodes": usage.inodes,
        "inodesUsed": usage.inodes_used,
    }


def _pod(worker: Worker) -> dict[str, Any]:
    meta, status = worker.bundle.pod.metadata, worker.status()
    containers = [
        {"name": each.name, "startTime": each.state.running.started_at}
        for each in status.container_statuses
        if each.state.running is not None
    ]
    found = {"podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}, "containers": containers}
    return found | ({"startTime": status.start_time} if status.start_time else {})
