"""Pods with addresses of their node's podCIDR: two nodes of one real cluster, on this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Wasmlet
from tests.support.cluster import Cluster, running_cluster
from tests.support.disks import passable_directory
from tests.support.guests import guest, http_guest
from tests.support.networks import ask, forget, listening, needs_root
from tests.support.node import Node
from tests.support.processes import end_all
from tests.support.registry import docker_registry
from tests.support.waiting import eventually_now
from wasmlet.base.errors import WasmletError
from wasmlet.sandbox.namespace import Namespace

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("devcluster"),
    pytest.mark.timeout(180, func_only=True),
    needs_root,
]

ROOT = Path(__file__).resolve().parents[2]
TRAFFIC_GUEST = ROOT / "tests" / "traffic-guest" / "traffic-guest.wasm"
ECHO_GUEST = ROOT / "demos" / "tcp-echo" / "tcp-echo.wasm"

UNAVAILABLE = "node.kubernetes.io/network-unavailable"

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: { name: NAME }
spec:
  replicas: 3
  selector: { matchLabels: { app: NAME } }
  template:
    metadata: { labels: { app: NAME } }
    spec:
      nodeName: NODE
      tolerations: [{ key: kubernetes.io/arch, operator: Exists }]
      containers:
        - name: sleep
          image: "IMAGE"
          readinessProbe: { tcpSocket: { port: 80 }, periodSeconds: 1 }
"""

ON_HOST = """
apiVersion: v1
kind: Pod
metadata: { name: on-host }
spec:
  nodeName: NODE
  hostNetwork: true
  tolerations: [{ key: kubernetes.io/arch, operator: Exists }]
  containers: [{ name: sleep, image: "IMAGE" }]
"""

SERVER = """
apiVersion: v1
kind: Pod
metadata: { name: server }
spec:
  nodeName: NODE
  tolerations: [{ key: kubernetes.io/arch, operator: Exists }]
  containers:
    - name: http
      image: "IMAGE"
      ports: [{ containerPort: 80 }]
      readinessProbe: { httpGet: { path: /count, port: 80 }, periodSeconds: 1 }
"""

CALLER = """
apiVersion: v1
kind: Pod
metadata: { name: NAME }
spec:
  nodeName: NODE
  restartPolicy: Never
  tolerations: [{ key: kubernetes.io/arch, operator: Exists }]
  containers:
    - name: guest
      image: "IMAGE"
      args: ARGS
      ports: [{ containerPort: 7000 }]
"""


