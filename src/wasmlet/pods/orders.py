"""What an engine is told of a container that it is to run (`PUT /sandboxes/{id}`). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from wasmlet.base import quantity
from wasmlet.images.image import Image
from wasmlet.kube.types import Container
from wasmlet.pods.applications import Given
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.directories import Places
from wasmlet.sandbox import protocol
from wasmlet.volumes.root import TerminationFile

__all__ = ["Compiled", "Prepared", "spec"]

MAX_AMOUNT: Final = 2**63 - 1


@dataclass(frozen=True)
class Compiled:
    """What an engine maps, and as what it runs (`protocol.Compiled.kind`)."""

    artifact: protocol.Artifact
    kind: str


@dataclass(frozen=True)
class Prepared:
    """Everything a sandbox needs but for the engine that it goes to.

    Attributes:
        network: The pod's way into the network.
        given: The program, or those of an application: what the first has is what the container's execs have.
        compiled: Their artifacts for each compatibility of engines that was met.
    """

    image: Image
    network: protocol.Network
    args: list[str]
    working_dir: str
    given: list[Given]
    termination: TerminationFile | None
    compiled: Mapping[str, list[Compiled]] = field(default_factory=dict)

    def components(self, compiled: Sequence[Compiled]) -> list[protocol.Component]:
        """What an engine is told of an application's parts; nothing of any other container."""
        pairs = zip(self.given, compiled, strict=True)
        return [given.component(each.artifact) for given, each in pairs if given.running.part is not None]


def spec(
    bundle: Bundle,
    container: Container,
    number: int,
    prepared: Prepared,
    *,
    compiled: Compiled,
    http: protocol.Http | None,
    places: Places,
) -> protocol.SandboxSpec:
    """The orders for attempt `number`."""
    pod = bundle.pod
    of_pod = pod.spec.resources.limits if pod.spec.resources is not None else {}
    limits = {**of_pod, **container.resources.limits}
    requests = {**container.resources.limits, **container.resources.requests}
    return protocol.SandboxSpec(
        pod_uid=pod.metadata.uid,
        pod_namespace=pod.metadata.namespace,
        pod_name=pod.metadata.name,
        container=container.name,
        attempt=number,
        artifact=compiled.artifact,
        kind=compiled.kind,
        http=http,
        network=prepared.network,
        args=prepared.args,
        env=prepared.given[0].env,
        working_dir=prepared.working_dir,
        mounts=prepared.given[0].mounts,
        stdin=container.stdin,
        stdin_once=container.stdin_once,
        tty=container.tty,
        log=protocol.Log(path=str(places.log_file(container.name, number)), lossless=bundle.attached),
        exit_file=str(places.exit_file(container.name, number)),
        memory_limit_bytes=_amount(limits.get("memory", 0), "1") or None,
        memory_request_bytes=_amount(requests.get("memory", 0), "1"),
        cpu_quota_millicores=_amount(limits.get("cpu", 0), "1m") or None,
    )


def _amount(given: quantity.Quantity, unit: quantity.Quantity) -> int:
    """A request or limit for the engine; a limit of 0 is none, as with Linux containers (kubelet, cm/helpers_linux.go).

    One that no 64 bits hold is the largest that they do, as in Kubernetes (resource.Quantity.Value).
    """
    return min(quantity.ceil_divided(given, unit), MAX_AMOUNT)
