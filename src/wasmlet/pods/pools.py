"""Which engine a pod's sandboxes go to, and what of the machine that engine may use (design sections 1 and 3)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from wasmlet.base.errors import UserError
from wasmlet.kube.types import Pod, PodSecurityContext
from wasmlet.pods.directories import Places
from wasmlet.pods.view import all_containers
from wasmlet.sandbox.engines import Access, PoolKey, User
from wasmlet.sandbox.users import HIGHEST, Range

__all__ = ["access", "choose", "key", "refuse_users", "user"]


def choose(pod: Pod, *, isolated: bool, isolation: Literal["namespace", "node", "pod"]) -> str:
    """The name of the pod's pool; pods with other people's directories, and those that ask, have one of their own.

    Args:
        isolated: The pod's RuntimeClass asks for an engine of its own.
        isolation: The node's setting.
    """
    alone = isolated or isolation == "pod" or _is_host(pod)
    namespace = "" if isolation == "node" and not alone else pod.metadata.namespace
    return PoolKey(namespace, pod.metadata.uid if alone else "").pool


def key(pod: Pod, pool: str, *, network: str, group: int | None) -> PoolKey:
    """What an engine has to be for the pod.

    Args:
        pool: The pod's, of `choose`; it stays the same when the node's setting becomes another.
        network: The namespace in which pods have their addresses; pods of the host's network go without.
        group: The pool's; None: it has no user of its own.
    """
    namespace, _, dedicated = pool.partition("@")
    network = "" if pod.spec.host_network else network
    return PoolKey(namespace, dedicated if namespace else "", network, user(pod, group))


def user(pod: Pod, group: int | None) -> User | None:
    """Whom an engine of the pod's pool becomes: the user of the group's number.

    One that works in other people's directories is who the pod says, so that files there have the right owner: root
    unless it says something. The pool's group is one of its groups, by which it enters the pod's own directories.
    """
    if group is None or not _is_host(pod):
        return None if group is None else User(group, group)
    context = pod.spec.security_context or PodSecurityContext()
    groups = (context.fs_group,) if context.fs_group is not None else ()
    if not groups and context.run_as_user is None and context.run_as_group is None:
        return None
    return User(context.run_as_user or 0, context.run_as_group or 0, (group, *groups))


def refuse_users(pod: Pod, users: Range) -> None:
    """Raise UserError when a pod with other people's directories says that it is somebody whom it cannot be."""
    context = pod.spec.security_context
    if context is None or not _is_host(pod):
        return
    for name in ("run_as_user", "run_as_group", "fs_group"):
        number = getattr(context, name)
        if number is not None and (number in users or not 0 <= number <= HIGHEST):
            first, *rest = name.split("_")
            field = first + "".join(each.capitalize() for each in rest)
            raise UserError(
                f"securityContext.{field} {number} is no user of the pod's: {users} are those of pools of engines",
                hint="say another, or none",
            )


def _is_host(pod: Pod) -> bool:
    """Whether it mounts other people's directories."""
    return any(each.host_path is not None for each in pod.spec.volumes)


def access(pod: Pod, places: Places, *, cache: Path) -> Access:
    """What an engine of the pod's pool may use: the pool's directories and logs, other people's directories that the
    pod mounts, and the cache. Those that no container mounts to write are read only.
    """
    mounts = [each for container in all_containers(pod) for each in container.volume_mounts]
    paths = {each.name: each.host_path.path for each in pod.spec.volumes if each.host_path is not None}
    foreign = {name: Path(os.path.realpath(path)) for name, path in paths.items() if os.path.isdir(path)}
    written = {each.name for each in mounts if not each.read_only}
    return Access(
        read=(cache, *(path for name, path in foreign.items() if name not in written)),
        write=(places.pool, places.pool_logs, *(path for name, path in foreign.items() if name in written)),
    )
