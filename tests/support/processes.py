"""The processes that tests start: found by what they were started with, ended by their id."""

import contextlib
import os
import signal
from pathlib import Path

from tests.support.waiting import eventually_now


def processes_of(directory: Path) -> list[int]:
    """The ids of all processes that were started with `directory` or something below it as an argument."""
    found = []
    wanted = os.fsencode(directory)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if any(each == wanted or each.startswith(wanted + b"/") for each in arguments):
                found.append(int(entry.name))
    return sorted(found)


def end(pid: int) -> None:
    """SIGKILL; a child of this process is waited for."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def end_all(directory: Path) -> None:
    """End every process of `directory`, and wait until none is left."""

    def is_none_left() -> bool:
        for pid in processes_of(directory):
            end(pid)
        return not processes_of(directory)

    eventually_now(is_none_left, directory)
