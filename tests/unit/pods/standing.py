"""An agent as a node, and pods that ask something of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.agent import Agent
from tests.support.pods import bundle, container
from wasmlet.kube.types import (
    Container,
    ResourceRequirements,
)
from wasmlet.pods.admission import NodeFacts
from wasmlet.pods.bundle import Bundle

ALLOCATABLE = {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "4"}


class Standing:
    """A Node that the test changes; `live` is what the API server says when it is asked."""

    def __init__(self, **facts: Any) -> None:
        self.known = NodeFacts(**({"name": "node", "allocatable": ALLOCATABLE} | facts))
        self.live = self.known

    async def facts(self, *, live: bool = False) -> NodeFacts:
        return self.live if live else self.known

    def allocatable(self) -> Mapping[str, str]:
        return self.known.allocatable


async def join(agent: Agent, **facts: Any) -> Standing:
    """Make the agent's next rooms those of a node."""
    agent.node = standing = Standing(**facts)
    await agent.restart()
    return standing


def of_api(*containers: Container, **fields: Any) -> Bundle:
    submitted = bundle(*containers, **fields)
    submitted.source = "api"
    submitted.pod.metadata.resource_version = "1"
    return submitted


def sleeping(cpu: str = "0", **fields: Any) -> Container:
    return container("main", "sleep", resources=ResourceRequirements(requests={"cpu": cpu}), **fields)
