"""Which engine a pod's sandboxes go to, and what of the machine that engine may use (design sections 1 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from wasmlet.kube.types import Pod
from wasmlet.pods.bundle import Places
from wasmlet.pods.plan import all_containers
from wasmlet.sandbox.engines import Access, PoolKey
from wasmlet.volumes.volume import HostVolume

__all__ = ["access", "choose"]


def choose(
    pod: Pod,
    volumes: Mapping[str, HostVolume],
    *,
    isolated: bool,
    isolation: Literal["namespace", "node", "pod"],
    network: str,
) -> PoolKey:
    """The pod's pool: pods with other people's directories, and those that ask for it, have one of their own.

    Args:
        volumes: All of the pod, by name, set up.
        isolated: The pod's RuntimeClass asks for an engine of its own.
        isolation: The node's setting.
        network: The namespace in which pods have their addresses; pods of the host's network go without.
    """
    alone = isolated or isolation == "pod" or any(each.foreign for each in volumes.values())
    namespace = "" if isolation == "node" and not alone else pod.metadata.namespace
    return PoolKey(namespace, pod.metadata.uid if alone else "", "" if pod.spec.host_network else network)


def access(pod: Pod, volumes: Mapping[str, HostVolume], places: Places, *, cache: Path) -> Access:
    """What the engine of this pod alone may use: the pod's directories and logs, other people's that it mounts, and
    the cache. Those that no container mounts to write are read only.
    """
    mounts = [each for container in all_containers(pod) for each in container.volume_mounts]
    foreign = {name: each.path for name, each in volumes.items() if each.foreign and each.path.is_dir()}
    written = {each.name for each in mounts if not each.read_only}
    return Access(
        read=(cache, *(path for name, path in foreign.items() if name not in written)),
        write=(places.pod, places.logs, *(path for name, path in foreign.items() if name in written)),
    )
