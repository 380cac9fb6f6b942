"""The life of pods by the letter, seen by a stock kubectl: hooks, deletion, static pods (kubelet-contract 3 and 4)."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import ON_HOST, Node, node_of_its_own
from tests.support.waiting import eventually_now

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120), pytest.mark.xdist_group("pod life")]

WAIT = "--timeout=40s"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with static pods, in one cluster for all tests of this file; the image `sleep:1` is there."""
    folder = tmp_path_factory.mktemp("pod-life")
    (folder / "manifests").mkdir()
    with node_of_its_own(folder, "sleep", flags=(*ON_HOST, "--manifest-dir", str(folder / "manifests"))) as node:
        yield node


def manifest(node: Node, name: str, *, lifecycle: object = None, **spec: object) -> str:
    """A pod that sleeps."""
    container = {"name": "main", "image": f"{node.images}/sleep:1", "lifecycle": lifecycle}
    tolerations = [{"key": "kubernetes.io/arch", "operator": "Exists"}]
    whole = {"terminationGracePeriodSeconds": 5, "tolerations": tolerations, "containers": [container], **spec}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole})


def run(node: Node, text: str, *, until: str = "Ready") -> None:
    node.kubectl("apply", "-f", "-", stdin=text.encode())
    name = json.loads(text)["metadata"]["name"]
    node.kubectl("wait", f"--for=condition={until}", f"pod/{name}", WAIT)


def get(node: Node, name: str) -> dict[str, Any]:
    """The pod as the API server has it; empty when it is not there."""
    found = node.cluster.kubectl("get", "pod", name, "-o", "json", status=None).stdout
    return dict(json.loads(found)) if found else {}


def events(node: Node, name: str, reason: str) -> list[str]:
    """The messages of the pod's events of that reason."""
    selector = f"involvedObject.name={name},reason={reason}"
    found = node.kubectl("get", "events", "--field-selector", selector, "-o", "json")
    return [each["message"] for each in json.loads(found)["items"]]


def deletes(node: Node) -> int:
    """How many DELETEs of a single pod the API server has answered so far."""
    lines = node.kubectl("get", "--raw", "/metrics").splitlines()
    counted = [
        line for line in lines
        if line.startswith("apiserver_request_total{") and 'resource="pods"' in line and 'verb="DELETE"' in line
    ]  # fmt: skip
    return sum(int(float(line.rpartition(" ")[2])) for line in counted)


def test_a_pre_stop_sleep_is_inside_the_grace_and_the_object_goes_by_one_delete(node: Node) -> None:
    sleeps = {"preStop": {"sleep": {"seconds": 5}}}
    run(node, manifest(node, "slow", lifecycle=sleeps, terminationGracePeriodSeconds=35))
    before, begun = deletes(node), time.monotonic()
    node.kubectl("delete", "pod", "slow", WAIT)
    assert 5 <= time.monotonic() - begun < 30
    assert deletes(node) - before == 2, "kubectl's, and the node's"
    eventually_now(lambda: events(node, "slow", "Killing") == ["Stopping container main"], "killing")
    assert events(node, "slow", "FailedPreStopHook") == []


def test_no_sleep_is_no_wait(node: Node) -> None:
    nothing = {"postStart": {"sleep": {"seconds": 0}}, "preStop": {"sleep": {"seconds": 0}}}
    run(node, manifest(node, "hasty", lifecycle=nothing, terminationGracePeriodSeconds=30))
    begun = time.monotonic()
    node.kubectl("delete", "pod", "hasty", WAIT)
    assert time.monotonic() - begun < 25


def test_hooks_ask_over_http(node: Node) -> None:
    asked: list[tuple[str, str]] = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["User-Agent"]))
            self.send_response(500 if self.path == "/stop" else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, name="hooks", daemon=True).start()
        action = {"host": "127.0.0.1", "port": server.server_address[1]}
        hooks = {name: {"httpGet": {**action, "path": path}} for name, path in
                 (("postStart", "/start"), ("preStop", "/stop"))}  # fmt: skip
        run(node, manifest(node, "hooked", lifecycle=hooks))
        node.kubectl("delete", "pod", "hooked", WAIT)
        server.shutdown()
    assert asked == [("/start", "kube-lifecycle/1.36"), ("/stop", "kube-lifecycle/1.36")]


def test_a_failed_post_start_hook_kills_the_container(node: Node) -> None:
    broken = {"postStart": {"httpGet": {"host": "127.0.0.1", "port": 1}}}
    node.kubectl("apply", "-f", "-", stdin=manifest(node, "broken", lifecycle=broken, restartPolicy="Never").encode())
    node.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/broken", WAIT)
    eventually_now(lambda: events(node, "broken", "FailedPostStartHook") == ["PostStartHook failed"], "event")
    eventually_now(lambda: events(node, "broken", "Killing") == ["FailedPostStartHook"], "event")
    node.kubectl("delete", "pod", "broken", WAIT)


