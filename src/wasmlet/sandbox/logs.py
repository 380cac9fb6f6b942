"""Reading the CRI log files that engines write (kubelet-contract section 8).

A line is `{RFC 3339 time} {stdout|stderr} {P|F} {content}`; `P` marks a part whose newline is not the guest's. The
engine renames a file that has grown past its bound and goes on in a new one of the old name.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wasmlet.base.clock import from_text

READ_BYTES = 256 * 1024
PLAINLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""The directory is the engine's: a link there may lead to what its user may not read, a pipe may have no end."""


@dataclass(frozen=True)
class Line:
    """One stored line.

    Attributes:
        time: RFC 3339 text as the engine wrote it.
        stream: "stdout" or "stderr".
        content: The guest's bytes, with the newline when the guest wrote one.
    """

    time: str
    stream: str
    content: bytes

    @property
    def moment(self) -> float:
        """Seconds since the epoch."""
        return from_text(self.time)


def parse(stored: bytes) -> Line:
    """The line of `stored`, which has its newline.

    Raises:
        ValueError: It is no CRI log line.
    """
    time, stream, tag, content = stored.split(b" ", 3)
    if stream not in (b"stdout", b"stderr") or tag[:1] not in (b"P", b"F"):
        raise ValueError(f"not a CRI log line: {stored[:64]!r}")
    return Line(time.decode(), stream.decode(), content[:-1] if tag[:1] == b"P" else content)


class LogReader:
    """Reads one container's log from its first kept line on, across rotations.

    `read` never waits: callers wait for a change of the directory (inotify) and read again.

    Args:
        consume: Delete each rotated file that has been read, which lets a guest with a lossless log go on.

    Attributes:
        has_lost: Rotation has deleted a file before it was read to its end.
    """

    def __init__(self, path: Path, *, consume: bool = False) -> None:
        self.path = path
        self.has_lost = False
        self._consume = consume
        self._file: BinaryIO | None = None
        self._inode = 0
        self._rest = b""

    def close(self) -> None:
        """Close the file; a later `read` starts at the first kept line again."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._rest = b""

    def read(self) -> list[Line]:
        """The lines that have come since the last call; an empty list at the present end."""
        if self._file is None and not self._open(self._first()):
            return []
        while True:
            if lines := self._read_file():
                return lines
            following = self._following()
            if following is None:
                return []
            if lines := self._read_file():  # what was written between the last read and the rename
                return lines
            if self._consume:
                self._remove_read()
            self._open(following)

    def _read_file(self) -> list[Line]:
        assert self._file is not None
        while content := self._file.read(READ_BYTES):
            complete, newline, self._rest = (self._rest + content).rpartition(b"\n")
            if newline:
                return [parse(stored + b"\n") for stored in complete.split(b"\n")]
        return []

    def _open(self, path: Path | None) -> bool:
        if self._file is not None:
            self._file.close()
            self._file = None
        if path is None:
            return False
        try:
            self._file = os.fdopen(os.open(path, PLAINLY), "rb")
        except FileNotFoundError:
            return False
        self._inode = os.fstat(self._file.fileno()).st_ino
        self._rest = b""
        return True

    def _files(self) -> list[Path]:
        """The kept files, oldest first: rotated names end in their time, the current one has none."""
        rotated = sorted(self.path.parent.glob(f"{self.path.name}.*"))
        plain = [path for path in rotated if path.suffix != ".gz" and not path.name.endswith(".tmp")]
        return [*plain, self.path] if self.path.exists() else plain

    def _first(self) -> Path | None:
        files = self._files()
        return files[0] if files else None

    def _following(self) -> Path | None:
        """The file after the one that is open; None when it is the newest."""
        files = self._files()
        for position, path in enumerate(files):
            try:
                if path.stat().st_ino == self._inode:
                    return files[position + 1] if position + 1 < len(files) else None
            except FileNotFoundError:
                continue
        self.has_lost = self.has_lost or bool(files)
        return files[0] if files else None  # ours was deleted by rotation: go on with the oldest kept one

    def _remove_read(self) -> None:
        """Delete the rotated file that is open and read to its end."""
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):
                if path != self.path and path.stat().st_ino == self._inode:
                    path.unlink()
