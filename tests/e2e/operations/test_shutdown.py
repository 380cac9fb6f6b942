"""A node's end with its machine."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.operations.node import MARKS, Join, OwnNode, container_status
from tests.support.waiting import eventually_now

pytestmark = MARKS


def stub_systemctl(node: OwnNode, folder: Path, answer: str) -> None:
    """A `systemctl` that says how the machine is; the agent finds it first."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "systemctl"
    program.write_text(f'#!/bin/sh\n[ "$*" = is-system-running ] || exit 9\necho {answer}\nexit 1\n')
    program.chmod(0o755)
    if not node.environment["PATH"].startswith(str(folder)):
        node.environment["PATH"] = f"{folder / 'bin'}:{node.environment['PATH']}"


def test_pods_end_with_the_machine_and_not_with_the_agent(join: Join, tmp_path: Path) -> None:
    node = join("wasm-down")
    stub_systemctl(node, tmp_path, "running")
    flags = ("--shutdown-grace-seconds", "20", "--shutdown-critical-seconds", "5")
    node.start(*flags)
    node.run("low", "sleep")
    node.run("high", "sleep", namespace="kube-system", priorityClassName="system-node-critical")
    node.run("done", "hello", restartPolicy="Never")
    before = [node.until_running("low"), node.until_running("high", "kube-system")]
    eventually_now(lambda: node.pod("done")["status"].get("phase") == "Succeeded", "a pod that has done its work")
    assert node.end() == 0  # the agent alone: an upgrade
    node.start(*flags)
    after = [node.until_running("low"), node.until_running("high", "kube-system")]
    assert [container_status(each)["containerID"] for each in after] == [
        container_status(each)["containerID"] for each in before
    ]
    assert [container_status(each)["restartCount"] for each in after] == [0, 0]
    stub_systemctl(node, tmp_path, "stopping")
    assert node.end() == 0
    low, high, done = node.pod("low"), node.pod("high", "kube-system"), node.pod("done")
    for pod in (low, high):
        status = pod["status"]
        assert (status["phase"], status["reason"]) == ("Failed", "Terminated")
        assert status["message"] == "Pod was terminated in response to imminent node shutdown."
        (target,) = [each for each in status["conditions"] if each["type"] == "DisruptionTarget"]
        assert (target["status"], target["reason"]) == ("True", "TerminationByKubelet")
        assert container_status(pod)["state"]["terminated"]["exitCode"] == 143
    ends = [container_status(each)["state"]["terminated"]["finishedAt"] for each in (low, high)]
    assert ends == sorted(ends)
    assert (done["status"]["phase"], done["status"].get("reason")) == ("Succeeded", None)
    ready = node.condition("Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == (
        "False", "KubeletNotReady", "node is shutting down",
    )  # fmt: skip
    events = node.items("events", "-n", "default", f"--field-selector=involvedObject.name={node.name},reason=Shutdown")
    assert len(events) == 1
