"""What an engine is told of a container that it is to run (`PUT /sandboxes/{id}`). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wasmlet.base import quantity
from wasmlet.images.image import Image
from wasmlet.images.programs import Program
from wasmlet.kube.types import Container
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.directories import Places
from wasmlet.sandbox import protocol
from wasmlet.volumes.root import ContainerMount, TerminationFile

__all__ = ["Compiled", "Prepared", "spec"]


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
        memory_limit_bytes=quantity.ceil(limits["memory"]) if "memory" in limits else None,
        memory_request_bytes=quantity.ceil(requests["memory"]) if "memory" in requests else 0,
        cpu_quota_millicores=_millicores(limits["cpu"]) if "cpu" in limits else None,
    )


def _millicores(cpu: quantity.Quantity) -> int | None:
    """A CPU limit for the engine; a limit of 0 is none, as with Linux containers."""
    return quantity.ceil_divided(cpu, "1m") or None
