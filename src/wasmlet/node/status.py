"""What the node is → NodeStatus, and what of it to send. Pure (kubelet-contract 1.2 and 1.3)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import msgspec

from wasmlet import __version__
from wasmlet.base import quantity
from wasmlet.node.machine import Amounts, Identity
from wasmlet.node.objects import (
    ContainerImage,
    DaemonEndpoint,
    DaemonEndpoints,
    NodeAddress,
    NodeCondition,
    NodeFeatures,
    NodeStatus,
    NodeSwap,
    NodeSystemInfo,
)
from wasmlet.node.settings import Settings

__all__ = ["Image", "advertised_version", "capacity_and_allocatable", "changes", "patch_body", "render"]

MAX_NAMES: Final = 5
"""Of one image in the status, as in the kubelet."""

RUNTIME: Final = "wasmlet"


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the node has.

    Attributes:
        names: References with a digest or a tag: `registry/repository@sha256:…`, `registry/repository:tag`.
        size_bytes: On disk.
    """

    names: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """Everything a status is made of, apart from the settings.

    Attributes:
        addresses: The node's own, the most important first.
        kubelet_version: What to say there.
        volumes_in_use: None: not known yet; the status keeps what it says.
    """

    identity: Identity
    amounts: Amounts
    addresses: tuple[str, ...]
    conditions: Sequence[NodeCondition]
    kubelet_version: str
    images: Sequence[Image] = ()
    volumes_in_use: Iterable[str] | None = None


def render(knowledge: Knowledge, settings: Settings) -> NodeStatus:
    """The status."""
    capacity, allocatable = capacity_and_allocatable(knowledge.amounts, settings)
    identity = knowledge.identity
    return NodeStatus(
        capacity=capacity,
        allocatable=allocatable,
        conditions=list(knowledge.conditions),
        addresses=[
            *(NodeAddress(type="InternalIP", address=each) for each in knowledge.addresses),
            NodeAddress(type="Hostname", address=settings.name),
        ],
        daemon_endpoints=DaemonEndpoints(kubelet_endpoint=DaemonEndpoint(port=settings.port)),
        node_info=NodeSystemInfo(
            machine_id=identity.machine_id,
            system_uuid=identity.system_uuid,
            boot_id=identity.boot_id,
            kernel_version=identity.kernel_version,
            os_image=identity.os_image,
            container_runtime_version=f"{RUNTIME}://{__version__}",
            kubelet_version=knowledge.kubelet_version,
            operating_system=settings.operating_system,
            architecture=settings.architecture,
            # The API server takes no 0 here.
            swap=NodeSwap(capacity=knowledge.amounts.swap) if knowledge.amounts.swap else None,
        ),
        images=_images(knowledge.images, settings.max_images),
        volumes_in_use=sorted(set(knowledge.volumes_in_use or ())),
        runtime_handlers=list(settings.runtime_handlers),
        features=NodeFeatures(),
        declared_features=sorted(settings.declared_features),
    )


