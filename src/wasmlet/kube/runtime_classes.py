"""RuntimeClasses: which handler a pod's class names (kubelet-contract section 11)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import msgspec

from wasmlet.base.errors import NotFoundError
from wasmlet.kube.client import Client
from wasmlet.kube.resources import Resource
from wasmlet.kube.types import Node, ObjectMeta
from wasmlet.kube.watch import Added, Deleted, Modified, Synced, watch_resource

__all__ = ["RUNTIME_CLASSES", "RuntimeClass", "RuntimeClasses"]


class RuntimeClass(Node):
    """node.k8s.io/v1 RuntimeClass; the scheduler and the API server see to its other fields."""

    api_version: str = "node.k8s.io/v1"
    kind: str = "RuntimeClass"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    handler: str = ""


RUNTIME_CLASSES: Final = Resource(RuntimeClass, "node.k8s.io/v1", "runtimeclasses", is_namespaced=False)


class RuntimeClasses:
    """The cluster's RuntimeClasses, followed by one watch.

    Attributes:
        synced: Set when all have been told once.
    """

    def __init__(self, client: Client) -> None:
        self.synced = asyncio.Event()
        self._client = client
        self._handlers: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<RuntimeClasses {self._handlers}>"

    async def run(self) -> None:
        """Follow, until cancelled."""
        async with contextlib.aclosing(watch_resource(self._client, RUNTIME_CLASSES)) as events:
            async for event in events:
                match event:
                    case Added(found) | Modified(found):
                        self._handlers[found.metadata.name] = found.handler
                    case Deleted(found):
                        self._handlers.pop(found.metadata.name, None)
                    case Synced():
                        self.synced.set()

    async def handler(self, name: str) -> str:
        """What the class of that name calls its handler, once the classes are known.

        Raises:
            NotFoundError: There is no such class; the message is the API server's.
        """
        await self.synced.wait()
        try:
            return self._handlers[name]
        except KeyError:
            raise NotFoundError(f'runtimeclass.node.k8s.io "{name}" not found', reason="NotFound") from None
