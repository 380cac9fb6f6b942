"""Whether this node takes a pod: pure (kubelet-contract section 3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wasmlet.base import quantity
from wasmlet.base.errors import UserError
from wasmlet.kube.types import Container, Pod, Probe

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_UID = re.compile(r"[0-9a-zA-Z][-0-9a-zA-Z]{0,127}")


@dataclass(frozen=True)
class Refusal:
    """Why a pod is not taken; final (its phase becomes Failed)."""

    reason: str
    message: str


def is_uid(text: str) -> bool:
    """Whether `text` can be a pod's UID; it names the pod's directory."""
    return _UID.fullmatch(text) is not None


def refuse(pod: Pod) -> Refusal | None:
    """The first reason to refuse `pod`, or None when it is admitted.

    The API server has checked these already for a pod of a cluster; a manifest from a file comes here unchecked, and
    its names become parts of paths.
    """
    meta, spec = pod.metadata, pod.spec
    if not _SUBDOMAIN.fullmatch(meta.name):
        return _invalid(f"metadata.name {meta.name!r} is no DNS subdomain name (lower case, digits, '-' and '.')")
    if not _LABEL.fullmatch(meta.namespace):
        return _invalid(f"metadata.namespace {meta.namespace!r} is no DNS label")
    if not is_uid(meta.uid):
        return _invalid(f"metadata.uid {meta.uid!r} is no UID")
    if not spec.containers:
        return _invalid("spec.containers is empty; a pod needs one container at least")
    if spec.restart_policy not in ("Always", "OnFailure", "Never"):
        return _invalid(f"spec.restartPolicy {spec.restart_policy!r} is none of Always, OnFailure, Never")
    if (spec.termination_grace_period_seconds or 0) < 0:
        return _invalid(f"spec.terminationGracePeriodSeconds {spec.termination_grace_period_seconds} is negative")
    if spec.active_deadline_seconds is not None and spec.active_deadline_seconds < 1:
        return _invalid(f"spec.activeDeadlineSeconds {spec.active_deadline_seconds} is less than 1")
    return _refuse_containers(pod) or _refuse_volumes(pod)


def _refuse_containers(pod: Pod) -> Refusal | None:
    volumes = {volume.name for volume in pod.spec.volumes}
    seen: set[str] = set()
    for container in [*pod.spec.init_containers, *pod.spec.containers]:
        where = f"container {container.name!r}"
        if not _LABEL.fullmatch(container.name):
            return _invalid(f"{where}: its name is no DNS label")
        if container.name in seen:
            return _invalid(f"{where}: two containers have this name")
        seen.add(container.name)
        if not container.image:
            return _invalid(f"{where} has no image")
        if container.restart_policy not in (None, "Always", "OnFailure", "Never"):
            return _invalid(f"{where}: restartPolicy {container.restart_policy!r} is none of Always, OnFailure, Never")
        if refusal := _refuse_details(container, where):
            return refusal
        for mount in container.volume_mounts:
            if mount.name not in volumes:
                return _invalid(f"{where} mounts {mount.name!r}, which is not in spec.volumes")
            if not mount.mount_path:
                return _invalid(f"{where}: the mount of {mount.name!r} has no mountPath")
    return None


def _refuse_details(container: Container, where: str) -> Refusal | None:
    """What the API server's validation refuses, of the fields that mean something here."""
    if container.image_pull_policy not in ("", "Always", "IfNotPresent", "Never"):
        policy = container.image_pull_policy
        return _invalid(f"{where}: imagePullPolicy {policy!r} is none of Always, IfNotPresent, Never")
    if container.command and not container.command[0]:
        return _invalid(f"{where}: command[0] is empty")
    for name, amount in (*container.resources.limits.items(), *container.resources.requests.items()):
        try:
            if quantity.parse(amount) < 0:
                return _invalid(f"{where}: the quantity {amount} of {name} is negative")
        except UserError as error:
            return _invalid(f"{where}: {name}: {error}")
    probes = {"liveness": container.liveness_probe, "readiness": container.readiness_probe}
    for kind, probe in (probes | {"startup": container.startup_probe}).items():
        if probe is not None and (problem := _problem_of_probe(probe)):
            return _invalid(f"{where}: {kind}Probe {problem}")
    return None


def _problem_of_probe(probe: Probe) -> str:
    handlers = [each for each in (probe.http_get, probe.tcp_socket, probe.grpc, probe.exec) if each is not None]
    if len(handlers) != 1:
        return "needs exactly one of httpGet, tcpSocket, grpc, exec"
    port = getattr(handlers[0], "port", 1)
    if isinstance(port, int) and not 0 < port < 65536:
        return f"has port {port}, which is not between 1 and 65535"
    return ""


def _refuse_volumes(pod: Pod) -> Refusal | None:
    seen: set[str] = set()
    for volume in pod.spec.volumes:
        if not _LABEL.fullmatch(volume.name):
            return _invalid(f"volume {volume.name!r}: its name is no DNS label")
        if volume.name in seen:
            return _invalid(f"volume {volume.name!r}: two volumes have this name")
        seen.add(volume.name)
    return None


def _invalid(message: str) -> Refusal:
    return Refusal("Invalid", f"Pod was rejected: {message}")
