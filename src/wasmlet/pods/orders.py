"""What an engine is told of a container that it is to run (`PUT /sandboxes/{id}`). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from wasmlet.base import quantity
from wasmlet.images.image import Image
from wasmlet.images.programs import Program
from wasmlet.kube.types import Container
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.directories import Places
from wasmlet.sandbox import protocol
from wasmlet.volumes.root import ContainerMount, TerminationFile

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
        compiled: The program for each compatibility of engines that was met.
    """

    image: Image
    program: Program
    args: list[str]
    env: list[protocol.EnvVar]
    working_dir: str
    mounts: list[ContainerMount]
    termination: TerminationFile | None
    compiled: Mapping[str, Compiled] = field(default_factory=dict)


def spec(
    bundle: Bundle,
    container: Container,
    number: int,
    prepared: Prepared,
    *,
    compiled: Compiled,
    http: protocol.Http | None,
    network: protocol.Network,
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
        network=network,
        args=prepared.args,
        env=prepared.env,
        working_dir=prepared.working_dir,
        mounts=[
            protocol.Mount(host_path=str(each.host_path), guest_path=each.guest_path, read_only=each.read_only)
            for each in prepared.mounts
        ],
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
