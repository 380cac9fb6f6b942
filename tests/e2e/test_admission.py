"""Pods that a node of a real cluster does not run: reason, message and event, and the way out.

A pod that does not tolerate the node's NoExecute taint is not here: the control plane deletes it while it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.linux_images import push_linux_image
from tests.support.node import Node, node_of_its_own
from tests.support.waiting import eventually_now
from wasmlet.base import quantity

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
TOLERATIONS = [{"key": "kubernetes.io/arch", "operator": "Exists"}]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node in one cluster for all tests here, with images of `sleep`, `env` and `hello`."""
    with node_of_its_own(tmp_path_factory.mktemp("admission"), "sleep", "env", "hello") as made:
        yield made


def image(node: Node, name: str) -> str:
    return f"{node.images}/{name}:1"


def pod(node: Node, name: str, program: str = "sleep", **changes: Any) -> dict[str, Any]:
    """A pod bound to the node, so that no scheduler keeps it away."""
    container = {"name": "main", "image": image(node, program)} | changes.pop("container", {})
    metadata = {"name": name, "namespace": "default"} | changes.pop("metadata", {})
    spec = {"nodeName": "krustlet", "tolerations": TOLERATIONS, "containers": [container], "restartPolicy": "Never"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec | changes}


def apply(node: Node, *documents: dict[str, Any]) -> None:
    content = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
    node.kubectl("apply", "-f", "-", stdin=json.dumps(content).encode())


def get(node: Node, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.kubectl("get", *arguments, "-o", "json"))
    return found


def events(node: Node, name: str) -> list[tuple[str, str, str]]:
    """Type, reason and message of each event about a pod."""
    items = get(node, "events", "--field-selector", f"involvedObject.name={name}")["items"]
    return [(each["type"], each["reason"], each["message"]) for each in items]


def until_event(node: Node, name: str, reason: str, text: str) -> None:
    def told() -> bool:
        return any(each[0] == "Warning" and each[1] == reason and text in each[2] for each in events(node, name))

    eventually_now(told, f"event {reason} of {name}", seconds=40)


def until_waiting(node: Node, name: str, reason: str) -> str:
    """The message of the first container's waiting state, once it has that reason."""

    def found() -> tuple[str] | None:
        for status in get(node, "pod", name)["status"].get("containerStatuses", []):
            waiting = status["state"].get("waiting", {})
            if waiting.get("reason") == reason:
                return (waiting.get("message", ""),)
        return None

    return eventually_now(found, f"{name} waits with {reason}", seconds=40)[0]


def remove(node: Node, *names: str) -> None:
    node.kubectl("delete", "pod", *names, "--grace-period=1", "--timeout=40s")


def requests(cpu: str) -> dict[str, Any]:
    return {"resources": {"requests": {"cpu": cpu}}}


REJECTED: list[tuple[str, Callable[[Node], dict[str, Any]], str]] = [
    ("OutOfcpu", lambda node: pod(node, "p", container=requests("1000")), "requested: 1000000, used: 0, capacity: "),
    ("OutOfcpu", lambda node: pod(node, "p", resources={"requests": {"cpu": "1k"}, "limits": {"cpu": "1k"}}), "cpu"),
    ("OutOfmemory", lambda node: pod(node, "p", initContainers=[
        {"name": "i", "image": image(node, "hello"), "resources": {"requests": {"memory": "1Ti"}}},
    ]), f"requested: {1 << 40}"),
    ("NodeAffinity", lambda node: pod(node, "p", nodeSelector={"kubernetes.io/os": "linux"}), "affinity/selector"),
    ("PodOSNotSupported", lambda node: pod(node, "p", os={"name": "windows"}), "doesn't match node OS"),
    ("PodOSSelectorNodeLabelDoesNotMatch", lambda node: pod(
        node, "p", metadata={"labels": {"kubernetes.io/os": "linux"}}
    ), "doesn't match node label"),
    ("SysctlForbidden", lambda node: pod(node, "p", securityContext={
        "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]
    }), "kernel.shm_rmid_forced"),
    ("AppArmor", lambda node: pod(node, "p", securityContext={"appArmorProfile": {"type": "RuntimeDefault"}}),
     "Cannot enforce AppArmor"),
    ("SupplementalGroupsPolicyNotSupported", lambda node: pod(
        node, "p", securityContext={"supplementalGroupsPolicy": "Strict"}
    ), "SupplementalGroupsPolicy=Strict"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "wrong", "text"), REJECTED, ids=[f"{row[0]}-{number}" for number, row in enumerate(REJECTED)]
)
def test_a_pod_that_does_not_fit_has_failed(
    node: Node, reason: str, wrong: Callable[[Node], dict[str, Any]], text: str
) -> None:
    apply(node, wrong(node))
    try:
        node.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/p", "--timeout=40s")
        status = get(node, "pod", "p")["status"]
        assert status["reason"] == reason
        assert status["message"].startswith("Pod was rejected: ")
        assert text in status["message"]
        assert status["startTime"]
        assert "containerStatuses" not in status
        assert status["qosClass"]
        until_event(node, "p", reason, text)
    finally:
        remove(node, "p")


