"""A namespace of a test's own on a node that other tests share, and manifests in few words."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.node import Node
from tests.support.waiting import eventually_now

TOLERATIONS: Final = [{"key": "kubernetes.io/arch", "operator": "Equal", "value": "wasm32-wasi"}]
# A controller, the scheduler and the node have their turns, beside other tests.
SECONDS: Final = 40.0

Manifest = dict[str, Any]


class Place:
    """Attributes: `node` is shared; `namespace` is not."""

    def __init__(self, node: Node, namespace: str) -> None:
        self.node = node
        self.namespace = namespace

    def kubectl(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """What a kubectl that must succeed has written to stdout."""
        return self.node.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    def refused(self, *arguments: str, stdin: bytes = b"") -> str:
        """What a kubectl that must fail has written to stderr."""
        result = self.node.cluster.kubectl("--namespace", self.namespace, *arguments, status=None, stdin=stdin)
        assert result.returncode != 0, result
        return result.stderr.decode()

    def apply(self, *manifests: Manifest) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(items).encode())

    def get(self, *names: str) -> Manifest:
        """One object, or a list."""
        found: Manifest = json.loads(self.kubectl("get", *names, "-o", "json"))
        return found

    def pods(self, selector: str = "") -> list[Manifest]:
        """The pods that are not about to go."""
        items: list[Manifest] = self.get("pods", f"--selector={selector}")["items"]
        return [each for each in items if "deletionTimestamp" not in each["metadata"]]

    def names(self, selector: str = "") -> set[str]:
        return {each["metadata"]["name"] for each in self.pods(selector)}

    def wait(self, condition: str, *names: str) -> None:
        """`kubectl wait`; a condition that starts with a dot is a JSON path, such as `.status.phase=Running`."""
        wanted = f"jsonpath={{{condition.partition('=')[0]}}}={condition.partition('=')[2]}"
        self.kubectl(
            "wait", f"--for={wanted if condition.startswith('.') else f'condition={condition}'}", *names,
            f"--timeout={SECONDS:g}s",
        )  # fmt: skip

    def logs(self, *arguments: str) -> str:
        """What a container has written by now; nothing when there is none yet."""
        command = ("--namespace", self.namespace, "logs", *arguments)
        return self.node.cluster.kubectl(*command, status=None).stdout.decode()

    def eventually(self, condition: Callable[[], bool], what: object = "") -> None:
        eventually_now(condition, what, seconds=SECONDS)

    def image(self, name: str) -> str:
        """The reference of a test guest in the node's registry."""
        return f"{self.node.images}/{name}:1"


@contextlib.contextmanager
def new_place(node: Node) -> Iterator[Place]:
    """A namespace with its service account; it and all that it holds begins to go at the end."""
    place = Place(node, f"test-{secrets.token_hex(4)}")
    node.kubectl("create", "namespace", place.namespace)
    accounts = ("get", "serviceaccounts", "--output=name")
    eventually_now(lambda: "serviceaccount/default" in place.kubectl(*accounts), accounts)
    try:
        yield place
    finally:
        node.kubectl("delete", "namespace", place.namespace, "--wait=false")


def container(image: str, *arguments: str, name: str = "main", **fields: Any) -> Manifest:
    return {"name": name, "image": image, "args": list(arguments), **fields}


def pod_spec(*containers: Manifest, tolerations: Sequence[Manifest] = TOLERATIONS, **fields: Any) -> Manifest:
    """The spec of a pod that goes at once when it is told to: WASI has no signals to be graceful at."""
    return {
        "containers": list(containers), "tolerations": list(tolerations), "terminationGracePeriodSeconds": 1, **fields
    }  # fmt: skip


def pod(name: str, *containers: Manifest, restart: str = "Never", **fields: Any) -> Manifest:
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": pod_spec(*containers, restartPolicy=restart, **fields),
    }  # fmt: skip


def template(app: str, *containers: Manifest, **fields: Any) -> Manifest:
    """A pod template and the selector for it, as controllers' specs have them."""
    labels = {"app": app}
    return {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod_spec(*containers, **fields)},
    }


def controller(kind: str, name: str, **spec: Any) -> Manifest:
    """A Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or CronJob."""
    group = "batch/v1" if kind in ("Job", "CronJob") else "apps/v1"
    return {"apiVersion": group, "kind": kind, "metadata": {"name": name}, "spec": spec}
