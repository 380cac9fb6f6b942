"""The settings of this room, and the parsing of what an operator writes for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wasmlet.base import quantity
from wasmlet.base.errors import UserError
from wasmlet.node import addresses
from wasmlet.node.objects import RuntimeHandler, RuntimeHandlerFeatures, Taint
from wasmlet.pods.handlers import HANDLERS

__all__ = [
    "ARCHITECTURE_KEY",
    "DEFAULT_TAINTS",
    "KUBERNETES_VERSION",
    "OS_KEY",
    "Settings",
    "parse_label",
    "parse_priorities",
    "parse_reserved",
    "parse_taint",
]

KUBERNETES_VERSION: Final = "v1.36.3"
"""Whose contract this agent follows (kubelet-contract); a node must not be newer than its API server."""

ARCHITECTURE_KEY: Final = "kubernetes.io/arch"
OS_KEY: Final = "kubernetes.io/os"
KRUSTLET_ARCHITECTURE: Final = "wasm32-wasi"
"""What Krustlet's manifests select and tolerate; its nodeInfo said `wasm-wasi`."""

DEFAULT_TAINTS: Final = (
    Taint(key=ARCHITECTURE_KEY, value=KRUSTLET_ARCHITECTURE, effect="NoSchedule"),
    Taint(key=ARCHITECTURE_KEY, value=KRUSTLET_ARCHITECTURE, effect="NoExecute"),
)

RUNTIME_HANDLERS: Final = tuple(
    RuntimeHandler(name=name, features=RuntimeHandlerFeatures(recursive_read_only_mounts=True)) for name in HANDLERS
)
"""A read-only directory of WASI is so with everything below it, other mounts included."""

DECLARED_FEATURES: Final = ("RestartAllContainersOnContainerExits",)

EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
RESERVABLE: Final = ("cpu", "memory", "ephemeral-storage")
MINIMUM_CERTIFICATE_SECONDS: Final = 600
MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may say about the node.

    Attributes:
        name: The Node's name: lower case; the credential's user must be `system:node:{name}`.
        directory: The agent's state; its disk is the one whose size and pressure count.
        pki_directory: Where certificates are kept (0700).
        port: Where the kubelet API listens; two nodes on one machine need two. Default 10250.
        node_ips: The node's addresses, one per family; none: found (see `addresses`).
        os_label: kubernetes.io/os. Default `wasi`, so that DaemonSets for Linux stay away; `linux` lets them come.
        architecture_label: kubernetes.io/arch. Default `wasm32-wasi`, which Krustlet's manifests select.
        architecture: nodeInfo.architecture. Default `wasm-wasi`, as Krustlet's nodes said.
        operating_system: nodeInfo.operatingSystem: whose kernel it is. Default `linux`.
        labels, annotations: Set on the Node at each start. Those taken out here stay on it.
        taints: Of a new Node only: afterwards the API server lets nobody but administrators change them.
        is_schedulable: Whether a new Node takes pods at once. Default yes.
        provider_id: spec.providerID, which cloud controllers look for; it cannot change later. Default none.
        max_pods: capacity `pods`. Default 110, a kubelet's.
        reserved: What other programs of the machine (another kubelet, say) keep, by resource, as quantities. It is
            taken from allocatable. Default nothing.
        eviction_memory_bytes: Less available memory is MemoryPressure, and so much is kept from allocatable. Default
            100 MiB; the next two are shares of the disk: 0.10 of its bytes, 0.05 of its inodes.
        eviction_disk_share, eviction_inodes_share: Less is DiskPressure.
        eviction_pids_share: Fewer free process ids, as a share, are PIDPressure. Default 0.02.
        pressure_seconds: A pressure stays for so long after it was last seen. Default 300.
        max_images: The largest images that the status lists; -1: all. Default 50.
        runtime_handlers: RuntimeClass handlers that work here; the empty name is the default one.
        declared_features: status.declaredFeatures. Declare only what works.
        kubelet_version: nodeInfo.kubeletVersion, as far as the API server is not older.
        status_seconds: How often the status is computed. Default 10, and
        report_seconds: how often it is sent when only heartbeats changed, 300.
        first_ready_seconds: For so long after the start it is computed each 0.1 s, until it is Ready. Default 120.
        lease_seconds: How long the Lease is good; it is renewed in a quarter of that. Default 40.
        rotates_client_certificate: Whether a certificate that `bootstrap` made is renewed. Default yes.
        requests_serving_certificate: Whether the cluster is asked to sign the serving certificate
            (serverTLSBootstrap); somebody must approve that. Default yes; no leaves it self-signed.
        certificate_seconds: The life to ask for, 600 at least; None: what the signer gives. Default None.
        rotation_wait_seconds: How long an answer to a request is waited for in rotation. Default 900.
        shutdown_grace_seconds: What all pods have together when the machine goes down; 0 is off. Default 0.
        shutdown_critical_seconds: The last part of that, for critical pods. Default 0.
        shutdown_grace_by_priority: Instead of both: (lowest priority, seconds) of each group.
    """

    name: str
    directory: Path
    pki_directory: Path
    port: int = 10250
    node_ips: tuple[str, ...] = ()
    os_label: str = "wasi"
    architecture_label: str = KRUSTLET_ARCHITECTURE
    architecture: str = "wasm-wasi"
    operating_system: str = "linux"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = DEFAULT_TAINTS
    is_schedulable: bool = True
    provider_id: str = ""
    max_pods: int = 110
    reserved: Mapping[str, str] = field(default_factory=dict)
    eviction_memory_bytes: int = 100 << 20
    eviction_disk_share: float = 0.10
    eviction_inodes_share: float = 0.05
    eviction_pids_share: float = 0.02
    pressure_seconds: float = 300.0
    max_images: int = 50
    runtime_handlers: tuple[RuntimeHandler, ...] = RUNTIME_HANDLERS
    declared_features: tuple[str, ...] = DECLARED_FEATURES
    kubelet_version: str = KUBERNETES_VERSION
    status_seconds: float = 10.0
    report_seconds: float = 300.0
    first_ready_seconds: float = 120.0
    lease_seconds: int = 40
    rotates_client_certificate: bool = True
    requests_serving_certificate: bool = True
    certificate_seconds: int | None = None
    rotation_wait_seconds: float = 900.0
    shutdown_grace_seconds: float = 0.0
    shutdown_critical_seconds: float = 0.0
    shutdown_grace_by_priority: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        for address in self.node_ips:
            addresses.check(address)
        if not _KEY_NAME.fullmatch(self.os_label):
            raise UserError(f"{self.os_label!r} is no value of a label", hint="choose wasi or linux with --os-label")
        for key in self.labels:
            check_label_key(key)
        if not 0 < self.port <= MAX_PORT:
            raise UserError(
                f"node: port must be from 1 to {MAX_PORT}, not {self.port}", hint="choose another with --port"
            )
        for name in ("max_pods", "status_seconds", "report_seconds", "lease_seconds", "rotation_wait_seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"node: {name} must be greater than 0, not {getattr(self, name)}")
        seconds = self.certificate_seconds
        if seconds is not None and seconds < MINIMUM_CERTIFICATE_SECONDS:
            raise UserError(f"node: certificate_seconds must be {MINIMUM_CERTIFICATE_SECONDS} at least, not {seconds}")
        if not 0 <= self.shutdown_critical_seconds <= self.shutdown_grace_seconds:
            raise UserError("node: shutdown_critical_seconds is a part of shutdown_grace_seconds, so not more")
        if any(seconds < 0 for _, seconds in self.shutdown_grace_by_priority):
            raise UserError("node: the seconds in shutdown_grace_by_priority cannot be negative")
        if self.shutdown_grace_by_priority and self.shutdown_grace_seconds:
            raise UserError("node: shutdown_grace_by_priority stands instead of shutdown_grace_seconds")


_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KEY_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_OWN_KEYS: Final = frozenset({
    "beta.kubernetes.io/arch", "beta.kubernetes.io/instance-type", "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch", "kubernetes.io/hostname", "kubernetes.io/os",
    "node.kubernetes.io/instance-type", "topology.kubernetes.io/region", "topology.kubernetes.io/zone",
})  # fmt: skip
"""What a node may set on itself in kubernetes.io (NodeRestriction, kubelet-contract 1.1)."""


def check_name(name: str) -> None:
    """Raise UserError unless it can be a Node's name."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no name for a node: lower case letters, digits, '-' and '.' only",
            hint="choose one with --node-name",
        )


