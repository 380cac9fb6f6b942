"""What no node could run: names, fields and quantities that the API server would not have let in. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from wasmlet.base import quantity
from wasmlet.base.errors import UserError
from wasmlet.kube.types import Container, Pod, Probe

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_UID = re.compile(r"[0-9a-zA-Z][-0-9a-zA-Z]{0,127}")


def is_uid(text: str) -> bool:
    """Whether `text` can be a pod's UID; it names the pod's directory."""
    return _UID.fullmatch(text) is not None


def problem_of(pod: Pod) -> str:
    """The first thing that is wrong with `pod`; "" when nothing is.

    The API server has checked these already for a pod of a cluster; a manifest from a file comes here unchecked, and
    its names become parts of paths.
    """
    meta, spec = pod.metadata, pod.spec
    if not _SUBDOMAIN.fullmatch(meta.name):
        return f"metadata.name {meta.name!r} is no DNS subdomain name (lower case, digits, '-' and '.')"
    if not _LABEL.fullmatch(meta.namespace):
        return f"metadata.namespace {meta.namespace!r} is no DNS label"
    if not is_uid(meta.uid):
        return f"metadata.uid {meta.uid!r} is no UID"
    if not spec.containers:
        return "spec.containers is empty; a pod needs one container at least"
    if spec.restart_policy not in ("Always", "OnFailure", "Never"):
        return f"spec.restartPolicy {spec.restart_policy!r} is none of Always, OnFailure, Never"
    if spec.active_deadline_seconds is not None and spec.active_deadline_seconds < 1:
        return f"spec.activeDeadlineSeconds {spec.active_deadline_seconds} is less than 1"
    return _problem_of_containers(pod) or _problem_of_volumes(pod) or _problem_of_pod_amounts(pod)


def _problem_of_containers(pod: Pod) -> str:
    volumes = {volume.name for volume in pod.spec.volumes}
    seen: set[str] = set()
    for container in [*pod.spec.init_containers, *pod.spec.containers]:
        where = f"container {container.name!r}"
        if not _LABEL.fullmatch(container.name):
            return f"{where}: its name is no DNS label"
        if container.name in seen:
            return f"{where}: two containers have this name"
        seen.add(container.name)
        if not container.image:
            return f"{where} has no image"
        if container.restart_policy not in (None, "Always", "OnFailure", "Never"):
            return f"{where}: restartPolicy {container.restart_policy!r} is none of Always, OnFailure, Never"
        if problem := _problem_of_details(container, where):
            return problem
        for mount in container.volume_mounts:
            if mount.name not in volumes:
                return f"{where} mounts {mount.name!r}, which is not in spec.volumes"
            if not mount.mount_path:
                return f"{where}: the mount of {mount.name!r} has no mountPath"
    return ""


def _problem_of_details(container: Container, where: str) -> str:
    """What the API server's validation refuses, of the fields that mean something here."""
    if container.image_pull_policy not in ("", "Always", "IfNotPresent", "Never"):
        policy = container.image_pull_policy
        return f"{where}: imagePullPolicy {policy!r} is none of Always, IfNotPresent, Never"
    if container.command and not container.command[0]:
        return f"{where}: command[0] is empty"
    if problem := _problem_of_amounts(container.resources.limits) or _problem_of_amounts(container.resources.requests):
        return f"{where}: {problem}"
    probes = {"liveness": container.liveness_probe, "readiness": container.readiness_probe}
    for kind, probe in (probes | {"startup": container.startup_probe}).items():
        if probe is not None and (problem := _problem_of_probe(probe)):
            return f"{where}: {kind}Probe {problem}"
    return ""


def _problem_of_pod_amounts(pod: Pod) -> str:
    own = pod.spec.resources
    for where, amounts in (
        ("spec.overhead", pod.spec.overhead),
        ("spec.resources.limits", own.limits if own else {}),
        ("spec.resources.requests", own.requests if own else {}),
    ):
        if problem := _problem_of_amounts(amounts):
            return f"{where}: {problem}"
    return ""


def _problem_of_amounts(amounts: Mapping[str, quantity.Quantity]) -> str:
    for name, amount in amounts.items():
        try:
            if quantity.parse(amount) < 0:
                return f"the quantity {amount} of {name} is negative"
        except UserError as error:
            return f"{name}: {error}"
    return ""


def _problem_of_probe(probe: Probe) -> str:
    handlers = [each for each in (probe.http_get, probe.tcp_socket, probe.grpc, probe.exec) if each is not None]
    if len(handlers) != 1:
        return "needs exactly one of httpGet, tcpSocket, grpc, exec"
    port = getattr(handlers[0], "port", 1)
    if isinstance(port, int) and not 0 < port < 65536:
        return f"has port {port}, which is not between 1 and 65535"
    return ""


def _problem_of_volumes(pod: Pod) -> str:
    seen: set[str] = set()
    for volume in pod.spec.volumes:
        if not _LABEL.fullmatch(volume.name):
            return f"volume {volume.name!r}: its name is no DNS label"
        if volume.name in seen:
            return f"volume {volume.name!r}: two volumes have this name"
        seen.add(volume.name)
    return ""
