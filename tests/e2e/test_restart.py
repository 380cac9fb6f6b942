"""What may die beside a pod, and what the pod shows of it: the agent, an engine, the machine, the API server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Wasmlet
from tests.support.cluster import running_cluster
from tests.support.guests import guest
from tests.support.node import Node, node_of_its_own
from tests.support.processes import end, end_all, processes_of
from tests.support.registry import docker_registry
from tests.support.waiting import eventually_now
from wasmlet.sandbox.program import find_engine_program

AWAY_SECONDS = float(os.environ.get("WASMLET_TEST_AWAY_SECONDS", "15"))
"""How long the API server is away; five minutes are the promise (docs/benchmarks.md says when they were tried)."""

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("devcluster"),
    pytest.mark.timeout(180 + AWAY_SECONDS, func_only=True),
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node in a cluster, with the guests of this file in a registry. The agent may be dead between two tests."""
    with node_of_its_own(tmp_path_factory.mktemp("node"), "sleep", "exit", "flaky") as made:
        yield made


@pytest.fixture
def node(machine: Node) -> Iterator[Node]:
    """The node with a living agent; its pods are removed afterwards."""
    if machine.process is None or machine.process.poll() is not None:
        machine.start()
    yield machine
    if machine.process is None or machine.process.poll() is not None:
        machine.start()
    machine.kubectl("delete", "pods", "--all", "--all-namespaces", "--timeout=40s", "--grace-period=1")


def pod(
    node: Node, name: str, program: str, *arguments: str, namespace: str = "default", policy: str = "Always"
) -> None:
    """Create a pod of one container."""
    container = {"name": "main", "image": f"{node.images}/{program}:1", "args": list(arguments)}
    spec = {
        "restartPolicy": policy, "containers": [container], "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/arch": "wasm32-wasi"}, "automountServiceAccountToken": False,
    }  # fmt: skip
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
    node.kubectl("create", "-f", "-", stdin=json.dumps(document).encode())


def status(node: Node, name: str, namespace: str = "default") -> dict[str, Any]:
    """The pod's status with its only container's under `main`."""
    found = json.loads(node.kubectl("get", "pod", "-n", namespace, name, "-o", "json"))["status"]
    found["main"] = next(iter(found.get("containerStatuses", [])), None)
    return dict(found)


def running(node: Node, name: str, namespace: str = "default") -> dict[str, Any]:
    """The container's status, once it runs and is Ready."""
    node.kubectl("wait", "-n", namespace, "--for=condition=Ready", f"pod/{name}", "--timeout=40s")
    return dict(status(node, name, namespace)["main"])


def restarted(node: Node, name: str) -> None:
    """Return when the container has been restarted once."""
    path = "{.status.containerStatuses[0].restartCount}"
    node.kubectl("wait", f"--for=jsonpath={path}=1", f"pod/{name}", "--timeout=40s")


def ended(node: Node, name: str, phase: str = "Succeeded") -> None:
    """Return when the pod has ended so."""
    node.kubectl("wait", f"--for=jsonpath={{.status.phase}}={phase}", f"pod/{name}", "--timeout=40s")


def exits(node: Node) -> list[Path]:
    """The exit records of all containers."""
    return list(node.wasmlet.state.glob("logs/*/*/*/*.exit.json"))


