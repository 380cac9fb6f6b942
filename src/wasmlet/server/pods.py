"""GET /pods and /runningpods/: the pods of this node, as the agent and as the engines see them (contract 7.2)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from aiohttp import web

from wasmlet.base.turns import Turns
from wasmlet.kube.types import Container, ObjectMeta
from wasmlet.pods.dispatch import Dispatch
from wasmlet.pods.view import all_containers
from wasmlet.pods.worker import Worker

LIST_START = b'{"kind":"PodList","apiVersion":"v1","metadata":{},"items":['


class Pods:
    """Lists pods."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        # A status takes about 0.2 ms to render: a thousand of them must not be one round of the loop.
        self._turns = Turns(each_round=8)

    async def handle(self, _: web.Request) -> web.Response:
        """Every pod with its present status. Secrets are not in it: a spec only names them."""
        items = []
        for worker in self._dispatch.workers:
            await self._turns.take()
            pod = msgspec.structs.replace(worker.bundle.pod, status=worker.status())
            items.append(msgspec.json.encode(pod))
        return _pod_list(items)

    async def handle_running(self, _: web.Request) -> web.Response:
        """The pods with a running container: their identity, and those containers' names and images."""
        items = []
        for worker in self._dispatch.workers:
            await self._turns.take()
            containers = _running(worker)
            if not containers:
                continue
            meta = worker.bundle.pod.metadata
            identity = ObjectMeta(name=meta.name, namespace=meta.namespace, uid=meta.uid)
            spec = {"containers": containers}
            items.append(msgspec.json.encode({"metadata": identity, "spec": spec, "status": {}}))
        return _pod_list(items)


def _running(worker: Worker) -> list[Container]:
    facts = worker.facts.containers
    running = []
    for container in all_containers(worker.bundle.pod):
        attempt = facts[container.name].last if container.name in facts else None
        if attempt is not None and attempt.started_at is not None and attempt.finished_at is None:
            running.append(Container(name=container.name, image=attempt.image or container.image))
    return running


def _pod_list(items: Iterable[bytes]) -> web.Response:
    return web.Response(body=LIST_START + b",".join(items) + b"]}", content_type="application/json")
