"""A node of a test's own, with an operator's hands on it."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.conftest import Wasmlet
from tests.support.cluster import Cluster
from tests.support.node import ON_HOST, Node
from tests.support.waiting import eventually_now

MARKS: Final = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("node-operations"),
    pytest.mark.timeout(180, func_only=True),
]
"""Of every file here."""


class OwnNode(Node):
    """A node of the test's own."""

    def __init__(self, folder: Path, cluster: Cluster, images: str, name: str) -> None:
        folder.mkdir()
        wasmlet = Wasmlet(folder / "state", folder)
        super().__init__(wasmlet, cluster, images, name=name, flags=(*ON_HOST, "--healthz-port", "0"))
        self.environment = wasmlet.environment

    def run(self, name: str, program: str, *, namespace: str = "default", **spec: Any) -> None:
        """A pod on this node that runs a guest."""
        self.apply(name, namespace, {"containers": [{"name": "main", "image": self.image(program)}], **spec})

    def apply(self, name: str, namespace: str, spec: dict[str, Any]) -> None:
        """A pod on this node."""
        bound = {"nodeName": self.name, "tolerations": [{"operator": "Exists"}], **spec}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": bound}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(pod).encode())

    def pod(self, name: str, namespace: str = "default") -> Any:
        return self.get("pod", name, "-n", namespace)

    def until_running(self, name: str, namespace: str = "default") -> Any:
        """The pod, once it runs."""

        def found() -> Any:
            pod = self.pod(name, namespace)
            return pod if pod["status"].get("phase") == "Running" else None

        return eventually_now(found, lambda: self.pod(name, namespace), seconds=40)

    # --- the kubelet API ----------------------------------------------------------------------------------------------

    def ask(self, path: str, *, token: str = "", pair: tuple[Path, Path] | None = None) -> tuple[int, str]:
        """GET from the node's own port."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if pair is not None:
            context.load_cert_chain(*pair)
        addresses = self.get("node", self.name)["status"]["addresses"]
        connection = http.client.HTTPSConnection(addresses[0]["address"], int(self.port), context=context, timeout=20)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


Join = Callable[[str], OwnNode]


def container_status(pod: Any) -> Any:
    """Its only container's."""
    return pod["status"]["containerStatuses"][0]
