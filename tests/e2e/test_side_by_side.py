"""wasmlet beside a Linux node, as the announcement has it: one cluster, and each pod on its own kind of node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Wasmlet
from tests.support.cluster import running_cluster
from tests.support.guests import ROOT
from tests.support.linux_node import IMAGE, refusal, running_linux_node
from tests.support.node import Node, running_node
from tests.support.place import Manifest, Place, container, controller, new_place, pod, template
from tests.support.registry import docker_registry

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("side-by-side"),
    pytest.mark.timeout(180),
]

EVERYTHING = [{"operator": "Exists"}]
SELECTOR = {"kubernetes.io/arch": "wasm32-wasi"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """wasmlet as `krustlet`, with a node named `linux` beside it."""
    if reason := refusal():
        pytest.skip(f"NOTHING IS TESTED BESIDE A LINUX NODE: {reason}")
    directory = tmp_path_factory.mktemp("side-by-side")
    for name in ("registry", "work"):
        (directory / name).mkdir()
    with docker_registry(directory / "registry") as registry, running_cluster(directory / "cluster") as cluster:
        with (
            running_linux_node(cluster) as linux,
            running_node(Wasmlet(directory / "state", directory / "work"), cluster, registry.address) as node,
        ):
            for name in ("sleep", "hello"):
                node.image(name)
            node.kubectl("apply", "-f", ROOT / "deploy" / "runtimeclasses.yaml")
            yield node
        assert linux.left_over() == []


@pytest.fixture
def place(node: Node) -> Iterator[Place]:
    with new_place(node) as place:
        yield place


def test_both_nodes_are_ready(node: Node) -> None:
    rows = [line.split() for line in node.kubectl("get", "nodes", "-o", "wide").splitlines()[1:]]
    assert [row[:2] for row in rows] == [["krustlet", "Ready"], ["linux", "Ready"]]
    assert [row[-1].partition("://")[0] for row in rows] == ["wasmlet", "containerd"]
    shown = node.kubectl("get", "nodes", "-L", "kubernetes.io/os", "--no-headers").splitlines()
    assert [line.split()[-1] for line in shown] == ["wasi", "linux"]


def test_each_deployment_lands_on_its_own_kind_of_node(place: Place) -> None:
    wasm = template("wasm", container(place.image("sleep")), tolerations=[], runtimeClassName="wasmlet")
    place.apply(
        controller("Deployment", "wasm", replicas=3, **wasm),
        controller(
            "Deployment", "linux", replicas=3, **template("linux", shell("echo ready; sleep 1000"), tolerations=[])
        ),
    )
    for name in ("wasm", "linux"):
        place.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s")
        assert place.logs(f"deployment/{name}") == "ready\n"
    assert nodes_of(place, "app=wasm") == ["krustlet"] * 3
    assert nodes_of(place, "app=linux") == ["linux"] * 3
    everything = place.logs("--selector=app in (wasm, linux)", "--prefix")
    assert everything.count("ready\n") == 6, "one command, both kinds of nodes"


def test_krustlets_manifests_choose_by_label(place: Place) -> None:
    place.apply(
        pod("chosen", container(place.image("hello")), nodeSelector=SELECTOR),
        pod("plain", shell("echo plain"), tolerations=[]),
    )
    place.wait(".status.phase=Succeeded", "pod/chosen", "pod/plain")
    assert {each["metadata"]["name"]: each["spec"]["nodeName"] for each in place.pods()} == {
        "chosen": "krustlet", "plain": "linux",
    }  # fmt: skip
    assert (place.logs("chosen"), place.logs("plain")) == ("hello\n", "plain\n")


def test_a_linux_daemon_set_stays_off_wasmlet(place: Place) -> None:
    """As kube-proxy: it tolerates everything, and selects Linux. A DaemonSet of Wasm pods is the other way round.

    It has to say so itself: the controller chooses nodes by the template, to which a RuntimeClass adds nothing.
    """
    proxy = template(
        "proxy",
        shell("sleep 1000"),
        tolerations=EVERYTHING,
        nodeSelector={"kubernetes.io/os": "linux"},
        hostNetwork=True,
    )
    agent = template("agent", container(place.image("sleep")), nodeSelector=SELECTOR)
    place.apply(controller("DaemonSet", "proxy", **proxy), controller("DaemonSet", "agent", **agent))
    for name, expected in (("proxy", "linux"), ("agent", "krustlet")):
        place.kubectl("rollout", "status", f"daemonset/{name}", "--timeout=60s")
        assert nodes_of(place, f"app={name}") == [expected]
        assert place.get(f"daemonset/{name}")["status"]["desiredNumberScheduled"] == 1


def test_no_kind_of_node_stands_in_for_the_other(place: Place) -> None:
    place.kubectl("cordon", "linux")
    try:
        place.apply(
            pod("waiting", shell("echo late"), tolerations=[]),
            pod("running", container(place.image("hello")), tolerations=[], runtimeClassName="wasmlet"),
        )
        place.wait(".status.phase=Succeeded", "pod/running")
        place.wait("PodScheduled=False", "pod/waiting")
    finally:
        place.kubectl("uncordon", "linux")
    place.wait(".status.phase=Succeeded", "pod/waiting")
    assert place.get("pod/waiting")["spec"]["nodeName"] == "linux"


def shell(script: str) -> Manifest:
    """A container of the Linux node's image."""
    return {"name": "main", "image": IMAGE, "command": ["/bin/busybox", "sh", "-c", script]}


def nodes_of(place: Place, selector: str) -> list[Any]:
    return [each["spec"]["nodeName"] for each in place.pods(selector)]
