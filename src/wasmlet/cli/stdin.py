"""This process's standard input → a guest's, straight through the engine's socket."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from pathlib import Path

READ_BYTES = 64 * 1024


def send_stdin(engine_socket: Path, sandbox: str) -> None:
    """Start to send; goes on in a thread of its own until end of file, or until either side is gone.

    A thread, since standard input may be a file or a device that no event loop can wait for; a daemon, since a read
    that waits for a person must not keep the process from its end.
    """
    threading.Thread(target=_send, args=(engine_socket, sandbox), name="stdin", daemon=True).start()


def _send(engine_socket: Path, sandbox: str) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        _connect(connection, engine_socket)
        request = f"POST /sandboxes/{sandbox}/stdin HTTP/1.1\r\nHost: engine\r\n"
        request += "Connection: Upgrade\r\nUpgrade: wasmlet-stream\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(request.encode())
        if not _is_switched(connection):
            return
        while content := os.read(sys.stdin.fileno(), READ_BYTES):
            connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(READ_BYTES):
            pass  # the engine closes when the guest has taken everything, or has ended


def _connect(connection: socket.socket, path: Path) -> None:
    """By a descriptor of the folder: a socket's path may have 107 bytes at most (unix(7))."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def _is_switched(connection: socket.socket) -> bool:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte or len(head) > READ_BYTES:
            return False
        head += byte
    return head.startswith(b"HTTP/1.1 101")
