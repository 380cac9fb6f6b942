"""Which engine a pod's sandboxes go to, and what of the machine that engine may use (design sections 1 and 3)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from wasmlet.kube.types import Pod
from wasmlet.pods.directories import Places
from wasmlet.pods.view import all_containers
from wasmlet.sandbox.engines import Access, PoolKey

__all__ = ["access", "choose", "key"]


def choose(pod: Pod, *, isolated: bool, isolation: Literal["namespace", "node", "pod"]) -> str:
    """The name of the pod's pool; pods with other people's directories, and those that ask, have one of their own.

    Args:
        isolated: The pod's RuntimeClass asks for an engine of its own.
        isolation: The node's setting.
    """
    alone = isolated or isolation == "pod" or any(each.host_path is not None for each in pod.spec.volumes)
    namespace = "" if isolation == "node" and not alone else pod.metadata.namespace
    return PoolKey(namespace, pod.metadata.uid if alone else "").pool


def key(pod: Pod, pool: str, *, network: str) -> PoolKey:
    """What an engine has to be for the pod.

    Args:
        pool: The pod's, of `choose`; it stays the same when the node's setting becomes another.
        network: The namespace in which pods have their addresses; pods of the host's network go without.
    """
    namespace, _, dedicated = pool.partition("@")
    return PoolKey(namespace, dedicated if namespace else "", "" if pod.spec.host_network else network)


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
