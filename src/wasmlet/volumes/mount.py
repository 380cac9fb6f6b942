"""The room's facade: a pod's volume, set up, refreshed or removed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from wasmlet.base import beneath
from wasmlet.base.errors import UserError
from wasmlet.kube.objects import Objects
from wasmlet.kube.types import Pod, Volume
from wasmlet.volumes import atomic, config_map, downward_api, empty_dir, host_path, projected, secret
from wasmlet.volumes.fields import PodFields
from wasmlet.volumes.volume import HostVolume

__all__ = ["is_followed", "set_up", "tear_down", "volume_directory"]

VOLUMES = "volumes"

KIND_DIRECTORIES = {
    "config_map": "kubernetes.io~configmap",
    "secret": "kubernetes.io~secret",
    "projected": "kubernetes.io~projected",
    "downward_api": "kubernetes.io~downward-api",
    "empty_dir": "kubernetes.io~empty-dir",
}
"""Field of `Volume` → the directory the kubelet uses for that kind."""

UNSUPPORTED = {
    "persistent_volume_claim": ("persistentVolumeClaim", "use emptyDir or hostPath, or another node for this pod"),
    "csi": ("csi", "use emptyDir or hostPath, or another node for this pod"),
    "ephemeral": ("ephemeral", "use emptyDir, or another node for this pod"),
    "nfs": ("nfs", "mount it on the node and use hostPath"),
    "iscsi": ("iscsi", "mount it on the node and use hostPath"),
}
"""Field of `Volume` → its name in a manifest and what to do instead."""


async def set_up(
    pod: Pod,
    volume: Volume,
    *,
    directory: Path,
    objects: Objects,
    fields: PodFields,
    tokens: projected.Tokens | None = None,
    group: int | None = None,
    owner: int | None = None,
) -> HostVolume:
    """Make the volume, or bring its content up to date. Is idempotent; nothing is written when nothing changed.

    Args:
        directory: The pod's own directory; it is made when missing, closed to others.
        fields: What the node knows of the pod (downward values, memory bounds).
        tokens: Where service account tokens come from; None without a cluster.
        group: The group of the engine that will read the volume; None takes the pod's fsGroup when the agent is root,
            else files stay with the agent's own user.
        owner: The user of that engine, who owns what its guests may write; None leaves it with the agent's.

    Raises:
        NotFoundError: An object is missing and not optional (`configmap "x" not found`).
        RetryableError: The source of objects is away.
        UserError: The volume cannot be given as asked; never start the pod without it.
        OSError: The disk says no.
    """
    if volume.host_path is not None:
        return await asyncio.to_thread(host_path.set_up, volume.host_path)
    kind = next((kind for kind in KIND_DIRECTORIES if getattr(volume, kind) is not None), None)
    if kind is None:
        raise _unsupported(volume)
    group = _group(pod) if group is None else group
    place = volume_directory(directory, kind, volume.name)
    if volume.empty_dir is not None:
        await asyncio.to_thread(_make_place, directory, place, group)
        await asyncio.to_thread(empty_dir.set_up, place, volume.empty_dir, pod=pod, fields=fields)
        if owner is not None:
            os.chown(place, owner, -1)
        return HostVolume(path=place, read_only=False, foreign=False)
    payload = await _collect(pod, volume, objects=objects, fields=fields, tokens=tokens)
    await asyncio.to_thread(_write, directory, place, payload, group)
    return HostVolume(path=place, read_only=True, foreign=False)


def is_followed(volume: Volume) -> bool:
    """Whether its files come from objects, tokens or metadata, which may change while the pod lives."""
    return any(getattr(volume, kind) is not None for kind in KIND_DIRECTORIES if kind != "empty_dir")


async def tear_down(directory: Path) -> None:
    """Unmount and remove all volumes below the pod's directory. Is idempotent; never touches a hostPath.

    Raises:
        RetryableError: A guest still writes into a volume.
        OSError: Something cannot be unmounted or removed.
    """
    await asyncio.to_thread(_tear_down, directory)


def volume_directory(directory: Path, kind: str, name: str) -> Path:
    """Where a volume of `kind` (a key of KIND_DIRECTORIES) lies below the pod's directory.

    Raises:
        UserError: The name is no plain file name.
    """
    if not name or "/" in name or name in (".", "..") or "\0" in name:
        raise UserError(f"volume name {name!r} is not a name")
    return directory / VOLUMES / KIND_DIRECTORIES[kind] / name


async def _collect(
    pod: Pod, volume: Volume, *, objects: Objects, fields: PodFields, tokens: projected.Tokens | None
) -> dict[str, atomic.PayloadFile]:
    if volume.projected is not None:
        return await projected.collect(pod, volume.projected, objects=objects, fields=fields, tokens=tokens)
    if volume.downward_api is not None:
        source: Any = volume.downward_api
        return downward_api.collect(pod, source.items, default_mode=_mode(source.default_mode), fields=fields)
    if volume.config_map is not None:
        source, name, collect = volume.config_map, volume.config_map.name, config_map.collect
    elif volume.secret is not None:
        source, name, collect = volume.secret, volume.secret.secret_name, secret.collect
    else:
        raise _unsupported(volume)
    return await collect(
        pod.metadata.namespace,
        name,
        items=source.items,
        optional=bool(source.optional),
        default_mode=_mode(source.default_mode),
        objects=objects,
    )


def _mode(mode: int | None) -> int:
    return atomic.DEFAULT_MODE if mode is None else mode


def _group(pod: Pod) -> int | None:
    """fsGroup, where the agent may give files away; WASI shows a guest no owner, so nothing is lost where not."""
    context = pod.spec.security_context
    return context.fs_group if context is not None and os.geteuid() == 0 else None


def _make_place(directory: Path, place: Path, group: int | None) -> None:
    """The directories down to the volume's parent, entered only by the agent and the group.

    As an ordinary user 0700; as root 0750, with the group, if there is one, for what is made in them too.
    """
    closed = 0o700 if os.geteuid() != 0 else 0o750 if group is None else 0o2750
    made = not directory.is_dir()
    for path in (directory, place.parent.parent, place.parent):
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)  # a sibling may have made it just now
            path.chmod(closed)
    for path in (directory, place.parent.parent, place.parent)[0 if made else 1 :]:
        if group is not None and path.stat().st_gid != group:
            os.chown(path, -1, group)


def _write(directory: Path, place: Path, payload: atomic.Payload, group: int | None) -> None:
    _make_place(directory, place, group)
    if not place.is_dir():
        place.mkdir(mode=0o755)
        if group is not None:
            os.chown(place, -1, group)
        os.chmod(place, 0o755 if group is None else 0o2750)
    atomic.write(place, payload, group=group)


def _tear_down(directory: Path) -> None:
    volumes = directory / VOLUMES
    memory = volumes / KIND_DIRECTORIES["empty_dir"]
    if memory.is_dir():
        for name in os.listdir(memory):
            empty_dir.unmount(memory / name)
    beneath.remove_tree(volumes)


def _unsupported(volume: Volume) -> UserError:
    for kind, (name, hint) in UNSUPPORTED.items():
        if getattr(volume, kind) is not None:
            return UserError(f'volume "{volume.name}" of kind {name} is not supported by wasmlet', hint=hint)
    return UserError(
        f'volume "{volume.name}" has no source, or one of a kind wasmlet does not know',
        hint="use configMap, secret, projected, downwardAPI, emptyDir, hostPath or image",
    )
