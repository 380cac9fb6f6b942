"""The files of one attempt's log, read from a place near their end and on across rotations.

An engine renames a file that has grown past its bound to `{name}.{time}` and goes on in a new one; it writes whole
lines, and nothing to a file that has been renamed. Files stay open from the moment when they are listed, so what a
rotation deletes meanwhile is still read. Everything here blocks: call it in a thread, one call at a time.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from pathlib import Path
from typing import Final

from wasmlet.base import beneath
from wasmlet.base.errors import NotFoundError, UserError

READ_BYTES: Final = 64 * 1024
"""Some hundred lines: about 1 ms of the interpreter's time, which the event loop has to wait for."""

LONGEST_LINE_BYTES: Final = 1024 * 1024
"""Engines cut lines at 16 KiB; a file that somebody else made must not fill the memory."""

LISTING_TRIES: Final = 8
"""A file rotates about once in 10 MiB of output: two rotations between listing and opening are rare, eight are not."""


class LogFiles:
    """The stored lines of one log.

    Args:
        root: The directory of the pod's logs.
        directory: The container's directory in it. An engine writes there, so no link in it is followed.
        name: The current file.
    """

    def __init__(self, root: Path, directory: str, name: str) -> None:
        self._root = root
        self._directory = directory
        self._name = name
        self._following: collections.deque[int] = collections.deque()
        self._current: int | None = None
        self._rest = b""
        self._skipping = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<LogFiles {self._directory}/{self._name} {'open' if self._current is not None else 'closed'}>"

    def start(self, *, tail_lines: int | None) -> None:
        """Go to the first kept line, or so many stored lines before the end; a file's torn end is no line yet."""
        with self._lock:
            self._following = collections.deque(self._open_kept())
            if tail_lines is not None:
                self._skip_to_tail(tail_lines)

    def read(self) -> list[bytes]:
        """Some of the following stored lines, each with its newline; an empty list at the present end."""
        with self._lock:
            while self._current is not None or self._open_next():
                if not (content := self._read_current()):
                    if self._following:
                        if lines := self._leave():
                            return lines
                        continue
                    if not self._was_rotated():
                        return []
                    # What was written between the last read and the rename.
                    if not (content := self._read_current()):
                        self._following.extend(self._open_successors())
                        if not self._following:
                            return []
                        continue
                if lines := self._split(content):
                    return lines
            return []

    def rest(self) -> bytes:
        """The beginning of a line that is not whole yet, at the present end; b"" when there is none."""
        return self._rest

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            for descriptor in (*self._following, *([] if self._current is None else [self._current])):
                os.close(descriptor)
            self._following.clear()
            self._current = None

    # --- lines --------------------------------------------------------------------------------------------------------

    def _read_current(self) -> bytes:
        assert self._current is not None
        return os.read(self._current, READ_BYTES)

    def _split(self, content: bytes) -> list[bytes]:
        *complete, self._rest = (self._rest + content).split(b"\n")
        if self._skipping and complete:
            del complete[0]
            self._skipping = False
        if self._skipping or len(self._rest) > LONGEST_LINE_BYTES:
            self._rest = b""
            self._skipping = True
        return [line + b"\n" for line in complete]

    def _leave(self) -> list[bytes]:
        """Close a file that is read to its end, which will not grow any more; a torn last line counts as one."""
        assert self._current is not None
        os.close(self._current)
        self._current = None
        rest, self._rest, self._skipping = self._rest, b"", False
        return [rest + b"\n"] if rest else []

    # --- files --------------------------------------------------------------------------------------------------------

    def _open_next(self) -> bool:
        if not self._following:
            self._following.extend(self._open_kept())
        if not self._following:
            return False
        self._current = self._following.popleft()
        return True

    def _names(self) -> list[str]:
        """The kept files, oldest first: rotated names end in their time. Packed ones are passed over."""
        try:
            descriptor = beneath.open_directory(self._root, self._directory)
        except (UserError, FileNotFoundError):
            return []
        try:
            names = os.listdir(descriptor)
        finally:
            os.close(descriptor)
        rotated = sorted(each for each in names if each.startswith(f"{self._name}."))
        plain = [each for each in rotated if not each.endswith((".gz", ".tmp"))]
        return [*plain, self._name] if self._name in names else plain

    def _open_kept(self) -> list[int]:
        """Descriptors of all kept files, oldest first."""
        for _ in range(LISTING_TRIES - 1):
            names = self._names()
            descriptors = self._open_all(names)
            if names == self._names():
                return descriptors
            for descriptor in descriptors:  # a rotation meanwhile: a file may be missing, or be there twice
                os.close(descriptor)
        return self._open_all(self._names())

    def _open_all(self, names: list[str]) -> list[int]:
        descriptors = []
        for name in names:
            # Gone meanwhile; or a link or a pipe, which no engine of ours makes.
            with contextlib.suppress(NotFoundError, UserError):
                descriptors.append(beneath.open_file(self._root, f"{self._directory}/{name}"))
        return descriptors

    def _was_rotated(self) -> bool:
        """Whether the open file has lost its name: to another one, or to none yet (for ever, if the engine died)."""
        assert self._current is not None
        try:
            found = beneath.stat(self._root, f"{self._directory}/{self._name}")
        except (UserError, FileNotFoundError):
            return False
        return found is None or found.st_ino != os.fstat(self._current).st_ino

    def _open_successors(self) -> list[int]:
        """The files after the open one; all of them, when a rotation has deleted it."""
        assert self._current is not None
        own = os.fstat(self._current).st_ino
        successors: list[int] = []
        for descriptor in self._open_kept():
            successors.append(descriptor)
            if os.fstat(descriptor).st_ino == own:
                for passed in successors:
                    os.close(passed)
                successors = []
        return successors

    # --- the tail -----------------------------------------------------------------------------------------------------

    def _skip_to_tail(self, wanted: int) -> None:
        """Search from the newest file's end; what lies before is closed unread."""
        kept: list[int] = []
        while self._following:
            descriptor = self._following.pop()
            position, wanted = tail_position(descriptor, wanted, is_newest=not kept)
            os.lseek(descriptor, position, os.SEEK_SET)
            kept.append(descriptor)
            if not wanted:
                break
        for descriptor in self._following:
            os.close(descriptor)
        self._following = collections.deque(reversed(kept))


def tail_position(descriptor: int, lines: int, *, is_newest: bool) -> tuple[int, int]:
    """Where the last `lines` stored lines of a file begin, and how many lines are still wanted of older files.

    Args:
        is_newest: A torn end may still become a line: it is not counted. In an older file it is one.
    """
    size = os.fstat(descriptor).st_size
    is_torn = not is_newest and size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    newlines = lines + (0 if is_torn else 1)  # the last line begins after the last newline but one
    if newlines == 0:
        return size, 0
    end = size
    while end > 0:
        begin = max(0, end - READ_BYTES)
        block = os.pread(descriptor, end - begin, begin)
        count = block.count(b"\n")
        if count >= newlines:
            index = len(block)
            for _ in range(newlines):
                index = block.rindex(b"\n", 0, index)
            return begin + index + 1, 0
        newlines -= count
        end = begin
    return 0, newlines - 1