def test_a_forced_deletion_kills_and_the_name_is_free_at_once(node: Node) -> None:
    sleeps = {"preStop": {"sleep": {"seconds": 20}}}
    run(node, manifest(node, "again", lifecycle=sleeps, terminationGracePeriodSeconds=60))
    first = get(node, "again")["metadata"]["uid"]
    node.kubectl("delete", "pod", "again", "--force", "--grace-period=0")
    run(node, manifest(node, "again"))
    assert get(node, "again")["metadata"]["uid"] != first
    pods = node.wasmlet.state / "pods"
    eventually_now(lambda: not (pods / first).exists(), "the first pod's files", seconds=20)
    assert get(node, "again")["status"]["containerStatuses"][0]["restartCount"] == 0
    node.kubectl("delete", "pod", "again", WAIT)


def test_a_finalizer_keeps_the_object_with_its_final_status(node: Node) -> None:
    run(node, manifest(node, "kept"))
    node.kubectl("patch", "pod", "kept", "-p", '{"metadata":{"finalizers":["example.com/keep"]}}')
    node.kubectl("delete", "pod", "kept", "--wait=false")
    node.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/kept", WAIT)
    shown = get(node, "kept")
    assert shown["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 143
    eventually_now(lambda: _has_converged(get(node, "kept")), "observed")
    node.kubectl("patch", "pod", "kept", "-p", '{"metadata":{"finalizers":null}}')
    eventually_now(lambda: not get(node, "kept"), "gone")


def _has_converged(pod: dict[str, Any]) -> bool:
    """Whether the status is of the pod's newest generation, with all of its conditions."""
    generation, status = pod["metadata"]["generation"], pod["status"]
    own = [each for each in status["conditions"] if "example.com" not in each["type"]]
    return {status.get("observedGeneration"), *(each.get("observedGeneration") for each in own)} == {generation}


def test_every_generation_is_observed(node: Node) -> None:
    run(node, manifest(node, "changed"))
    before = get(node, "changed")
    node.kubectl("patch", "pod", "changed", "-p", '{"spec":{"activeDeadlineSeconds":1000}}')
    eventually_now(lambda: _has_converged(get(node, "changed")), "observed")
    after = get(node, "changed")
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    assert [each["lastTransitionTime"] for each in after["status"]["conditions"]] == [
        each["lastTransitionTime"] for each in before["status"]["conditions"]
    ]
    node.kubectl("delete", "pod", "changed", WAIT)


def test_a_pod_deleted_while_its_image_is_missing_goes_and_says_so(node: Node) -> None:
    text = manifest(node, "missing").replace("sleep:1", "nobody:1")
    node.kubectl("apply", "-f", "-", stdin=text.encode())
    reason = "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff"
    node.kubectl("wait", reason, "pod/missing", WAIT)
    node.kubectl("delete", "pod", "missing", WAIT)


def test_a_static_pod_has_a_mirror_that_comes_back(node: Node) -> None:
    directory = Path(node.flags[-1])
    (directory / "web.json").write_text(manifest(node, "web"))
    eventually_now(lambda: get(node, "web-krustlet"), "mirror")
    node.kubectl("wait", "--for=condition=Ready", "pod/web-krustlet", WAIT)
    first = get(node, "web-krustlet")
    annotations = first["metadata"]["annotations"]
    assert annotations["kubernetes.io/config.mirror"] == annotations["kubernetes.io/config.hash"]
    assert annotations["kubernetes.io/config.source"] == "file"
    assert first["metadata"]["ownerReferences"][0]["kind"] == "Node"
    eventually_now(lambda: _has_converged(get(node, "web-krustlet")), "observed")
    assert node.kubectl("logs", "web-krustlet") == "ready\n"
    assert "Started" in node.kubectl("describe", "pod", "web-krustlet")

    node.kubectl("delete", "pod", "web-krustlet", "--wait=false")
    container = first["status"]["containerStatuses"][0]["containerID"]

    def is_back() -> bool:
        shown = get(node, "web-krustlet")
        statuses = shown.get("status", {}).get("containerStatuses", [])
        is_new = shown.get("metadata", {}).get("uid") != first["metadata"]["uid"]
        return is_new and [each["containerID"] for each in statuses] == [container]

    eventually_now(is_back, "the mirror comes back, and its pod did not notice")
    node.kill()
    (directory / "web.json").unlink()
    node.start()
    eventually_now(lambda: not get(node, "web-krustlet"), "the pod of a file that went, and its mirror, are gone")