def test_cpu_that_another_pod_holds_and_a_restart_that_changes_nothing(node: Node) -> None:
    cores = int(get(node, "node", "krustlet")["status"]["capacity"]["cpu"])
    held = f"{cores * 1000 - 400}m"
    apply(node, pod(node, "holder", container=requests(held)))
    node.kubectl("wait", "--for=condition=Ready", "pod/holder", "--timeout=40s")
    identity = get(node, "pod", "holder")["status"]["containerStatuses"][0]["containerID"]
    apply(node, pod(node, "late", container=requests("500m")))
    node.kubectl("wait", "--for=jsonpath={.status.reason}=OutOfcpu", "pod/late", "--timeout=40s")
    assert "requested: 500, used: " in get(node, "pod", "late")["status"]["message"]
    # A taint comes, the agent dies: what runs is not asked again.
    node.kubectl("taint", "node", "krustlet", "later=yes:NoSchedule")
    node.kill()
    node.start()
    after = get(node, "pod", "holder")["status"]
    assert (after["phase"], after["containerStatuses"][0]["containerID"]) == ("Running", identity)
    node.kubectl("taint", "node", "krustlet", "later-")
    remove(node, "holder", "late")
    apply(node, pod(node, "after", container=requests("500m")))
    node.kubectl("wait", "--for=condition=Ready", "pod/after", "--timeout=40s")
    remove(node, "after")


def test_ports_of_the_node_are_held_by_one_pod(node: Node) -> None:
    ports = {"ports": [{"containerPort": 80, "hostPort": 28080}]}
    apply(node, pod(node, "first", container=ports))
    node.kubectl("wait", "--for=condition=Ready", "pod/first", "--timeout=40s")
    apply(node, pod(node, "second", container=ports))
    node.kubectl("wait", "--for=jsonpath={.status.reason}=NodePorts", "pod/second", "--timeout=40s")
    until_event(node, "second", "NodePorts", "TCP 28080 is taken by pod default/first")
    remove(node, "first", "second")


def test_configuration_that_never_came_comes(node: Node) -> None:
    env = [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "x"}}}]
    volumes = [{"name": "v", "secret": {"secretName": "later"}}]
    apply(node, pod(node, "env", container={"env": env}), pod(node, "mount", volumes=volumes))
    assert until_waiting(node, "env", "CreateContainerConfigError") == 'configmap "later" not found'
    until_event(node, "env", "Failed", 'Error: configmap "later" not found')
    until_event(node, "mount", "FailedMount", 'MountVolume.SetUp failed for volume "v" : secret "later" not found')
    assert until_waiting(node, "mount", "ContainerCreating")
    node.kubectl("create", "configmap", "later", "--from-literal=y=1")
    eventually_now(
        lambda: until_waiting(node, "env", "CreateContainerConfigError").startswith("couldn't find key x in ConfigMap"),
        "the key is missed", seconds=40,
    )  # fmt: skip
    node.kubectl("patch", "configmap", "later", "-p", '{"data":{"x":"2"}}')
    node.kubectl("create", "secret", "generic", "later", "--from-literal=a=b")
    node.kubectl("wait", "--for=condition=Ready", "pod/env", "pod/mount", "--timeout=40s")
    remove(node, "env", "mount")


