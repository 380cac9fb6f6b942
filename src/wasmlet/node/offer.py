"""What the own Node offers to pods: the facts that admission looks at, and where they come from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from wasmlet.base.errors import WasmletError
from wasmlet.kube.client import Client
from wasmlet.node import machine
from wasmlet.node.objects import NODES, NodeObject
from wasmlet.node.settings import Settings
from wasmlet.node.status import capacity_and_allocatable
from wasmlet.pods.admission import NodeFacts, Taint

__all__ = ["Offer", "facts_of"]

PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")


def facts_of(node: NodeObject, *, shares_address: bool) -> NodeFacts:
    """The Node object as admission sees it."""
    return NodeFacts(
        name=node.metadata.name,
        labels=node.metadata.labels,
        taints=[Taint(each.key, each.value, each.effect) for each in node.spec.taints],
        allocatable=node.status.allocatable,
        operating_system=node.status.node_info.operating_system,
        pressures=[each for each in PRESSURES if (held := node.condition(each)) is not None and held.status == "True"],
        declared_features=node.status.declared_features,
        has_supplemental_groups_policy=node.status.features.supplemental_groups_policy,
        shares_address=shares_address,
    )


class Offer:
    """The own Node, for the pods room.

    Args:
        shares_address: Pods have the node's address, so their ports are the node's.

    `begin` says where the Node comes from; who asks for facts before waits until it is known.
    """

    def __init__(self, client: Client, settings: Settings, *, shares_address: bool) -> None:
        self._client = client
        self._settings = settings
        self._shares_address = shares_address
        self._latest: Callable[[], NodeObject | None] = lambda: None
        self._known = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Offer {self._settings.name} known={self._known.is_set()}>"

    def begin(self, latest: Callable[[], NodeObject | None]) -> None:
        """The watch has told the Node: `latest` gives it from now on."""
        self._latest = latest
        self._known.set()

    async def facts(self, *, live: bool = False) -> NodeFacts:
        """What admission looks at, once it is known.

        Args:
            live: Read the Node from the API server now, if that answers: the watch may be behind.
        """
        await self._known.wait()
        node = self._latest()
        if live or node is None:
            try:
                node = await self._client.get(NODES, self._settings.name)
            except WasmletError:
                if node is None:
                    raise
        return facts_of(node, shares_address=self._shares_address)

    def allocatable(self) -> Mapping[str, str]:
        """Quantities by resource; before the Node is known, what it will say.

        Raises:
            WasmletError: The machine cannot be read.
        """
        node = self._latest()
        if node is not None:
            return node.status.allocatable
        return capacity_and_allocatable(machine.amounts(self._settings.directory), self._settings)[1]