def capacity_and_allocatable(amounts: Amounts, settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """What there is, and what pods may ask for: less what is reserved and what eviction keeps free, 0 at least."""
    capacity = {
        "cpu": _cpu(amounts.cpu_millis),
        "memory": f"{amounts.memory // 1024}Ki",
        "ephemeral-storage": f"{amounts.disk // 1024}Ki",
        "pods": str(settings.max_pods),
    }
    reserved = {name: quantity.parse(amount) for name, amount in settings.reserved.items()}

    def left(name: str, whole: int, kept: float = 0) -> int:
        return max(0, math.floor(whole - reserved.get(name, Fraction(0)) - Fraction(kept)))

    millis = max(0, math.floor(amounts.cpu_millis - 1000 * reserved.get("cpu", Fraction(0))))
    memory = left("memory", amounts.memory, settings.eviction_memory_bytes)
    disk = left("ephemeral-storage", amounts.disk, int(amounts.disk * settings.eviction_disk_share))
    return capacity, {
        "cpu": _cpu(millis),
        "memory": f"{memory // 1024}Ki",
        "ephemeral-storage": str(disk),
        "pods": str(settings.max_pods),
    }


def _cpu(millis: int) -> str:
    return str(millis // 1000) if millis % 1000 == 0 else f"{millis}m"


def _images(images: Sequence[Image], most: int) -> list[ContainerImage]:
    """The largest ones; equal ones by name, so that the list does not change without a reason."""
    largest = sorted(images, key=lambda each: (-each.size_bytes, each.names))
    chosen = largest if most < 0 else largest[:most]
    return [ContainerImage(names=_names(each.names), size_bytes=each.size_bytes) for each in chosen]


def _names(names: Sequence[str]) -> list[str]:
    """Digests before tags, five at most."""
    return sorted(names, key=lambda name: ("@" not in name, name))[:MAX_NAMES]


# --- what to send -----------------------------------------------------------------------------------------------------

_WRITTEN: Final = tuple(name for name in NodeStatus.__struct_fields__ if name not in ("volumes_attached", "conditions"))
"""Fields that are this agent's; volumesAttached is a controller's. Conditions are compared without their heartbeats."""


def changes(before: NodeStatus, after: NodeStatus, *, keeps_volumes: bool = False) -> dict[str, Any]:
    """The fields of `after` that are news, by their JSON names; empty: nothing but heartbeats.

    Args:
        keeps_volumes: volumesInUse is not known yet, so it stays.
    """
    changed: dict[str, Any] = {}
    for name, wire in zip(NodeStatus.__struct_fields__, NodeStatus.__struct_encode_fields__, strict=True):
        if name not in _WRITTEN or (keeps_volumes and name == "volumes_in_use"):
            continue
        new, old = getattr(after, name), getattr(before, name)
        if name in ("capacity", "allocatable"):
            # A map is merged: what another agent of this name wrote and we do not have goes to null, not away.
            new_map = {**dict.fromkeys(set(old) - set(new)), **new}
            if new != old:
                changed[wire] = new_map
        elif new != old:
            changed[wire] = msgspec.to_builtins(new)
            if isinstance(new, NodeSystemInfo) and new.swap is None:
                changed[wire]["swap"] = None  # merged, so what is gone must be named
    if _plain(after.conditions) != _plain([each for each in before.conditions if _is_ours(each, after)]):
        changed["conditions"] = msgspec.to_builtins(after.conditions)
    return changed


def _is_ours(condition: NodeCondition, after: NodeStatus) -> bool:
    return any(each.type == condition.type for each in after.conditions)


def _plain(conditions: Sequence[NodeCondition]) -> set[tuple[str, str, str, str]]:
    """Conditions without their times: heartbeats are no news, and a transition shows in the status."""
    return {(each.type, each.status, each.reason, each.message) for each in conditions}


def patch_body(
    changed: dict[str, Any], conditions: Sequence[NodeCondition], *, abandoned: Sequence[str] = ()
) -> dict[str, Any]:
    """The strategic merge patch: what changed, the heartbeats, and the types of conditions that are to go.

    Addresses are merged by their type, which two InternalIPs share, so they are replaced as a whole.
    """
    going = [{"type": each, "$patch": "delete"} for each in abandoned]
    status = {**changed, "conditions": [*msgspec.to_builtins(list(conditions)), *going]}
    if "addresses" in status:
        status["addresses"] = [*status["addresses"], {"$patch": "replace"}]
    return {"status": status}


# --- version ----------------------------------------------------------------------------------------------------------

_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


def advertised_version(own: str, server: str) -> str:
    """nodeInfo.kubeletVersion: the contract's version, or the API server's when that is older, marked as ours.

    Args:
        own: `v1.36.3`.
        server: gitVersion of the API server; empty or odd: not known.
    """
    ours, theirs = _VERSION.match(own), _VERSION.match(server)
    version = own
    if ours and theirs and tuple(map(int, theirs.groups())) < tuple(map(int, ours.groups())):
        version = "v" + ".".join(theirs.groups())
    return f"{version}+wasmlet.{__version__}"
