"""Services, as far as a container's environment names them (kubelet-contract 6.1)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from wasmlet.kube.client import Client
from wasmlet.kube.resources import Resource
from wasmlet.kube.types import Leaf, Node, ObjectMeta
from wasmlet.kube.watch import Added, Deleted, Modified, Synced, watch_resource

HEADLESS: Final = ("", "None")
MASTER: Final = ("default", "kubernetes")
"""The Service that every container hears of, whatever its namespace."""


class ServicePort(Leaf):
    """spec.ports[]."""

    name: str = ""
    port: int = 0
    protocol: str = "TCP"


class ServiceSpec(Node):
    """v1 ServiceSpec, the fields that variables are made of."""

    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    ports: list[ServicePort] = []


class Service(Node):
    """v1 Service."""

    api_version: str = "v1"
    kind: str = "Service"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)


SERVICES: Final = Resource(Service, "v1", "services")


class Services:
    """The cluster's Services, followed by one watch.

    Attributes:
        synced: Set when all have been told once: containers start from then on.
    """

    def __init__(self, client: Client) -> None:
        self.synced = asyncio.Event()
        self._client = client
        self._services: dict[str, Service] = {}

    def __repr__(self) -> str:
        return f"<Services {len(self._services)}>"

    async def run(self) -> None:
        """Follow, until cancelled."""
        watch = watch_resource(self._client, SERVICES, field_selector="spec.clusterIP!=None")
        async with contextlib.aclosing(watch) as events:
            async for event in events:
                match event:
                    case Added(service) | Modified(service):
                        self._services[service.metadata.uid] = service
                    case Deleted(service):
                        self._services.pop(service.metadata.uid, None)
                    case Synced():
                        self.synced.set()

    def variables(self, namespace: str, *, links: bool) -> Mapping[str, str]:
        """What a container of `namespace` is told; without `links` of the API server's Service only."""
        return variables(self._services.values(), namespace, links=links)


def variables(services: Iterable[Service], namespace: str, *, links: bool) -> dict[str, str]:
    """The variables of Services with an address: those of the namespace (enableServiceLinks), and `kubernetes`."""
    found: dict[str, str] = {}
    for service in sorted(services, key=lambda each: each.metadata.name):
        meta = service.metadata
        is_master = (meta.namespace, meta.name) == MASTER
        if service.spec.cluster_ip in HEADLESS or not service.spec.ports:
            continue
        if is_master or (links and meta.namespace == namespace):
            found |= _of_service(service)
    return found


def _of_service(service: Service) -> dict[str, str]:
    """Docker's link variables, and Kubernetes' own."""
    prefix = service.metadata.name.upper().replace("-", "_")
    address, ports = service.spec.cluster_ip, service.spec.ports
    host = f"[{address}]" if ":" in address else address
    found = {
        f"{prefix}_SERVICE_HOST": address,
        f"{prefix}_SERVICE_PORT": str(ports[0].port),
        f"{prefix}_PORT": f"{ports[0].protocol.lower()}://{host}:{ports[0].port}",
    }
    for port in ports:
        if port.name:
            found[f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}"] = str(port.port)
        protocol = port.protocol or "TCP"
        name = f"{prefix}_PORT_{port.port}_{protocol.upper()}"
        found |= {
            name: f"{protocol.lower()}://{host}:{port.port}",
            f"{name}_PROTO": protocol.lower(),
            f"{name}_PORT": str(port.port),
            f"{name}_ADDR": address,
        }
    return found
