"""The announcement's session: a stock kubectl, a real control plane, and wasmlet as the node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Wasmlet
from tests.support.cluster import running_cluster
from tests.support.guests import DEMOS, guest
from tests.support.node import Node, running_node
from tests.support.registry import docker_registry
from tests.support.waiting import eventually_now

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: { name: sleepers }
spec:
  replicas: 3
  selector: { matchLabels: { app: sleepers } }
  template:
    metadata: { labels: { app: sleepers } }
    spec:
      tolerations: [{ key: kubernetes.io/arch, operator: Equal, value: wasm32-wasi }]
      containers: [{ name: sleep, image: "IMAGE" }]
"""


@pytest.fixture
def node(request: pytest.FixtureRequest, tmp_path: Path, wasmlet: Wasmlet) -> Iterator[Node]:
    """A node in a cluster of its own, with a registry beside it; its parameter is a version to behave as."""
    (tmp_path / "registry").mkdir()
    with (
        docker_registry(tmp_path / "registry") as registry,
        running_cluster(tmp_path / "cluster", emulated_version=getattr(request, "param", None)) as cluster,
        running_node(wasmlet, cluster, registry.address) as node,
    ):
        yield node


@pytest.mark.parametrize("node", [None, "1.34"], indirect=True, ids=["newest", "1.34"])
def test_the_announcements_session(node: Node) -> None:
    row = node.kubectl("get", "nodes", "-o", "wide").splitlines()[1].split()
    assert row[:2] == ["krustlet", "Ready"]
    assert row[-1].startswith("wasmlet://")
    demo = DEMOS / "hello-world-rust"
    image = f"{node.images}/hello-world-wasi-rust:0.1.0"
    node.wasmlet("push", demo / "hello-world-wasi-rust.wasm", image)
    manifest = (demo / "pod.yaml").read_text().replace("file:hello-world-wasi-rust.wasm", image)
    node.kubectl("apply", "-f", "-", stdin=manifest.encode())
    node.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/hello-world-wasi-rust", "--timeout=40s")
    assert node.kubectl("logs", "hello-world-wasi-rust") == (demo / "expected.txt").read_text()
    assert "Started" in node.kubectl("describe", "pod", "hello-world-wasi-rust")
    node.kubectl("delete", "pod", "hello-world-wasi-rust", "--timeout=40s")
    assert node.pods() == []
    eventually_now(lambda: not list((node.wasmlet.state / "pods").iterdir()), "files of the pod")


def test_a_deployment_lives_through_the_agents_death(node: Node) -> None:
    image = f"{node.images}/sleep:1"
    node.wasmlet("push", guest("sleep"), image)
    node.kubectl("apply", "-f", "-", stdin=DEPLOYMENT.replace("IMAGE", image).encode())
    node.kubectl("rollout", "status", "deployment/sleepers", "--timeout=40s")
    before = {_identity(pod) for pod in node.pods()}
    assert len(before) == 3
    node.kill()
    node.start()
    assert {_identity(pod) for pod in node.pods()} == before
    node.kubectl("scale", "deployment/sleepers", "--replicas=1")
    eventually_now(lambda: len(node.pods()) == 1, "one replica")
    node.kubectl("delete", "deployment", "sleepers", "--timeout=40s")
    eventually_now(lambda: not node.pods(), "no pod")


def _identity(pod: dict[str, Any]) -> tuple[str, str, int]:
    """Name, container id and restart count: all of them change when a container is started again."""
    status = pod["status"]["containerStatuses"][0]
    return pod["metadata"]["name"], status["containerID"], status["restartCount"]


CONFIGURED = """
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { word: one }
---
apiVersion: v1
kind: Pod
metadata: { name: configured }
spec:
  tolerations: [{ key: kubernetes.io/arch, operator: Exists }]
  containers:
    - { name: env, image: "ENV", volumeMounts: [{ name: settings, mountPath: /settings }] }
    - { name: sleep, image: "SLEEP", volumeMounts: [{ name: settings, mountPath: /settings }] }
  volumes: [{ name: settings, configMap: { name: settings } }]
"""


def test_configuration_follows_and_services_are_told(node: Node) -> None:
    names = {name: f"{node.images}/{name}:1" for name in ("env", "sleep")}
    for name, image in names.items():
        node.wasmlet("push", guest(name), image)
    manifest = CONFIGURED.replace("ENV", names["env"]).replace("SLEEP", names["sleep"])
    node.kubectl("apply", "-f", "-", stdin=manifest.encode())
    eventually_now(lambda: "KUBERNETES_SERVICE_HOST=" in _logs(node, "configured", "env"), "service variables")
    uid = node.kubectl("get", "pod", "configured", "-o", "jsonpath={.metadata.uid}")
    volumes = node.wasmlet.state / "pools" / "default" / uid / "volumes"
    assert (volumes / "kubernetes.io~configmap" / "settings" / "word").read_text() == "one"
    token = next(volumes.glob("kubernetes.io~projected/kube-api-access-*/token"))
    assert token.read_text().count(".") == 2
    node.kubectl("patch", "configmap", "settings", "-p", '{"data":{"word":"two"}}')
    word = volumes / "kubernetes.io~configmap" / "settings" / "word"
    eventually_now(lambda: word.read_text() == "two", "the file follows")


def _logs(node: Node, pod: str, container: str) -> str:
    return node.cluster.kubectl("logs", pod, "-c", container, status=None).stdout.decode()
