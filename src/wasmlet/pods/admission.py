"""Whether this node takes a pod: pure (kubelet-contract section 3).

The checks are the kubelet's, in its order; the first refusal decides. A verdict is saved, so nothing here ever looks at
a pod again that was admitted, whatever becomes of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from wasmlet.kube.types import AppArmorProfile, Container, Pod, Toleration
from wasmlet.pods import affinity, requests, validation
from wasmlet.pods.quality import BEST_EFFORT, qos_class
from wasmlet.pods.requests import Amounts

__all__ = [
    "NODE_AFFINITY",
    "Neighbour",
    "NodeFacts",
    "Refusal",
    "Shortage",
    "Taint",
    "is_critical",
    "is_static",
    "refuse",
    "shortages",
]

CRITICAL_PRIORITY = 2_000_000_000
"""From here on a pod is critical (scheduling.SystemCriticalPriority)."""

SOURCE_ANNOTATION = "kubernetes.io/config.source"
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
APP_ARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
OS_LABEL = "kubernetes.io/os"
MEMORY_PRESSURE = "MemoryPressure"
MEMORY_PRESSURE_TAINT = "node.kubernetes.io/memory-pressure"
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104  # what an empty hostIP means; nothing is bound here

NODE_AFFINITY = "NodeAffinity"
"""The one refusal that is asked again with a Node read just now: its labels may be older than the pod."""


@dataclass(frozen=True)
class Refusal:
    """Why a pod is not taken; final (its phase becomes Failed).

    Attributes:
        message: What the event says.
    """

    reason: str
    message: str

    @property
    def status_message(self) -> str:
        """What the pod's status says; a shutdown's text has the beginning already (contract 1.5)."""
        begins = self.message.startswith("Pod was rejected")
        return self.message if begins else f"Pod was rejected: {self.message}"


@dataclass(frozen=True)
class Taint:
    """spec.taints[] of the node."""

    key: str
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What admission looks at of the node, as the cluster has it.

    Attributes:
        allocatable: Quantities by resource.
        operating_system: nodeInfo.operatingSystem.
        pressures: Types of the conditions that hold, such as `DiskPressure`.
        has_supplemental_groups_policy: status.features.supplementalGroupsPolicy.
        shares_address: Pods have the node's own address (mode `host`), so that each of their ports is one of the node.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Taint] = ()
    allocatable: Mapping[str, str] = field(default_factory=dict)
    operating_system: str = "linux"
    pressures: Sequence[str] = ()
    declared_features: Sequence[str] = ()
    has_supplemental_groups_policy: bool = False
    shares_address: bool = False


@dataclass(frozen=True)
class Neighbour:
    """Another pod that the node has admitted and that has not ended yet."""

    pod: Pod
    requests: Amounts


def refuse(pod: Pod, node: NodeFacts | None = None, neighbours: Sequence[Neighbour] = ()) -> Refusal | None:
    """The first reason to refuse `pod`, or None when it is admitted.

    Args:
        node: None for a pod that no cluster sent here: it may use what it finds.
    """
    if problem := validation.problem_of(pod):
        return Refusal("Invalid", problem)
    if node is None:
        return None
    found = (check(pod, node, neighbours) for check in _CHECKS)
    return next((refusal for refusal in found if refusal is not None), None)


def is_static(pod: Pod) -> bool:
    """Whether it comes from a file or URL of this node."""
    return pod.metadata.annotations.get(SOURCE_ANNOTATION, "api") != "api"


def is_critical(pod: Pod) -> bool:
    """Whether the machine needs it: pressures and shortages do not keep it away."""
    return (
        is_static(pod) or MIRROR_ANNOTATION in pod.metadata.annotations or (pod.spec.priority or 0) >= CRITICAL_PRIORITY
    )


# --- eviction, sysctls, devices ---------------------------------------------------------------------------------------


def _pressure(pod: Pod, node: NodeFacts, _neighbours: Sequence[Neighbour]) -> Refusal | None:
    """Under memory pressure a pod without requests stays away, under any other all but critical ones (contract 10)."""
    if not node.pressures or is_critical(pod):
        return None
    if list(node.pressures) == [MEMORY_PRESSURE]:
        taint = Taint(MEMORY_PRESSURE_TAINT, effect="NoSchedule")
        if qos_class(pod) != BEST_EFFORT or _is_tolerated(taint, pod.spec.tolerations):
            return None
    return Refusal("Evicted", f"The node had condition: [{' '.join(sorted(node.pressures))}]. ")


def _sysctls(pod: Pod, _node: NodeFacts, _neighbours: Sequence[Neighbour]) -> Refusal | None:
    """No kernel stands behind a guest, so no sysctl of it can be set: the list of allowed ones is empty."""
    context = pod.spec.security_context
    if context is None or not context.sysctls:
        return None
    return Refusal("SysctlForbidden", f'forbidden sysctl: "{context.sysctls[0].name}" not allowlisted')


def _devices(pod: Pod, _node: NodeFacts, _neighbours: Sequence[Neighbour]) -> Refusal | None:
    """Devices by claim: a pod must not start without them (contract 11)."""
    if not pod.spec.resource_claims:
        return None
    name = pod.spec.resource_claims[0].name
    message = f'resource claim "{name}" cannot be prepared: this node has no dynamic resource allocation'
    return Refusal("UnexpectedAdmissionError", message)


# --- general predicates -----------------------------------------------------------------------------------------------


def _operating_system(pod: Pod, node: NodeFacts, _neighbours: Sequence[Neighbour]) -> Refusal | None:
    label = pod.metadata.labels.get(OS_LABEL)
    if label is not None and label != node.labels.get(OS_LABEL):
        message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"
        return Refusal("PodOSSelectorNodeLabelDoesNotMatch", message)
    if pod.spec.os is not None and pod.spec.os.name != node.operating_system:
        return Refusal("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    return None


def _groups(pod: Pod, node: NodeFacts, _neighbours: Sequence[Neighbour]) -> Refusal | None:
    context = pod.spec.security_context
    if context is None or context.supplemental_groups_policy != "Strict" or node.has_supplemental_groups_policy:
        return None
    message = "SupplementalGroupsPolicy=Strict is not supported in this node"
    return Refusal("SupplementalGroupsPolicyNotSupported", message)


def _predicates(pod: Pod, node: NodeFacts, neighbours: Sequence[Neighbour]) -> Refusal | None:
    """Resources first, but for a critical pod last: it may take them from others."""
    shortage = next(shortages(pod, node, neighbours), None)
    if shortage is not None and not is_critical(pod):
        return shortage.refusal
    if not affinity.wants(pod, name=node.name, labels=node.labels):
        return _failed(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector")
    if pod.spec.node_name not in ("", node.name):
        return _failed("NodeName", "node(s) didn't match the requested node name")
    if taken := _taken_port(pod, node, neighbours):
        return _failed("NodePorts", f"node(s) didn't have free ports for the requested pod ports: {taken}")
    if not is_static(pod) and any(
        taint.effect == "NoExecute" and not _is_tolerated(taint, pod.spec.tolerations) for taint in node.taints
    ):
        return _failed("TaintToleration", "node(s) had taints that the pod didn't tolerate")
    return None if shortage is None else shortage.refusal


def _failed(predicate: str, text: str) -> Refusal:
    return Refusal(predicate, f"Predicate {predicate} failed: {text}")


@dataclass(frozen=True)
class Shortage:
    """A resource that does not suffice; in the units of requests."""

    resource: str
    requested: int
    used: int
    capacity: int

    @property
    def missing(self) -> int:
        """How much others would have to give."""
        return self.requested - (self.capacity - self.used)

    @property
    def refusal(self) -> Refusal:
        """What it means for the pod."""
        message = f"Node didn't have enough resource: {self.resource}, requested: {self.requested}, used: {self.used}"
        return Refusal(f"OutOf{self.resource}", f"{message}, capacity: {self.capacity}")


def shortages(pod: Pod, node: NodeFacts, neighbours: Sequence[Neighbour]) -> Iterator[Shortage]:
    """Every resource that does not suffice, in the scheduler's order."""
    allocatable = requests.amounts_of(node.allocatable)
    if len(neighbours) + 1 > (capacity := allocatable.get("pods", 0)):
        yield Shortage("pods", 1, len(neighbours), capacity)
    if not (wanted := requests.of_pod(pod)):
        return
    used = requests.total(each.requests for each in neighbours)
    plain = [name for name in ("cpu", "memory", "ephemeral-storage") if name in wanted]
    for name in [*plain, *sorted(set(wanted) - set(plain))]:
        if _is_extended(name) and name not in allocatable:
            continue  # of the cluster, not of a node
        if wanted[name] > 0 and wanted[name] > allocatable.get(name, 0) - used.get(name, 0):
            yield Shortage(name, wanted[name], used.get(name, 0), allocatable.get(name, 0))


