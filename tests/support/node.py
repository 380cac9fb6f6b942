"""wasmlet as the node of a real cluster."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tests.e2e.conftest import Wasmlet
from tests.support.cluster import Cluster
from tests.support.processes import end_all
from tests.support.waiting import eventually_now


def free_port() -> str:
    """A port for the kubelet API; several tests may run at once on one machine."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


class Node:
    """wasmlet, joined to a cluster by a bootstrap token as `krustlet`.

    Attributes:
        wasmlet: The command line on its state directory.
        images: The registry, as HOST:PORT.
        options: More for `wasmlet node`.
    """

    def __init__(
        self, wasmlet: Wasmlet, cluster: Cluster, images: str, log: IO[bytes], *, options: tuple[str, ...] = ()
    ) -> None:
        self.wasmlet = wasmlet
        self.cluster = cluster
        self.images = images
        self.process: subprocess.Popen[bytes] | None = None
        self.log = log
        self.options = options
        joined = wasmlet(
            "join", "--server", cluster.server, "--token", cluster.bootstrap_token, "--ca-hash", cluster.ca_hash,
            "--node-name", "krustlet",
        )  # fmt: skip
        assert b"joined as krustlet" in joined.stdout

    def start(self) -> None:
        """Start the agent, and wait until the cluster finds it ready."""
        arguments = ("node", "--node-name", "krustlet", "--port", free_port(), "--network", "host", *self.options)
        self.process = self.wasmlet.start(*arguments, output=self.log)
        nodes = ("get", "nodes", "-o", "name")
        eventually_now(lambda: "node/krustlet" in self.kubectl(*nodes), "registered", seconds=40)
        self.kubectl("wait", "--for=condition=Ready", "node/krustlet", "--timeout=40s")

    def kill(self) -> None:
        """SIGKILL the agent; engines go on."""
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()
            self.process.kill()
            self.process.wait()

    def kubectl(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """A stock kubectl by the administrator."""
        return self.cluster.kubectl(*arguments, stdin=stdin).stdout.decode()

    def pods(self) -> list[dict[str, Any]]:
        """Every pod of the namespace default."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]
        return items


@contextlib.contextmanager
def running_node(wasmlet: Wasmlet, cluster: Cluster, images: str, *, options: tuple[str, ...] = ()) -> Iterator[Node]:
    """A node that is ready; every process of it is gone afterwards."""
    with (wasmlet.folder / "node.log").open("ab") as log:
        node = Node(wasmlet, cluster, images, log, options=options)
        try:
            node.start()
            yield node
        finally:
            node.kill()
            end_all(wasmlet.state)