class NetworkNode(Node):
    """One of two nodes of this machine whose pods have addresses of their own."""

    def __init__(self, cluster: Cluster, directory: Path, name: str) -> None:
        directory.mkdir()
        super().__init__(Wasmlet(directory / "state", directory), cluster, name=name, flags=())

    def wait(self) -> None:
        eventually_now(lambda: self.condition("NetworkUnavailable")["status"] == "False", self, seconds=40)
        eventually_now(lambda: self.condition("Ready")["status"] == "True", self, seconds=40)
        eventually_now(lambda: UNAVAILABLE not in self.taints(), self, seconds=40)

    def clean(self) -> None:
        """Whatever happened: no process, namespace or table is left."""
        self.kill()
        end_all(self.wasmlet.state)
        with contextlib.suppress(WasmletError):
            self.namespace.remove()
        forget(self.namespace.name)

    def taints(self) -> set[str]:
        return {each["key"] for each in (self.get("node", self.name) or {}).get("spec", {}).get("taints", [])}

    @property
    def range(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        return ipaddress.ip_network(self.get("node", self.name)["spec"]["podCIDR"])

    @property
    def namespace(self) -> Namespace:
        return Namespace(self.wasmlet.state, node=self.name)

    def running(self) -> dict[str, dict[str, Any]]:
        """The node's running pods, by name."""
        items = self.items("pods", "--field-selector", f"spec.nodeName={self.name}")
        return {each["metadata"]["name"]: each for each in items if each["status"]["phase"] == "Running"}

    def deploy(self, image: str) -> list[str]:
        """Three pods; their addresses."""
        manifest = DEPLOYMENT.replace("NAME", f"on-{self.name}").replace("NODE", self.name).replace("IMAGE", image)
        self.cluster.kubectl("apply", "-f", "-", stdin=manifest.encode())
        eventually_now(lambda: len(self.running()) == 3, self, seconds=30)
        return [each["status"]["podIP"] for each in self.running().values()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose range no other test's cluster on this machine has.

    The machine's forwarding stays on, as after `wasmlet leave`: another test may rely on it at the same time.
    """
    cidr = f"10.{128 + os.getpid() % 100}.0.0/16"
    with running_cluster(tmp_path_factory.mktemp("cluster"), cluster_cidr=cidr) as made:
        yield made


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[tuple[NetworkNode, NetworkNode]]:
    made: list[NetworkNode] = []
    with passable_directory() as parent:
        try:
            for number in (1, 2):
                made.append(NetworkNode(cluster, parent / f"n{number}", f"wasm-{number}"))
                made[-1].launch()
            for each in made:
                each.wait()
            yield made[0], made[1]
        finally:
            for each in made:
                each.clean()


def test_two_nodes_give_their_pods_addresses_that_stay(nodes: tuple[NetworkNode, NetworkNode], tmp_path: Path) -> None:
    first, second = nodes
    assert not first.range.overlaps(second.range)
    assert first.namespace.path != second.namespace.path
    assert first.namespace.path.exists()
    assert second.namespace.path.exists()
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as registry:
        image = f"{registry.address}/sleep:1"
        first.wasmlet("push", guest("sleep"), image)
        addresses = first.deploy(image)
        others = second.deploy(image)
        for node, its in ((first, addresses), (second, others)):
            assert len(set(its)) == 3
            assert all(ipaddress.ip_address(each) in node.range for each in its)
        http = f"{registry.address}/http:1"
        second.wasmlet("push", http_guest(), http)
        _a_server_is_asked(second, http)
        _guests_call_each_other(first, second, registry.address)
        _probes_and_neighbours_reach(first, second, addresses[0], others[0])
        _agents_death_changes_nothing(first)
        _the_hosts_network(first, image)
    _leaving(first)


def _a_server_is_asked(node: NetworkNode, image: str) -> None:
    """On the port of its own address, probes included; its agent's death is none of its callers' business."""
    node.cluster.kubectl("apply", "-f", "-", stdin=SERVER.replace("NODE", node.name).replace("IMAGE", image).encode())
    node.cluster.kubectl("wait", "--for=condition=Ready", "pod/server", "--timeout=40s")
    url = f"http://{node.running()['server']['status']['podIP']}/echo"
    assert _answer(url) == b"hello"
    node.kill()
    assert _answer(url) == b"hello"
    node.launch()
    node.wait()
    assert _answer(url) == b"hello"
    assert node.running()["server"]["status"]["containerStatuses"][0]["restartCount"] == 0
    node.cluster.kubectl("delete", "pod", "server", "--timeout=40s")


def _answer(url: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data=b"hello"), timeout=10) as answer:
        content: bytes = answer.read()
    return content


def _guests_call_each_other(first: NetworkNode, second: NetworkNode, registry: str) -> None:
    """By HTTP and by sockets, on one node and between two; each with its own address and a localhost of its own."""
    traffic, echo = f"{registry}/traffic:1", f"{registry}/echo:1"
    first.wasmlet("push", TRAFFIC_GUEST, traffic)
    first.wasmlet("push", ECHO_GUEST, echo)
    here, there, server = (
        _call(node, name, image, args)
        for node, name, image, args in (
            (first, "here", traffic, []),
            (second, "there", traffic, []),
            (second, "echo", echo, ["serve", "7000"]),
        )
    )
    for address, other in ((here, there), (there, here)):
        assert _text(address, f"/fetch?GET,http://{other}:7000/") == "200\nready\n"
        local, remote, said = eventually_now(lambda: _connected(address, server), second, seconds=20)  # noqa: B023
        assert (local.rpartition(":")[0], remote, said) == (f"local {address}", f"remote {server}:7000", "ping")
    asked = _call(first, "asks", echo, ["ask", server, "7000", "good", "night"])
    assert asked != server
    first.cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/asks", "--timeout=30s")
    assert first.cluster.kubectl("logs", "asks").stdout == b"good\nnight\n"
    with ThreadPoolExecutor() as threads:
        listens = threads.submit(_text, here, "/listen?127.0.0.1:8081")
        receives = threads.submit(_text, here, "/receive?0.0.0.0:8082")
        eventually_now(lambda: "refused" not in _text(there, f"/connect?{here}:8081"), first, seconds=20)
        assert "pong" not in _text(there, f"/connect?{here}:8081")
        assert _text(here, "/connect?127.0.0.1:8081").endswith("remote 127.0.0.1:8081\npong\n")
        heard = listens.result(timeout=20)
        assert heard.startswith("listening 127.0.0.1:8081\nlocal 127.0.0.1:8081\nremote 127.0.0.1:"), heard
        assert _text(there, f"/send?{here}:8082,0.0.0.0:0").endswith(f"pong from {here}:8082\n")
        assert f"ping from {there}:" in receives.result(timeout=20)
    first.cluster.kubectl("delete", "pod", "here", "there", "echo", "asks", "--grace-period=1", "--timeout=40s")


def _call(node: NetworkNode, name: str, image: str, args: list[str]) -> str:
    """A pod that calls and is called, on port 7000; its address."""
    manifest = CALLER.replace("NAME", name).replace("NODE", node.name).replace("IMAGE", image)
    node.cluster.kubectl("apply", "-f", "-", stdin=manifest.replace("ARGS", json.dumps(args)).encode())
    shown = (
        "get",
        "pod",
        name,
        "-o",
        "jsonpath={.status.podIP} {.status.containerStatuses[0].started} {.status.phase}",
    )

    def begun() -> list[str]:
        words = node.cluster.kubectl(*shown).stdout.decode().split()
        return words if {"true", "Succeeded"} & set(words) else []

    return eventually_now(begun, node, seconds=40)[0]


def _connected(address: str, server: str) -> list[str]:
    """What the guest at `address` sees of its connection to the server; empty while nobody listens."""
    lines = _text(address, f"/connect?{server}:7000").splitlines()
    return lines if len(lines) == 3 else []


def _text(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}:7000{path}", timeout=30) as answer:
        content: bytes = answer.read()
    return content.decode()


def _probes_and_neighbours_reach(first: NetworkNode, second: NetworkNode, address: str, neighbour: str) -> None:
    """A listener in the namespace stands for a command that listens."""
    with listening(first.namespace.path, address, 80):
        assert ask(second.namespace.path, address, 80, source=neighbour) == neighbour
        ready = lambda: [name for name, pod in first.running().items() if _is_ready(pod)]  # noqa: E731
        assert eventually_now(ready, first, seconds=20) == [
            name for name, pod in first.running().items() if pod["status"]["podIP"] == address
        ]


def _agents_death_changes_nothing(node: NetworkNode) -> None:
    before = {name: _identity(pod) for name, pod in node.running().items()}
    inode = node.namespace.path.stat().st_ino
    condition = node.condition("NetworkUnavailable")
    node.kill()
    node.launch()
    node.wait()
    assert {name: _identity(pod) for name, pod in node.running().items()} == before
    assert node.namespace.path.stat().st_ino == inode
    after = node.condition("NetworkUnavailable")
    assert after["lastTransitionTime"] == condition["lastTransitionTime"]
    name = next(iter(before))
    node.cluster.kubectl("delete", "pod", name, "--grace-period=1", "--timeout=30s")
    eventually_now(lambda: len(node.running()) == 3, node, seconds=30)
    new = {pod["status"]["podIP"] for pod in node.running().values()}
    assert len(new) == 3
    assert {ip for pod, (ip, *_) in before.items() if pod != name} < new


def _the_hosts_network(node: NetworkNode, image: str) -> None:
    manifest = ON_HOST.replace("NODE", node.name).replace("IMAGE", image)
    node.cluster.kubectl("apply", "-f", "-", stdin=manifest.encode())
    status = eventually_now(lambda: node.running().get("on-host", {}).get("status"), node, seconds=30)
    assert status["podIP"] == status["hostIP"]


def _leaving(node: NetworkNode) -> None:
    """The agent's end takes nothing down; `wasmlet leave` does, when no pod is left."""
    path = node.namespace.path
    node.end()
    assert path.exists()
    assert b"pods of the cluster are on this machine yet" in node.wasmlet("leave", status=2).stderr
    node.launch()
    node.wait()
    node.cluster.kubectl("delete", "deployment", f"on-{node.name}", "--cascade=foreground", "--timeout=40s")
    node.cluster.kubectl("delete", "pod", "on-host", "--grace-period=1", "--timeout=40s")
    eventually_now(lambda: not list((node.wasmlet.state / "pods").iterdir()), node, seconds=30)
    node.end()
    assert b"the pods' network is gone" in node.wasmlet("leave").stdout
    assert not path.exists()
    assert not (node.wasmlet.state / "kubeconfig").exists()
    assert b"there was no identity" in node.wasmlet("leave").stdout


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])


