"""What this node takes, and why not: the kubelet's reasons and texts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import pods
from tests.support.pods import container
from wasmlet.kube.types import (
    AppArmorProfile,
    Container,
    ContainerPort,
    ContainerSecurityContext,
    Pod,
    PodOS,
    PodResourceClaim,
    PodSecurityContext,
    ResourceRequirements,
    RestartRule,
    Sysctl,
    Toleration,
)
from wasmlet.pods import requests
from wasmlet.pods.admission import Neighbour, NodeFacts, Refusal, Taint, refuse

NODE = NodeFacts(
    name="n1",
    labels={"kubernetes.io/os": "wasi", "kubernetes.io/arch": "wasm32-wasi"},
    taints=[Taint("kubernetes.io/arch", "wasm32-wasi", "NoSchedule"), Taint("arch", "wasm", "NoExecute")],
    allocatable={"cpu": "2", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "3", "example.com/gpu": "1"},
)
TOLERATIONS = [Toleration(key="arch", operator="Equal", value="wasm", effect="NoExecute")]


def asking(limits: dict[str, str | int | float] | None = None, **requested: str) -> Container:
    names = {name.replace("_", "-"): amount for name, amount in requested.items()}
    return container("main", resources=ResourceRequirements(requests=dict(names), limits=limits or {}))


def listening(*ports: ContainerPort, name: str = "main", **fields: Any) -> Container:
    return container(name, ports=list(ports), **fields)


def pod(*containers: Container, labels: dict[str, str] | None = None, **spec: Any) -> Pod:
    spec.setdefault("tolerations", TOLERATIONS)
    made = pods.pod(*(containers or (container(),)), **spec)
    made.metadata.labels = labels or {}
    return made


def static(made: Pod) -> Pod:
    made.metadata.annotations["kubernetes.io/config.source"] = "file"
    return made


def annotated(made: Pod, **annotations: str) -> Pod:
    made.metadata.annotations |= annotations
    return made


def beside(*others: Pod) -> list[Neighbour]:
    return [Neighbour(each, requests.of_pod(each)) for each in others]


def node(**changes: Any) -> NodeFacts:
    return dataclasses.replace(NODE, **changes)


def test_a_good_pod_is_admitted() -> None:
    assert refuse(pod(asking(cpu="2", memory="1Gi", ephemeral_storage="10Gi")), NODE) is None


def test_a_pod_of_a_terminal_has_to_fit_nothing() -> None:
    assert refuse(pod(asking(cpu="200"), tolerations=[], node_selector={"a": "b"})) is None


def test_what_no_node_could_run_is_refused_without_one_too() -> None:
    refusal = refuse(pod(container("Main")))
    assert refusal == Refusal("Invalid", "container 'Main': its name is no DNS label")


PLAIN = "Node didn't have enough resource: "
PREDICATE = "Predicate {0} failed: node(s) didn't match "
PORT = ContainerPort(container_port=80, host_port=8080)

WRONG: list[tuple[Callable[[], Pod], str, str]] = [
    (lambda: pod(asking(cpu="2001m")), "OutOfcpu", PLAIN + "cpu, requested: 2001, used: 0, capacity: 2000"),
    (
        lambda: pod(asking(memory="2Gi")), "OutOfmemory",
        PLAIN + f"memory, requested: {2 << 30}, used: 0, capacity: {1 << 30}",
    ),
    (
        lambda: pod(asking(ephemeral_storage="11Gi")), "OutOfephemeral-storage",
        PLAIN + f"ephemeral-storage, requested: {11 << 30}, used: 0, capacity: {10 << 30}",
    ),
    (
        lambda: pod(asking({"hugepages-2Mi": "2Mi"})), "OutOfhugepages-2Mi",
        PLAIN + f"hugepages-2Mi, requested: {2 << 20}, used: 0, capacity: 0",
    ),
    (
        lambda: pod(asking({"example.com/gpu": "2"})), "OutOfexample.com/gpu",
        PLAIN + "example.com/gpu, requested: 2, used: 0, capacity: 1",
    ),
    (
        lambda: pod(init_containers=[initial("init", cpu="3")]), "OutOfcpu",
        PLAIN + "cpu, requested: 3000, used: 0, capacity: 2000",
    ),
    (
        lambda: pod(asking(cpu="1"), overhead={"cpu": "1500m"}), "OutOfcpu",
        PLAIN + "cpu, requested: 2500, used: 0, capacity: 2000",
    ),
    (
        lambda: pod(resources=ResourceRequirements(requests={"cpu": "5"})), "OutOfcpu",
        PLAIN + "cpu, requested: 5000, used: 0, capacity: 2000",
    ),
    (
        lambda: pod(node_selector={"kubernetes.io/os": "linux"}), "NodeAffinity",
        PREDICATE.format("NodeAffinity") + "Pod's node affinity/selector",
    ),
    (lambda: pod(node_name="n2"), "NodeName", PREDICATE.format("NodeName") + "the requested node name"),
    (
        lambda: pod(tolerations=[]), "TaintToleration",
        "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
    ),
    (
        lambda: pod(labels={"kubernetes.io/os": "linux"}), "PodOSSelectorNodeLabelDoesNotMatch",
        "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
    ),
    (
        lambda: pod(os=PodOS(name="windows")), "PodOSNotSupported",
        "Failed to admit pod as the OS field doesn't match node OS",
    ),
    (
        lambda: pod(security_context=PodSecurityContext(supplemental_groups_policy="Strict")),
        "SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node",
    ),
    (
        lambda: pod(security_context=PodSecurityContext(sysctls=[Sysctl(name="kernel.msgmax", value="1")])),
        "SysctlForbidden", 'forbidden sysctl: "kernel.msgmax" not allowlisted',
    ),
    (
        lambda: pod(security_context=PodSecurityContext(app_armor_profile=AppArmorProfile(type="RuntimeDefault"))),
        "AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host",
    ),
    (
        lambda: pod(container(security_context=ContainerSecurityContext(
            app_armor_profile=AppArmorProfile(type="Localhost", localhost_profile="p")
        ))),
        "AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host",
    ),
    (
        lambda: annotated(pod(), **{"container.apparmor.security.beta.kubernetes.io/main": "runtime/default"}),
        "AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host",
    ),
    (
        lambda: pod(container(
            restart_policy="Never", restart_policy_rules=[RestartRule(action="RestartAllContainers")]
        )),
        "PodFeatureUnsupported",
        "Pod requires node features that are not available: RestartAllContainersOnContainerExits",
    ),
    (
        lambda: pod(host_network=True, host_users=False), "PodFeatureUnsupported",
        "Pod requires node features that are not available: UserNamespacesHostNetworkSupport",
    ),
    (
        lambda: pod(resource_claims=[PodResourceClaim(name="gpu")]), "UnexpectedAdmissionError",
        'resource claim "gpu" cannot be prepared: this node has no dynamic resource allocation',
    ),
]  # fmt: skip


def initial(name: str, **requested: str) -> Container:
    return container(name, resources=ResourceRequirements(requests=dict(requested)))


@pytest.mark.parametrize(("wrong", "reason", "message"), WRONG, ids=[f"{row[1]}-{i}" for i, row in enumerate(WRONG)])
def test_what_is_refused(wrong: Callable[[], Pod], reason: str, message: str) -> None:
    assert refuse(wrong(), NODE) == Refusal(reason, message)


@pytest.mark.parametrize(
    "right",
    [
        lambda: pod(asking({"unknown.example.com/thing": "5"})),
        lambda: pod(asking({"example.com/gpu": "1"})),
        lambda: pod(os=PodOS(name="linux")),
        lambda: pod(labels={"kubernetes.io/os": "wasi"}),
        lambda: pod(node_name="n1"),
        lambda: pod(security_context=PodSecurityContext(supplemental_groups_policy="Merge")),
        lambda: pod(security_context=PodSecurityContext(app_armor_profile=AppArmorProfile(type="Unconfined"))),
        lambda: annotated(pod(), **{"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}),
        lambda: pod(tolerations=[Toleration(operator="Exists")]),
        lambda: pod(tolerations=[Toleration(key="arch", operator="Exists", effect="NoExecute")]),
        lambda: pod(container(security_context=ContainerSecurityContext(privileged=True))),
        lambda: pod(host_users=False),
        lambda: static(pod(tolerations=[])),
    ],
)
def test_what_is_taken(right: Callable[[], Pod]) -> None:
    assert refuse(right(), NODE) is None


@pytest.mark.parametrize(
    "toleration",
    [
        Toleration(key="arch", operator="Equal", value="other"),
        Toleration(key="other", operator="Exists"),
        Toleration(key="arch", operator="Exists", effect="NoSchedule"),
        Toleration(key="arch", operator="Gt", value="wasm"),
    ],
)
def test_tolerations_of_something_else(toleration: Toleration) -> None:
    refusal = refuse(pod(tolerations=[toleration]), NODE)
    assert refusal is not None
    assert refusal.reason == "TaintToleration"


# --- beside others ----------------------------------------------------------------------------------------------------


def test_what_others_hold_is_not_there_any_more() -> None:
    others = beside(pod(asking(cpu="1200m")), pod(asking(cpu="300m")))
    assert refuse(pod(asking(cpu="500m")), NODE, others) is None
    message = PLAIN + "cpu, requested: 501, used: 1500, capacity: 2000"
    assert refuse(pod(asking(cpu="501m")), NODE, others) == Refusal("OutOfcpu", message)


def test_a_full_node_takes_no_pod_and_an_overfull_one_still_takes_those_that_ask_for_nothing() -> None:
    others = beside(pod(), pod(), pod())
    assert refuse(pod(), NODE, others) == Refusal("OutOfpods", PLAIN + "pods, requested: 1, used: 3, capacity: 3")
    assert refuse(pod(), NODE, beside(pod(asking(cpu="9")))) is None


def test_the_first_reason_of_many() -> None:
    wrong = pod(asking(cpu="9", memory="9Gi"), node_name="n2", tolerations=[], node_selector={"a": "b"})
    found = []
    for where, field, good in (
        (wrong.spec.containers[0], "resources", ResourceRequirements()),
        (wrong.spec, "node_selector", {}),
        (wrong.spec, "node_name", "n1"),
        (wrong.spec, "tolerations", TOLERATIONS),
    ):
        refusal = refuse(wrong, NODE)
        found.append(refusal and refusal.reason)
        setattr(where, field, good)
    assert found == ["OutOfcpu", "NodeAffinity", "NodeName", "TaintToleration"]
    assert refuse(wrong, NODE) is None


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (PORT, PORT, True),
        (PORT, ContainerPort(host_port=8081), False),
        (PORT, ContainerPort(host_port=8080, protocol="UDP"), False),
        (PORT, ContainerPort(host_port=8080, host_ip="127.0.0.1"), True),
        (ContainerPort(host_port=8080, host_ip="127.0.0.1"), PORT, True),
        (ContainerPort(host_port=1, host_ip="127.0.0.1"), ContainerPort(host_port=1, host_ip="127.0.0.2"), False),
        (ContainerPort(container_port=80), ContainerPort(container_port=80), False),
    ],
)
def test_host_ports(one: ContainerPort, other: ContainerPort, clash: bool) -> None:
    refusal = refuse(pod(listening(one)), NODE, beside(pod(listening(other), name="holder")))
    assert (refusal is not None) is clash
    if refusal is not None:
        assert refusal.reason == "NodePorts"
        text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
        assert refusal.message == f"{text}: {one.protocol} {one.host_port} is taken by pod default/holder"


@pytest.mark.parametrize(
    ("containers", "inits", "shares_address", "clash"),
    [
        ([listening(ContainerPort(container_port=80))], [], True, True),
        ([listening(ContainerPort(container_port=80))], [], False, False),
        ([listening(ContainerPort(container_port=81))], [], True, False),
        ([container()], [listening(ContainerPort(container_port=80), name="i")], True, False),
        ([container()], [listening(ContainerPort(container_port=80), name="i", restart_policy="Always")], True, True),
    ],
)
def test_where_pods_have_the_nodes_address_all_their_ports_are_the_nodes(
    containers: list[Container], inits: list[Container], shares_address: bool, clash: bool
) -> None:
    others = beside(pod(listening(ContainerPort(container_port=80))))
    wanted = pod(*containers, init_containers=inits)
    assert (refuse(wanted, node(shares_address=shares_address), others) is not None) is clash


def test_a_pod_on_the_hosts_network_holds_its_ports() -> None:
    others = beside(pod(listening(ContainerPort(container_port=80)), host_network=True))
    refusal = refuse(pod(listening(ContainerPort(container_port=80)), host_network=True), NODE, others)
    assert refusal is not None


# --- pressure, critical pods ------------------------------------------------------------------------------------------

TOLERANT = [*TOLERATIONS, Toleration(key="node.kubernetes.io/memory-pressure", operator="Exists")]


@pytest.mark.parametrize(
    ("pressures", "wanted", "condition"),
    [
        (["MemoryPressure"], lambda: pod(), "[MemoryPressure]"),
        (["MemoryPressure"], lambda: pod(asking(memory="1")), ""),
        (["MemoryPressure"], lambda: pod(asking({"cpu": "1"})), ""),
        (["MemoryPressure"], lambda: pod(tolerations=TOLERANT), ""),
        (["DiskPressure"], lambda: pod(asking(memory="1")), "[DiskPressure]"),
        (["DiskPressure"], lambda: pod(tolerations=TOLERANT), "[DiskPressure]"),
        (["PIDPressure", "MemoryPressure"], lambda: pod(tolerations=TOLERANT), "[MemoryPressure PIDPressure]"),
        (["DiskPressure"], lambda: pod(priority=2_000_000_000), ""),
        (["DiskPressure"], lambda: pod(priority=1_999_999_999), "[DiskPressure]"),
        (["DiskPressure"], lambda: static(pod()), ""),
    ],
)
def test_pressure(pressures: list[str], wanted: Callable[[], Pod], condition: str) -> None:
    expected = Refusal("Evicted", f"The node had condition: {condition}. ") if condition else None
    assert refuse(wanted(), node(pressures=pressures)) == expected
