"""Two machines in network namespaces of the test's own, linked by a cable, so that nothing touches the real one.

A socket stays in the namespace in which it was made, so a test can play a pod, its node and another node at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import pytest

from wasmlet.sandbox import namespace

T = TypeVar("T")

needs_root: Final = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
CONNECT_SECONDS: Final = 5.0


class Machine:
    """A network namespace that plays a machine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = namespace.PINS / name

    def ip(self, *arguments: str) -> str:
        """Run `ip` there."""
        return run("ip", "-n", self.name, *arguments)

    def do(self, work: Callable[[], T]) -> T:
        """The result of `work`, done there."""
        return inside(self.path, work)

    def socket(self, family: int = socket.AF_INET) -> socket.socket:
        return self.do(lambda: socket.socket(family, socket.SOCK_STREAM))


class Lab:
    """`node` and `other`, at 172.30.0.1 and .2, fd30::1 and ::2; `other` sends what is for pods to `node`."""

    def __init__(self, mark: str) -> None:
        self.node = Machine(f"wt{mark}-node")
        self.other = Machine(f"wt{mark}-other")

    def lay(self) -> None:
        for each in (self.node, self.other):
            run("ip", "netns", "add", each.name)
            each.ip("link", "set", "lo", "up")
        self.node.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", self.other.name)
        for number, each in enumerate((self.node, self.other), start=1):
            each.ip("address", "add", f"172.30.0.{number}/24", "dev", "cable")
            each.ip("address", "add", f"fd30::{number}/64", "dev", "cable", "nodad")
            each.ip("link", "set", "cable", "up")

    def route(self, cidr: str) -> None:
        """What the cluster does for a node: its range leads to its address."""
        self.other.ip("route", "add", cidr, "via", "fd30::1" if ":" in cidr else "172.30.0.1")


@contextlib.contextmanager
def laboratory(directory: Path) -> Iterator[Lab]:
    """A lab, and the end of every namespace that was pinned meanwhile for a state directory below `directory`."""
    lab = Lab(f"{os.getpid():x}{abs(hash(str(directory))) % 0xFFFF:x}")
    try:
        lab.lay()
        yield lab
    finally:
        for record in directory.rglob(namespace.RECORD_NAME):
            forget(f"wasmlet-{namespace.Namespace(record.parent, node='').record.mark}")
        forget(lab.node.name)
        forget(lab.other.name)


def forget(name: str) -> None:
    """Remove a namespace, whether it is there or not."""
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 0, (command, result.stderr)
    return result.stdout


def inside(path: Path, work: Callable[[], T]) -> T:
    """The result (or the error) of `work`, done in the namespace."""
    results: list[T] = []
    errors: list[Exception] = []

    def do() -> None:
        try:
            results.append(work())
        except Exception as error:  # given to the caller
            errors.append(error)

    namespace.in_namespace(path, do)
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def listening(path: Path, address: str, port: int) -> Iterator[list[str]]:
    """A guest's listener on a pod's address, until the context ends; gives whom it has heard.

    Whoever connects is told its own address, which is what the listener saw.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    heard: list[str] = []
    with inside(path, lambda: socket.socket(family, socket.SOCK_STREAM)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, peer = listener.accept()
                    with connection:
                        heard.append(peer[0])
                        connection.sendall(peer[0].encode())

        thread = threading.Thread(target=serve, name=f"listener on {address}")
        thread.start()
        try:
            yield heard
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def ask(path: Path, address: str, port: int, *, source: str = "", seconds: float = CONNECT_SECONDS) -> str:
    """Connect from a namespace; what the listener there has to say. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(path, lambda: socket.socket(family, socket.SOCK_STREAM)) as client:
        client.settimeout(seconds)
        if source:
            client.bind((source, 0))
        client.connect((address, port))
        return client.recv(100).decode()
