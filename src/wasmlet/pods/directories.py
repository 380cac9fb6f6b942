"""Where pods' files are: the agent's own records, and what each pool of engines may use (design sections 1 and 3).

    pods/{uid}/                             the agent's alone: pod.json, facts.json
    pools/{pool}/{uid}/                     volumes, roots of containers
    logs/{pool}/{namespace}_{name}_{uid}/   logs and exit records

An engine's rules are fixed at its start, before its pods are known: they name its pool's two directories, so no engine
reaches a pod of another pool, nor what the agent believes of its own. A pool's directories are emptied by its pods and
removed later, when no engine of it lives: rules are bound to a directory, not to its name.

Where engines have users of their own, a pool's directories are open to its group alone, and what is made in them
belongs to that group (by the set-group-ID bit). The group of `pools/{pool}` is the one fact that says which user a pool
has: it holds as long as anything of the pool is there, whatever the settings become.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from wasmlet.base.errors import UserError
from wasmlet.kube.types import Pod
from wasmlet.sandbox.engines import PoolKey
from wasmlet.sandbox.users import Range

__all__ = ["Directories", "Places"]

CLOSED = 0o700
PASSABLE = 0o711
SHARED = 0o750
NEW = ".new"


class Places:
    """The directories of one pod. Names are checked when a pod is admitted, so they can be joined to paths.

    Attributes:
        record: What the agent keeps of it.
        pool: What the engines of its pool may use; `pool_logs` with logs.
        pod: Its volumes and its containers' roots.
        logs: Its logs, one directory for each container.
    """

    def __init__(self, record: Path, pool: Path, pool_logs: Path, pod: Pod) -> None:
        meta = pod.metadata
        self.record = record
        self.pool = pool
        self.pool_logs = pool_logs
        self.pod = pool / meta.uid
        self.logs = pool_logs / f"{meta.namespace}_{meta.name}_{meta.uid}"

    def attempt(self, container: str, number: int) -> Path:
        """What one attempt of a container has: its root directory."""
        return self.pod / "containers" / container / str(number)

    def exit_file(self, container: str, number: int) -> Path:
        """Written by the engine, beside the log, before it sends the exited event."""
        return self.logs / container / f"{number}.exit.json"

    def log_file(self, container: str, number: int) -> Path:
        """CRI log of one attempt, named by its restart count (contract section 8)."""
        return self.logs / container / f"{number}.log"


class Directories:
    """All pods' directories below one state directory.

    Args:
        users: Of which each new pool has one; None: engines stay the agent's user.
    """

    def __init__(self, state: Path, users: Range | None = None) -> None:
        self.records = state / "pods"
        self.users = users
        self._state = state
        self._pools = state / "pools"
        self._logs = state / "logs"
        self._vacated: set[str] = set()
        self._groups: dict[str, int] = {}
        self._last = 0

    def make(self) -> None:
        """Make the roots.

        Raises:
            UserError: An earlier release has pods here, whose files lie elsewhere.
        """
        for each, mode in ((self.records, CLOSED), (self._pools, PASSABLE), (self._logs, PASSABLE)):
            each.mkdir(parents=True, exist_ok=True)
            each.chmod(mode)
        old = next((each for name in ("volumes", "containers") for each in self.records.glob(f"*/{name}")), None)
        if old is not None:
            raise UserError(
                f"the state directory has a pod of an earlier release: {old.parent}",
                hint="remove its pods with that release first, or choose another directory with --state",
            )
        self._vacated = {each.name for root in (self._pools, self._logs) for each in root.iterdir()}
        if os.geteuid() == 0:
            groups = {each.name: each.stat().st_gid for each in self._pools.iterdir()}
            self._groups = {pool: group for pool, group in groups.items() if group != os.getegid()}
        self._last = max(self._groups.values(), default=0)
        if self._groups or self.users is not None:
            self._state.chmod(stat.S_IMODE(self._state.stat().st_mode) | PASSABLE)

    def places(self, pod: Pod, pool: str) -> Places:
        """The pod's directories in that pool; with "" there are none but the record yet."""
        return Places(self.records / pod.metadata.uid, self._pools / pool, self._logs / pool, pod)

    def group(self, places: Places) -> int | None:
        """The group of the pod's pool, which its user has the number of; None: its engines stay the agent's user."""
        return self._groups.get(places.pool.name)

    def open(self, places: Places, *, living: Collection[PoolKey]) -> None:
        """Make the pod's directories, and its pool's when it is the first there.

        Runs without a pause, so that nobody removes the pool's meanwhile.

        Args:
            living: Of the engines that live now.

        Raises:
            RetryableError: There is no user for a further pool.
            OSError: The disk says no.
        """
        self._vacated.discard(places.pool.name)
        if not places.pool.is_dir():
            self._sweep({each.pool for each in living})
            self._found(places, set(_users(living)))
        elif not places.pool_logs.is_dir():
            self._give(places.pool_logs, self.group(places))
        for each in (places.pod, places.logs):
            each.mkdir(mode=SHARED, exist_ok=True)

    def vacate(self, places: Places) -> None:
        """The pod's directories are gone: its pool's may go with the next sweep, if they are empty."""
        if places.pool != self._pools:
            self._vacated.add(places.pool.name)

    def all(self) -> dict[str, list[Path]]:
        """Every directory of a pod, by UID."""
        found: dict[str, list[Path]] = {}
        for each in (*self._logs.glob("*/*"), *self._pools.glob("*/*"), *self.records.iterdir()):
            found.setdefault(each.name.rpartition("_")[2], []).append(each)
        return found

    def _found(self, places: Places, in_use: set[int]) -> None:
        """Make a pool's directories; the one whose group says the pool's user last, and in one step."""
        group = None
        if self.users is not None:
            group = self._last = self.users.free(in_use | set(self._groups.values()), after=self._last)
        self._give(places.pool_logs, group)
        new = places.pool.with_name(NEW)
        self._give(new, group)
        new.rename(places.pool)
        if group is not None:
            self._groups[places.pool.name] = group

    def _give(self, directory: Path, group: int | None) -> None:
        directory.mkdir(mode=CLOSED, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(directory, -1, os.getegid() if group is None else group)
        directory.chmod(SHARED | stat.S_ISGID if group is not None else SHARED)

    def _sweep(self, living: Collection[str]) -> None:
        """Remove what pools without pods and engines have left. One whose directory is not empty is looked at again."""
        for pool in [each for each in self._vacated if each not in living]:
            with contextlib.suppress(OSError):
                for each in (self._logs / pool, self._pools / pool):
                    if each.is_dir():
                        each.rmdir()
                self._vacated.discard(pool)
                self._groups.pop(pool, None)


def _users(keys: Collection[PoolKey]) -> Iterator[int]:
    for each in keys:
        if each.user is not None:
            yield from (each.user.user, each.user.group, *each.user.groups)
