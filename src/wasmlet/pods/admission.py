"""Whether this node takes a pod: pure (kubelet-contract section 3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wasmlet.kube.types import Pod

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
        for mount in container.volume_mounts:
            if mount.name not in volumes:
                return _invalid(f"{where} mounts {mount.name!r}, which is not in spec.volumes")
            if not mount.mount_path:
                return _invalid(f"{where}: the mount of {mount.name!r} has no mountPath")
    return None


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