def engines(node: Node) -> list[int]:
    """The processes of the engines."""
    return [pid for pid in processes_of(node.wasmlet.state) if b"wasmlet-engine" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _output(*command: str | Path) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_an_ordinary_stop_of_the_agent_ends_nothing(node: Node) -> None:
    """As `systemctl restart` does: SIGTERM, and another agent a moment later."""
    pod(node, "stays", "sleep")
    pod(node, "ends", "sleep", "3", policy="Never")
    before = running(node, "stays")
    assert node.end(seconds=20) == 0
    assert engines(node)
    eventually_now(lambda: exits(node), "an end while away")
    node.start()
    assert running(node, "stays") == before
    ended(node, "ends")
    assert status(node, "ends")["main"]["restartCount"] == 0


def test_an_exit_code_is_not_lost_with_the_agent(node: Node) -> None:
    pod(node, "lost", "exit", "42", policy="Never")
    node.kill()
    node.start()
    ended(node, "lost", "Failed")
    lost = status(node, "lost")["main"]
    assert (lost["state"]["terminated"]["exitCode"], lost["restartCount"]) == (42, 0)


def test_a_killed_engine_takes_its_own_pods_only(node: Node) -> None:
    node.kubectl("create", "namespace", "other")
    pod(node, "here", "sleep")
    pod(node, "there", "sleep", namespace="other")
    running(node, "here")
    there = running(node, "there", "other")
    uid = json.loads(node.kubectl("get", "pod", "here", "-o", "json"))["metadata"]["uid"]
    facts = json.loads((node.wasmlet.state / "pods" / uid / "facts.json").read_text())
    name = facts["containers"]["main"]["attempts"][-1]["engine"]
    (engine,) = [pid for pid in engines(node) if name.encode() in _command(pid)]
    end(engine)
    restarted(node, "here")
    here = running(node, "here")
    last = here["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (137, "Error")
    assert running(node, "there", "other") == there
    node.kubectl("delete", "namespace", "other", "--timeout=60s")


def test_pods_start_again_after_the_machine(node: Node) -> None:
    """All state is there, and no process."""
    pod(node, "again", "sleep")
    pod(node, "done", "exit", "0", policy="Never")
    running(node, "again")
    ended(node, "done")
    node.kill()
    end_all(node.wasmlet.state)
    node.start()
    restarted(node, "again")
    assert running(node, "again")["restartCount"] == 1
    assert status(node, "done")["main"]["restartCount"] == 0
    assert status(node, "done")["phase"] == "Succeeded"


def test_an_upgraded_agent_works_with_running_engines(node: Node, tmp_path: Path) -> None:
    """The engines of the last release go on; what is new goes to one of the agent's own version."""
    pod(node, "old", "sleep")
    old, before = running(node, "old"), engines(node)
    program = find_engine_program()
    version = json.loads(_output(program, "version"))["version"].encode()
    upgraded = tmp_path / "wasmlet-engine"
    content = program.read_bytes()
    upgraded.write_bytes(content.replace(version, version[:-1] + b"9"))
    upgraded.chmod(0o755)
    assert json.loads(_output(upgraded, "version"))["version"].encode() != version
    node.kill()
    node.wasmlet.environment["WASMLET_ENGINE"] = str(upgraded)
    try:
        node.start()
        pod(node, "new", "sleep")
        running(node, "new")
        assert running(node, "old") == old
        assert len(set(engines(node)) - set(before)) == 1
        node.kubectl("delete", "pod", "old", "--timeout=40s")
    finally:
        del node.wasmlet.environment["WASMLET_ENGINE"]
        node.kill()
        end_all(node.wasmlet.state)


def test_an_api_server_that_hangs(node: Node) -> None:
    pod(node, "stays", "sleep")
    before = running(node, "stays")
    pod(node, "ends", "sleep", "3", policy="Never")
    running(node, "ends")
    server = node.cluster.processes["kube-apiserver"]
    told = 'message="container ended" pod=ends'
    earlier = node.log.read_text().count(told)
    os.kill(server, signal.SIGSTOP)
    try:
        eventually_now(lambda: node.log.read_text().count(told) > earlier, "an end meanwhile")
    finally:
        os.kill(server, signal.SIGCONT)
    ended(node, "ends")
    assert running(node, "stays") == before


def test_an_api_server_that_is_away(tmp_path: Path, wasmlet: Wasmlet) -> None:
    """Pods run on, and end; afterwards everything is told, and nothing was started twice."""
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as registry:
        for name in ("sleep", "exit"):
            wasmlet("push", guest(name), f"{registry.address}/{name}:1")
        with running_cluster(tmp_path / "cluster") as cluster:
            node = Node(wasmlet, cluster, registry.address)
            node.start()
            pod(node, "stays", "sleep")
            pod(node, "ends", "sleep", "5", policy="Never")
            pod(node, "crashes", "sleep", "4")
            before = running(node, "stays")
            running(node, "ends")
        time.sleep(AWAY_SECONDS)
        assert node.process is not None
        assert node.process.poll() is None
        with running_cluster(tmp_path / "cluster") as cluster:
            node.cluster = cluster
            ended(node, "ends")
            assert status(node, "ends")["main"]["restartCount"] == 0
            assert running(node, "stays") == before
            eventually_now(lambda: status(node, "crashes")["main"]["restartCount"] >= 1, "restarts told")
            node.kubectl("wait", "--for=condition=Ready", "node/krustlet", "--timeout=60s")
            pod(node, "new", "sleep")
            running(node, "new")
            node.kill()