def _identity(pod: dict[str, Any]) -> tuple[str, list[dict[str, str]], str, int]:
    """Addresses, and what changes when a container is started again."""
    status = pod["status"]["containerStatuses"][0]
    return pod["status"]["podIP"], pod["status"]["podIPs"], status["containerID"], status["restartCount"]


WAITING = """
apiVersion: v1
kind: Pod
metadata: { name: waiting }
spec:
  nodeName: NODE
  tolerations: [{ operator: Exists }]
  containers: [{ name: sleep, image: "registry.invalid/sleep:1" }]
"""


def test_without_rights_pods_wait_and_mode_host_is_the_way_out(cluster: Cluster, tmp_path: Path) -> None:
    node = NetworkNode(cluster, tmp_path / "n", "wasm-3")
    try:
        node.launch(through=("setpriv", "--bounding-set=-net_admin,-sys_admin"))
        because = lambda: "making the pod network needs" in node.condition("NetworkUnavailable").get("message", "")  # noqa: E731
        eventually_now(because, node, seconds=40)
        condition = node.condition("NetworkUnavailable")
        assert (condition["status"], condition["reason"]) == ("True", "NoPodNetwork")
        assert "wasmlet node --network host" in condition["message"]
        eventually_now(lambda: UNAVAILABLE in node.taints(), node, seconds=20)
        cluster.kubectl("apply", "-f", "-", stdin=WAITING.replace("NODE", node.name).encode())
        eventually_now(lambda: "network is not ready: making the pod network needs" in _events(cluster), node)
        assert cluster.kubectl("get", "pod", "waiting", "-o", "jsonpath={.status.podIP}").stdout == b""
        node.end()
        node.wasmlet.environment["WASMLET_NETWORK"] = "host"
        node.launch()
        eventually_now(lambda: not node.condition("NetworkUnavailable")["status"], node, seconds=40)
        eventually_now(lambda: UNAVAILABLE not in node.taints(), node, seconds=20)
        address = ("get", "pod", "waiting", "-o", "jsonpath={.status.podIP} {.status.hostIP}")
        eventually_now(lambda: len(set(cluster.kubectl(*address).stdout.split())) == 1, node, seconds=20)
    finally:
        node.clean()


def _events(cluster: Cluster) -> str:
    fields = ("--field-selector", "reason=NetworkNotReady", "-o", "jsonpath={.items[*].message}")
    return cluster.kubectl("get", "events", *fields).stdout.decode()