def _is_extended(name: str) -> bool:
    """A resource of somebody's own domain, such as a device plugin's."""
    return "/" in name and "kubernetes.io/" not in name


def _is_tolerated(taint: Taint, tolerations: Sequence[Toleration]) -> bool:
    return any(
        each.effect in ("", taint.effect)
        and each.key in ("", taint.key)
        and (each.operator == "Exists" or (each.operator in ("", "Equal") and each.value == taint.value))
        for each in tolerations
    )


# --- ports ------------------------------------------------------------------------------------------------------------

_Port = tuple[str, str, int]
"""Address, protocol, number."""


def _taken_port(pod: Pod, node: NodeFacts, neighbours: Sequence[Neighbour]) -> str:
    """The first port of the pod that another one holds, and who; "" when all are free."""
    wanted = list(_ports_of_node(pod, shares_address=node.shares_address))
    if not wanted:
        return ""
    for neighbour in neighbours:
        held = list(_ports_of_node(neighbour.pod, shares_address=node.shares_address))
        for port in wanted:
            if any(_clash(port, each) for each in held):
                meta = neighbour.pod.metadata
                return f"{port[1]} {port[2]} is taken by pod {meta.namespace}/{meta.name}"
    return ""


def _ports_of_node(pod: Pod, *, shares_address: bool) -> Iterator[_Port]:
    """Host ports; where pods have the node's address, every port of theirs. Init containers that end have none."""
    sidecars = (each for each in pod.spec.init_containers if each.restart_policy == "Always")
    for container in (*sidecars, *pod.spec.containers):
        for port in container.ports:
            number = port.host_port or (port.container_port if shares_address or pod.spec.host_network else 0)
            if number > 0:
                yield port.host_ip or ALL_ADDRESSES, port.protocol or "TCP", number


