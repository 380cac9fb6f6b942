"""wasmlet as the node of a real cluster."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Wasmlet
from tests.support.cluster import Cluster, running_cluster
from tests.support.disks import passable_directory
from tests.support.guests import guest
from tests.support.processes import end_all
from tests.support.registry import docker_registry
from tests.support.waiting import eventually_now

ON_HOST = ("--network", "host")
"""Flags of a node that makes no network of its own: any user may run it, and several on one machine."""


def free_port() -> str:
    """A port for the kubelet API; several tests may run at once on one machine."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


class Node:
    """wasmlet, joined to a cluster by a bootstrap token.

    Attributes:
        wasmlet: The command line on its state directory.
        images: The registry, as HOST:PORT.
        flags: More for `wasmlet node`, at each start.
        log: What the agents have written.
        process: The agent; None when there is none.
    """

    def __init__(
        self,
        wasmlet: Wasmlet,
        cluster: Cluster,
        images: str = "",
        *,
        name: str = "krustlet",
        flags: tuple[str, ...] = ON_HOST,
    ) -> None:
        self.wasmlet = wasmlet
        self.cluster = cluster
        self.images = images
        self.name = name
        self.flags = flags
        self.port = free_port()
        self.log = wasmlet.folder / "node.log"
        self.process: subprocess.Popen[bytes] | None = None
        joined = wasmlet(
            "join", "--server", cluster.server, "--token", cluster.bootstrap_token, "--ca-hash", cluster.ca_hash,
            "--node-name", name,
        )  # fmt: skip
        assert f"joined as {name}".encode() in joined.stdout

    def __repr__(self) -> str:
        return f"<Node {self.name}>\n{self.log.read_text(errors='replace') if self.log.exists() else ''}"

    # --- its agent ----------------------------------------------------------------------------------------------------

    def launch(self, *flags: str | Path, through: tuple[str, ...] = ()) -> None:
        """Start the agent; `through` is a command that starts it, if any."""
        command = ("node", "--node-name", self.name, "--port", self.port, *self.flags, *flags)
        with self.log.open("ab") as log:
            self.process = self.wasmlet.start(*command, output=log, through=through)

    def start(self, *flags: str | Path) -> None:
        """Start the agent, and wait until it answers and the cluster finds it ready."""
        before = self._starts()
        self.launch(*flags)
        # The cluster may still believe what the agent before this one said.
        eventually_now(lambda: self._starts() > before, self, seconds=40)
        eventually_now(lambda: self.condition("Ready")["status"] == "True", self, seconds=40)

    def _starts(self) -> int:
        return self.log.read_text().count("kubelet API started") if self.log.exists() else 0

    def end(self, with_signal: signal.Signals = signal.SIGTERM, *, seconds: float = 60) -> int:
        """Signal the agent, if there is one; its exit status. Engines go on."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(with_signal)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        return process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL the agent; engines go on."""
        self.end(signal.SIGKILL)

    # --- what the cluster has of it -----------------------------------------------------------------------------------

    def kubectl(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """What a stock kubectl by the administrator, which must succeed, has written to stdout."""
        return self.cluster.kubectl(*arguments, stdin=stdin).stdout.decode()

    def get(self, *arguments: str) -> Any:
        """What kubectl gets, None when there is nothing."""
        text = self.kubectl("get", *arguments, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text else None

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """What kubectl lists: of an empty list it writes nothing."""
        found = self.get(*arguments)
        items: list[dict[str, Any]] = found["items"] if found else []
        return items

    def condition(self, kind: str) -> dict[str, str]:
        """One of the Node's conditions, whose status is "" while there is none."""
        node = self.get("node", self.name) or {}
        conditions: list[dict[str, str]] = node.get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {"status": "", "message": ""})

    def pods(self) -> list[dict[str, Any]]:
        """Every pod of the namespace default."""
        return self.items("pods")

    def image(self, name: str) -> str:
        """A guest as an image, pushed."""
        reference = f"{self.images}/{name}:1"
        self.wasmlet("push", guest(name), reference)
        return reference


@contextlib.contextmanager
def running_node(
    wasmlet: Wasmlet, cluster: Cluster, images: str, *, flags: tuple[str, ...] = ON_HOST
) -> Iterator[Node]:
    """A node that is ready; every process of it is gone afterwards."""
    node = Node(wasmlet, cluster, images, flags=flags)
    try:
        node.start()
        yield node
    finally:
        node.kill()
        end_all(wasmlet.state)


@contextlib.contextmanager
def node_of_its_own(directory: Path, *guests: str, flags: tuple[str, ...] = ON_HOST) -> Iterator[Node]:
    """A node that is ready, the only one of a cluster; in its registry are these guests."""
    for name in ("registry", "work"):
        (directory / name).mkdir()
    with (
        passable_directory() as parent,
        docker_registry(directory / "registry") as registry,
        running_cluster(directory / "cluster") as cluster,
        running_node(Wasmlet(parent / "state", directory / "work"), cluster, registry.address, flags=flags) as node,
    ):
        for name in guests:
            node.image(name)
        yield node
