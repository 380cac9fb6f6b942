"""The objects of this room as they are on the wire: Node, Lease, CertificateSigningRequest."""

from __future__ import annotations

from typing import Final

import msgspec

from wasmlet.kube.resources import Resource
from wasmlet.kube.types import Leaf, ObjectMeta
from wasmlet.kube.types import Node as Branch

__all__ = [
    "LEASES",
    "LEASE_NAMESPACE",
    "NODES",
    "SIGNING_REQUESTS",
    "ContainerImage",
    "DaemonEndpoint",
    "DaemonEndpoints",
    "Lease",
    "LeaseSpec",
    "NodeAddress",
    "NodeCondition",
    "NodeFeatures",
    "NodeObject",
    "NodeSpec",
    "NodeStatus",
    "NodeSwap",
    "NodeSystemInfo",
    "RuntimeHandler",
    "RuntimeHandlerFeatures",
    "SigningCondition",
    "SigningRequest",
    "SigningRequestSpec",
    "SigningRequestStatus",
    "Taint",
]

# --- Node -------------------------------------------------------------------------------------------------------------


class Taint(Leaf):
    """spec.taints[]; effect NoSchedule, PreferNoSchedule or NoExecute."""

    key: str = ""
    value: str = ""
    effect: str = ""
    time_added: str | None = None

    def __str__(self) -> str:
        """As kubectl takes it: `key=value:Effect`, or `key:Effect`."""
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


class NodeSpec(Branch):
    """v1 NodeSpec."""

    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: list[str] = msgspec.field(default_factory=list, name="podCIDRs")
    provider_id: str = msgspec.field(default="", name="providerID")
    taints: list[Taint] = []
    unschedulable: bool = False


class NodeCondition(Leaf):
    """status.conditions[]."""

    type: str = ""
    status: str = ""
    last_heartbeat_time: str | None = None
    last_transition_time: str | None = None
    reason: str = ""
    message: str = ""


class NodeAddress(Leaf):
    """status.addresses[]; type InternalIP or Hostname."""

    type: str = ""
    address: str = ""


class DaemonEndpoint(Leaf):
    """A port of a daemon; its JSON name has a capital letter."""

    port: int = msgspec.field(default=0, name="Port")


class DaemonEndpoints(Branch):
    """status.daemonEndpoints."""

    kubelet_endpoint: DaemonEndpoint = msgspec.field(default_factory=DaemonEndpoint)


class NodeSwap(Leaf, omit_defaults=False):
    """status.nodeInfo.swap; bytes."""

    capacity: int = 0


class NodeSystemInfo(Branch):
    """status.nodeInfo."""

    machine_id: str = msgspec.field(default="", name="machineID")
    system_uuid: str = msgspec.field(default="", name="systemUUID")
    boot_id: str = msgspec.field(default="", name="bootID")
    kernel_version: str = ""
    os_image: str = ""
    container_runtime_version: str = ""
    kubelet_version: str = ""
    operating_system: str = ""
    architecture: str = ""
    swap: NodeSwap | None = None


class ContainerImage(Branch):
    """status.images[]."""

    names: list[str] | None = None
    size_bytes: int = 0


class RuntimeHandlerFeatures(Leaf):
    """status.runtimeHandlers[].features."""

    recursive_read_only_mounts: bool = False
    user_namespaces: bool = False


class RuntimeHandler(Branch):
    """status.runtimeHandlers[]; the empty name is the default handler."""

    name: str = ""
    features: RuntimeHandlerFeatures | None = None


class NodeFeatures(Leaf, omit_defaults=False):
    """status.features."""

    supplemental_groups_policy: bool = False


class AttachedVolume(Leaf):
    """status.volumesAttached[], written by the attach/detach controller."""

    name: str = ""
    device_path: str = ""


class NodeStatus(Branch):
    """v1 NodeStatus; values of capacity and allocatable are quantities."""

    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}
    conditions: list[NodeCondition] = []
    addresses: list[NodeAddress] = []
    daemon_endpoints: DaemonEndpoints = msgspec.field(default_factory=DaemonEndpoints)
    node_info: NodeSystemInfo = msgspec.field(default_factory=NodeSystemInfo)
    images: list[ContainerImage] = []
    volumes_in_use: list[str] = []
    volumes_attached: list[AttachedVolume] = []
    runtime_handlers: list[RuntimeHandler] = []
    features: NodeFeatures = msgspec.field(default_factory=NodeFeatures)
    declared_features: list[str] = []


class NodeObject(Branch):
    """v1 Node."""

    api_version: str = "v1"
    kind: str = "Node"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)

    def condition(self, kind: str) -> NodeCondition | None:
        """The condition of that type."""
        return next((each for each in self.status.conditions if each.type == kind), None)


# --- Lease ------------------------------------------------------------------------------------------------------------


class LeaseSpec(Leaf):
    """coordination/v1 LeaseSpec; `renew_time` is a MicroTime: six digits of the second, always."""

    holder_identity: str = ""
    lease_duration_seconds: int = 0
    renew_time: str | None = None


class Lease(Branch):
    """coordination/v1 Lease."""

    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: LeaseSpec = msgspec.field(default_factory=LeaseSpec)


# --- CertificateSigningRequest ----------------------------------------------------------------------------------------


class SigningCondition(Leaf):
    """status.conditions[] of a request; type Approved, Denied or Failed."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class SigningRequestSpec(Leaf):
    """spec of a request; `request` is the PEM in base64."""

    request: str = ""
    signer_name: str = ""
    usages: list[str] = []
    expiration_seconds: int | None = None


class SigningRequestStatus(Branch):
    """status of a request; `certificate` is PEM in base64."""

    conditions: list[SigningCondition] | None = None
    certificate: str | None = None


class SigningRequest(Branch):
    """certificates/v1 CertificateSigningRequest."""

    api_version: str = "certificates.k8s.io/v1"
    kind: str = "CertificateSigningRequest"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: SigningRequestSpec = msgspec.field(default_factory=SigningRequestSpec)
    status: SigningRequestStatus = msgspec.field(default_factory=SigningRequestStatus)


LEASE_NAMESPACE: Final = "kube-node-lease"
NODES: Final = Resource(NodeObject, "v1", "nodes", is_namespaced=False)
LEASES: Final = Resource(Lease, "coordination.k8s.io/v1", "leases")
SIGNING_REQUESTS: Final = Resource(
    SigningRequest, "certificates.k8s.io/v1", "certificatesigningrequests", is_namespaced=False
)
