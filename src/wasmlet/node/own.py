"""The own Node object as the cluster has it, and its return when somebody deletes it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from wasmlet.kube.client import Client
from wasmlet.kube.watch import Added, Deleted, Modified, Synced, watch_resource
from wasmlet.node.objects import NODES, NodeObject

__all__ = ["OwnNode"]

logger = logging.getLogger(__name__)


class Changed(Protocol):
    """Hears of each new state."""

    def __call__(self, node: NodeObject, *, is_another: bool) -> None:
        """`is_another`: it has another UID than the one before."""


def _nobody(node: NodeObject, *, is_another: bool) -> None:
    """Hears nothing."""


class OwnNode:
    """The newest known state of the own Node.

    Args:
        register: Makes the Node again; gives what is there then.

    Attributes:
        latest: None until it is registered.
        changed: Called with each new state.
        synced: Set once the watch has told the Node: admission must not decide before.
    """

    def __init__(self, client: Client, name: str, *, register: Callable[[], Awaitable[NodeObject]]) -> None:
        self._client = client
        self._name = name
        self._register = register
        self._is_present = False
        self.latest: NodeObject | None = None
        self.synced = asyncio.Event()
        self.changed: Changed = _nobody

    def __repr__(self) -> str:
        return f"<OwnNode {self._name} {self.uid or 'unregistered'}>"

    @property
    def uid(self) -> str:
        """Of the Node as it is now; empty before it is registered."""
        return self.latest.metadata.uid if self.latest is not None else ""

    def offer(self, node: NodeObject) -> None:
        """Take over an answer or a watch's news, unless something newer is known already."""
        if self.latest is not None and self.latest.metadata.uid == node.metadata.uid and _is_older(node, self.latest):
            return
        is_another = self.uid not in ("", node.metadata.uid)
        self.latest = node
        self.changed(node, is_another=is_another)

    async def register(self) -> None:
        """Make the Node (again)."""
        self.offer(await self._register())

    async def run(self) -> None:
        """Follow the Node for ever; register anew when it is gone."""
        selector = f"metadata.name={self._name}"
        events = watch_resource(self._client, NODES, field_selector=selector, is_fresh=True)
        async with contextlib.aclosing(events):
            async for event in events:
                match event:
                    case Added(node) | Modified(node):
                        self._is_present = True
                        self.offer(node)
                    case Deleted(node):
                        # The watch also tells the end of one that was replaced long ago.
                        if node.metadata.uid == self.uid:
                            await self._again()
                    case Synced():
                        if not self._is_present:
                            await self._again()
                        self.synced.set()

    async def _again(self) -> None:
        logger.warning("the node was deleted; registering anew", extra={"node": self._name})
        await self.register()
        self._is_present = True  # the watch goes on from before, so it tells what becomes of the new one


def _is_older(node: NodeObject, known: NodeObject) -> bool:
    """Resource versions of one object grow (promised since Kubernetes 1.35, true before); odd ones do not count."""
    texts = (node.metadata.resource_version, known.metadata.resource_version)
    return all(each.isdecimal() for each in texts) and int(texts[0]) < int(texts[1])
