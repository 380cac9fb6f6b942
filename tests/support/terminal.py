"""A terminal of the test's own, and commands on it."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import termios
from collections.abc import Iterator

from tests.support.command import Command
from tests.support.waiting import eventually_now


class Terminal:
    """A pty. Attributes: `master` is the person's end, `slave` the command's."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self._before = termios.tcgetattr(self.slave)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)

    @property
    def is_as_before(self) -> bool:
        """Whether its settings are those that it was made with."""
        return termios.tcgetattr(self.slave) == self._before

    @contextlib.contextmanager
    def running(self, command: Command, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command on it that has made it raw; killed at the end if it has not ended."""
        process = subprocess.Popen(
            command.arguments(*arguments), env=command.environment,
            stdin=self.slave, stdout=self.slave, stderr=self.slave,
        )  # fmt: skip
        try:
            eventually_now(lambda: not termios.tcgetattr(self.slave)[3] & termios.ICANON, "raw")
            yield process
        finally:
            process.kill()
            process.wait()

    def read(self, count: int) -> bytes:
        """At least `count` bytes that it shows."""
        shown = b""
        while len(shown) < count:
            shown += os.read(self.master, 100)
        return shown