def _clash(one: _Port, other: _Port) -> bool:
    return one[1:] == other[1:] and (one[0] == other[0] or ALL_ADDRESSES in (one[0], other[0]))


# --- AppArmor, features -----------------------------------------------------------------------------------------------


def _app_armor(pod: Pod, _node: NodeFacts, _neighbours: Sequence[Neighbour]) -> Refusal | None:
    """No kernel confines a guest; its sandbox does, and knows no profiles."""
    contexts = [each.security_context for each in _all_containers(pod)]
    profiles = [each.app_armor_profile for each in (pod.spec.security_context, *contexts) if each is not None]
    annotated = [
        AppArmorProfile(type="Unconfined" if value == "unconfined" else "Localhost")
        for key, value in pod.metadata.annotations.items()
        if key.startswith(APP_ARMOR_ANNOTATION)
    ]
    if any(each is not None and each.type != "Unconfined" for each in (*profiles, *annotated)):
        return Refusal("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")
    return None


def _all_containers(pod: Pod) -> list[Container]:
    return [*pod.spec.init_containers, *pod.spec.containers, *pod.spec.ephemeral_containers]


def _features(pod: Pod, node: NodeFacts, _neighbours: Sequence[Neighbour]) -> Refusal | None:
    """What a pod needs of a node's declared features (contract 1.3)."""
    missing = sorted(set(_needed_features(pod)) - set(node.declared_features))
    if not missing:
        return None
    message = f"Pod requires node features that are not available: {', '.join(missing)}"
    return Refusal("PodFeatureUnsupported", message)


def _needed_features(pod: Pod) -> Iterator[str]:
    containers = (*pod.spec.init_containers, *pod.spec.containers)
    if any(rule.action == "RestartAllContainers" for each in containers for rule in each.restart_policy_rules):
        yield "RestartAllContainersOnContainerExits"
    if pod.spec.host_network and pod.spec.host_users is False:
        yield "UserNamespacesHostNetworkSupport"


_CHECKS: tuple[Callable[[Pod, NodeFacts, Sequence[Neighbour]], Refusal | None], ...] = (
    _pressure,
    _sysctls,
    _devices,
    _operating_system,
    _groups,
    _predicates,
    _app_armor,
    _features,
)
"""In the order of the contract; a shutdown of the node comes last and is `Rooms.refuse`."""