def check_label_key(key: str) -> None:
    """Raise UserError unless a node may put the label on itself (NodeRestriction)."""
    prefix, slash, name = key.rpartition("/")
    if not _KEY_NAME.fullmatch(name) or (slash and not _NAME.fullmatch(prefix)):
        raise UserError(f"{key!r} is no label key", hint="write it like example.com/zone")
    if not any(prefix == each or prefix.endswith(f".{each}") for each in ("kubernetes.io", "k8s.io")):
        return
    own = ("kubelet.kubernetes.io", "node.kubernetes.io")
    if key not in _OWN_KEYS and not any(prefix == each or prefix.endswith(f".{each}") for each in own):
        raise UserError(
            f"a node may not give itself the label {key}", hint="an administrator may, with: kubectl label node"
        )


def parse_label(text: str) -> tuple[str, str]:
    """`key=value`.

    Raises:
        UserError: It is no label, or one that a node may not set on itself.
    """
    key, equals, value = text.partition("=")
    if not equals or (value and not _KEY_NAME.fullmatch(value)):
        raise UserError(f"{text!r} is no label", hint="write it like example.com/zone=a")
    check_label_key(key)
    return key, value


def parse_taint(text: str) -> Taint:
    """`key=value:Effect` or `key:Effect`.

    Raises:
        UserError: It is no taint.
    """
    rest, colon, effect = text.rpartition(":")
    key, _, value = rest.partition("=")
    prefix, slash, name = key.rpartition("/")
    is_key = _KEY_NAME.fullmatch(name) and (not slash or _NAME.fullmatch(prefix))
    if not colon or effect not in EFFECTS or not is_key or (value and not _KEY_NAME.fullmatch(value)):
        raise UserError(
            f"{text!r} is no taint", hint=f"write it like key=value:{EFFECTS[0]}; others: {', '.join(EFFECTS[1:])}"
        )
    return Taint(key=key, value=value, effect=effect)


def parse_reserved(texts: Iterable[str]) -> dict[str, str]:
    """`cpu=500m`, `memory=1Gi`, `ephemeral-storage=2Gi` → by resource.

    Raises:
        UserError: Another resource, or no quantity.
    """
    found = {}
    for text in texts:
        name, _, amount = text.partition("=")
        if name not in RESERVABLE:
            raise UserError(f"{name!r} cannot be reserved", hint=f"one of {', '.join(RESERVABLE)}")
        if quantity.parse(amount) < 0:
            raise UserError(f"the reserved {name} is negative")
        found[name] = amount
    return found


def parse_priorities(texts: Iterable[tuple[str, str | float]]) -> tuple[tuple[int, float], ...]:
    """Pairs of a priority and seconds, as they are written in a flag or a file.

    Raises:
        UserError: A priority is no whole number, or the seconds are no number.
    """
    found = []
    for priority, seconds in texts:
        try:
            found.append((int(priority), float(seconds)))
        except ValueError:
            raise UserError(
                f"{priority}={seconds} is no group of a graceful shutdown",
                hint="write priority=seconds, such as 0=20,2000000000=10",
            ) from None
    return tuple(sorted(found))
