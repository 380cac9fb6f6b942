"""What is saved of an engine, and the process that it is: engines outlive the agent that started them."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

import msgspec

logger = logging.getLogger(__name__)

RECORD_NAME = "engine.json"
END_SECONDS = 10.0
"""How long a killed engine is waited for."""


class User(msgspec.Struct, frozen=True, rename="camel"):
    """Whom an engine becomes: a user, the group of what it makes, and further groups."""

    user: int
    group: int
    groups: tuple[int, ...] = ()

    def argument(self) -> str:
        """As the engine's command line says it."""
        return f"--user={self.user}:{','.join(map(str, (self.group, *self.groups)))}"


class PoolKey(msgspec.Struct, frozen=True, rename="camel"):
    """Which sandboxes may share an engine (design section 1). `namespace` "" is all of them.

    `dedicated` is the UID of a pod that gets an engine of its own, since it mounts other people's directories; ""
    shares one among the pods of the namespace. `network` is the file of the network namespace that it joins; "" is the
    agent's own, where pods of the host's network live. `user` is whom it becomes; None: it stays the agent's.
    """

    namespace: str
    dedicated: str = ""
    network: str = ""
    user: User | None = None

    @property
    def pool(self) -> str:
        """The name of what its engines share; no namespace has an @ in its name."""
        if self.dedicated:
            return f"{self.namespace}@{self.dedicated}"
        return self.namespace or "@node"


@dataclass(frozen=True, kw_only=True)
class Access:
    """The directories, with all that will ever lie below, that an engine's process may use (design section 3).

    The kernel holds it to them from its start on, and nothing can be added later.
    """

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()

    def arguments(self) -> list[str]:
        """As the engine's command line says it."""
        read = [f"--read={each}" for each in self.read]
        return [*read, *(f"--write={each}" for each in self.write)]


class Record(msgspec.Struct, frozen=True, rename="camel"):
    """The fact about an engine that outlives the agent.

    `pid` is 0 until it was started; `program` tells the engine's file from that of another release.
    """

    id: str
    key: PoolKey
    pid: int = 0
    program: str = ""


def end_unheard(record: bytes, directory: Path, *, why: str) -> None:
    """An engine that lives but cannot be spoken with would run its guests beside their successors: it is killed.

    Its process id may be another's by now, so its command line has to name the directory.
    """
    with contextlib.suppress(msgspec.DecodeError, OSError):
        pid = msgspec.json.decode(record, type=Record).pid
        if pid <= 0:
            return
        pidfd = os.pidfd_open(pid)
        try:
            if _serves(pid, directory):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                logger.error("engine killed", extra={"engine": directory.name, "pid": pid, "why": why})
                select.select([pidfd], [], [], END_SECONDS)
        finally:
            os.close(pidfd)


def resident_bytes(pid: int) -> int:
    """The memory that a process has now; 0 when it has ended."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def living_processes(directory: Path, *, network: str) -> list[int]:
    """The process ids of the engines below `directory` that have joined that network namespace, agent or not."""
    found = []
    for each in sorted(directory.glob(f"*/{RECORD_NAME}")):
        with contextlib.suppress(msgspec.DecodeError, OSError):
            record = msgspec.json.decode(each.read_bytes(), type=Record)
            if record.key.network == network and record.pid > 0 and _serves(record.pid, each.parent):
                found.append(record.pid)
    return found


def _serves(pid: int, directory: Path) -> bool:
    """Whether the process is the engine of that directory. Raises OSError when there is none."""
    return os.fsencode(directory) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
