"""Where an engine runs: in a scope or a control group of its own, so that the agent's unit neither ends nor starves it.

- `Scopes`: the agent is a service of systemd. Each engine gets a transient scope by `systemd-run --scope`, which asks
  systemd for it and then becomes the engine (the process id stays). `Before={the agent's unit}` has the scope stop
  after the agent when the machine goes down, since systemd reverses the order of starts.
- `Groups`: somebody has delegated a directory of cgroup v2 to the agent.
- `Beside`: neither; engines are where the agent is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from wasmlet.base.errors import UserError

__all__ = ["Beside", "Groups", "Placement", "Scopes", "choose", "service_of", "unprotect"]

logger = logging.getLogger(__name__)

PROCESSES: Final = Path("/proc")
OWN_CGROUPS: Final = Path("/proc/self/cgroup")
BOOTED: Final = Path("/run/systemd/system")
"""Exists where systemd is the init (sd_booted)."""

SLICE: Final = "wasmlet.slice"
"""Beside system.slice, so that pods and the machine's services share the cores by halves when both want all."""


class Placement(Protocol):
    """Places engines, by their ids."""

    def command(self, engine: str) -> list[str]:
        """What to put before the engine's own command line."""

    def place(self, engine: str, pid: int) -> None:
        """The engine runs as `pid`. Raises OSError."""

    def release(self, engine: str) -> None:
        """The engine has ended."""


class Beside:
    """Engines where the agent is, without a bound."""

    def command(self, engine: str) -> list[str]:  # noqa: ARG002
        """Nothing."""
        return []

    def place(self, engine: str, pid: int) -> None:
        """Nothing."""

    def release(self, engine: str) -> None:
        """Nothing."""


class Scopes(Beside):
    """A transient scope for each engine; it goes with the engine.

    Args:
        program: systemd-run.
        service: The agent's unit, such as `wasmlet.service`.
        memory_bytes: MemoryMax of each scope; 0: none.
    """

    def __init__(self, program: Path, service: str, *, memory_bytes: int) -> None:
        self._program = program
        self._service = service
        self._memory_bytes = memory_bytes

    def __repr__(self) -> str:
        return f"<Scopes before {self._service}>"

    def command(self, engine: str) -> list[str]:
        """`systemd-run --scope … --`."""
        properties = [f"Before={self._service}", "TasksMax=infinity"]
        if self._memory_bytes:
            properties.append(f"MemoryMax={self._memory_bytes}")
        return [
            str(self._program), "--scope", "--quiet", "--collect", f"--unit=wasmlet-{engine}.scope", f"--slice={SLICE}",
            f"--description=Engine of {self._service}", *(f"--property={each}" for each in properties), "--",
        ]  # fmt: skip


class Groups(Beside):
    """A directory of cgroup v2 for each engine, below one that is the agent's own.

    Args:
        directory: No process may be in it, and its `cgroup.subtree_control` decides what can be bounded.
        memory_bytes: memory.max of each; 0: none.
    """

    def __init__(self, directory: Path, *, memory_bytes: int) -> None:
        self._directory = directory
        self._memory_bytes = memory_bytes

    def __repr__(self) -> str:
        return f"<Groups {self._directory}>"

    def place(self, engine: str, pid: int) -> None:
        """Make the group, bound it, and move the process there; threads that it has by now go with it."""
        group = self._group(engine)
        group.mkdir(exist_ok=True)
        limit = group / "memory.max"
        if self._memory_bytes and limit.exists():
            limit.write_text(str(self._memory_bytes))
        (group / "cgroup.procs").write_text(str(pid))

    def release(self, engine: str) -> None:
        """Remove the group; a process that is not collected yet keeps it, and `adopt` removes it later."""
        with contextlib.suppress(OSError):
            self._group(engine).rmdir()

    def _group(self, engine: str) -> Path:
        return self._directory / f"engine-{engine}"


def unprotect(pid: int, *, processes: Path = PROCESSES) -> None:
    """Let the kernel end an engine before the agent when memory is over: the unit's OOMScoreAdjust is inherited."""
    path = processes / str(pid) / "oom_score_adj"
    with contextlib.suppress(OSError, ValueError):  # it has ended; its end is told elsewhere
        if int(path.read_text()) < 0:
            path.write_text("0")


def service_of(cgroups: str) -> str:
    """The unit in /proc/self/cgroup when that is a service of systemd, else "".

    Both forms: `0::/system.slice/wasmlet.service` (v2) and `1:name=systemd:/system.slice/wasmlet.service` (v1).
    """
    for line in cgroups.splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        unit = path.rpartition("/")[2]
        if controllers in ("", "name=systemd") and unit.endswith(".service") and "/user@" not in path:
            return unit
    return ""


def choose(
    *,
    directory: Path | None,
    memory_bytes: int,
    environment: Mapping[str, str],
    is_root: bool,
    cgroups: Path = OWN_CGROUPS,
    booted: Path = BOOTED,
) -> Placement:
    """How engines are placed here.

    Args:
        directory: What was delegated to the agent; None: systemd is asked, if this is a service of it.
        environment: Of this process; systemd names the main process of a service in SYSTEMD_EXEC_PID. An agent that a
            command started inside somebody else's service is not that one.
        is_root: Others may ask systemd for nothing.

    Raises:
        UserError: `directory` is no cgroup that the agent may use.
    """
    if directory is not None:
        if not (directory / "cgroup.procs").exists():
            raise UserError(f"{directory} is no control group", hint="engine-cgroup names a directory of cgroup v2")
        if memory_bytes and "memory" not in _words(directory / "cgroup.subtree_control"):
            logger.warning("engines have no memory bound", extra={"cgroup": str(directory), "missing": "memory"})
        return Groups(directory, memory_bytes=memory_bytes)
    is_main = environment.get("SYSTEMD_EXEC_PID") == str(os.getpid())
    service = service_of(_text(cgroups)) if is_root and is_main and booted.is_dir() else ""
    program = shutil.which("systemd-run", path=environment.get("PATH")) if service else None
    return Beside() if program is None else Scopes(Path(program), service, memory_bytes=memory_bytes)


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