def test_a_linux_image_waits_and_says_what_to_do(node: Node) -> None:
    reference = push_linux_image(node.images, "linux")
    apply(node, pod(node, "linux", container={"image": reference}))
    message = until_waiting(node, "linux", "CreateContainerError")
    assert message.startswith(f"image {reference} cannot run here: it is a Linux container image (linux/amd64)")
    assert "nodeSelector kubernetes.io/os: linux" in message
    until_event(node, "linux", "Failed", f"Error: image {reference} cannot run here")
    failed = [each for each in events(node, "linux") if each[1] == "Failed"]
    assert len(failed) == 1, "the next try is minutes away"
    assert get(node, "pod", "linux")["status"]["phase"] == "Pending"
    remove(node, "linux")


def test_runtime_classes(node: Node) -> None:
    node.kubectl("apply", "-f", ROOT / "deploy" / "runtimeclasses.yaml")
    kata = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "kata"}, "handler": "kata",
            "overhead": {"podFixed": {"cpu": "1k"}}}  # fmt: skip
    other = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "other"}, "handler": "kata"}
    apply(node, kata, other)
    names = {each.get("name", "") for each in get(node, "node", "krustlet")["status"]["runtimeHandlers"]}
    assert names == {"", "wasmlet", "wasmlet-isolated"}
    apply(
        node,
        pod(node, "shared", runtimeClassName="wasmlet"),
        pod(node, "isolated", runtimeClassName="wasmlet-isolated"),
        pod(node, "unknown", runtimeClassName="other"),
        pod(node, "heavy", runtimeClassName="kata"),
    )
    node.kubectl("wait", "--for=condition=Ready", "pod/shared", "pod/isolated", "--timeout=40s")
    uid = get(node, "pod", "isolated")["metadata"]["uid"]
    engines = [json.loads(each.read_text()) for each in (node.wasmlet.state / "engines").glob("*/engine.json")]
    assert sum(each["key"].get("dedicated") == uid for each in engines) == 1
    until_event(node, "unknown", "FailedCreatePodSandBox", 'no runtime for "kata" is configured')
    assert get(node, "pod", "unknown")["status"]["phase"] == "Pending"
    node.kubectl("wait", "--for=jsonpath={.status.reason}=OutOfcpu", "pod/heavy", "--timeout=40s")
    node.kubectl("delete", "runtimeclass", "other")
    until_event(node, "unknown", "FailedCreatePodSandBox", 'runtimeclass.node.k8s.io "other" not found')
    remove(node, "shared", "isolated", "unknown", "heavy")


def test_a_missing_limit_is_the_nodes_allocatable(node: Node) -> None:
    fields = {"CPU": ("limits.cpu", "1m"), "MEMORY": ("limits.memory", "1"), "DISK": ("limits.ephemeral-storage", "1")}
    env = [
        {"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}}
        for name, (resource, divisor) in fields.items()
    ]
    apply(node, pod(node, "limits", "env", container={"env": env}))
    node.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/limits", "--timeout=40s")
    told = dict(line.split("=", 1) for line in node.kubectl("logs", "limits").splitlines() if "=" in line)
    allocatable = get(node, "node", "krustlet")["status"]["allocatable"]
    assert int(told["CPU"]) == quantity.ceil_divided(allocatable["cpu"], "1m")
    assert int(told["MEMORY"]) == 1024 * int(allocatable["memory"].removesuffix("Ki"))
    assert told["DISK"] == allocatable["ephemeral-storage"]
    remove(node, "limits")


def test_the_agent_has_lived_through_all_of_it(node: Node) -> None:
    assert node.process is not None
    assert node.process.poll() is None
    eventually_now(lambda: not list((node.wasmlet.state / "pods").iterdir()), "no files of pods that are gone")
    log = node.log.read_text()
    assert "Traceback" not in log
    assert "worker failed" not in log
