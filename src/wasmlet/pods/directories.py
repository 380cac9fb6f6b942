"""Where pods' files are: the agent's own records, and what each pool of engines may use (design sections 1 and 3).

    pods/{uid}/                             the agent's alone: pod.json, facts.json
    pools/{pool}/{uid}/                     volumes, roots of containers
    logs/{pool}/{namespace}_{name}_{uid}/   logs and exit records

An engine's rules are fixed at its start, before its pods are known: they name its pool's two directories, so no engine
reaches a pod of another pool, nor what the agent believes of its own. A pool's directories are emptied by its pods and
removed later, when no engine of it lives: rules are bound to a directory, not to its name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from wasmlet.base.errors import UserError
from wasmlet.kube.types import Pod

__all__ = ["Directories", "Places"]

CLOSED = 0o700
SHARED = 0o750


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
    """All pods' directories below one state directory."""

    def __init__(self, state: Path) -> None:
        self.records = state / "pods"
        self._pools = state / "pools"
        self._logs = state / "logs"
        self._vacated: set[str] = set()

    def make(self) -> None:
        """Make the roots.

        Raises:
            UserError: An earlier release has pods here, whose files lie elsewhere.
        """
        for each, mode in ((self.records, CLOSED), (self._pools, SHARED), (self._logs, SHARED)):
            each.mkdir(mode=mode, parents=True, exist_ok=True)
        old = next((each for name in ("volumes", "containers") for each in self.records.glob(f"*/{name}")), None)
        if old is not None:
            raise UserError(
                f"the state directory has a pod of an earlier release: {old.parent}",
                hint="remove its pods with that release first, or choose another directory with --state",
            )
        self._vacated = {each.name for each in self._pools.iterdir()} | {each.name for each in self._logs.iterdir()}

    def places(self, pod: Pod, pool: str) -> Places:
        """The pod's directories in that pool; with "" there are none but the record yet."""
        return Places(self.records / pod.metadata.uid, self._pools / pool, self._logs / pool, pod)

    def open(self, places: Places, *, living: Collection[str]) -> None:
        """Make the pod's directories, and its pool's when it is the first there.

        Runs without a pause, so that nobody removes the pool's meanwhile.

        Args:
            living: The pools that have an engine now.

        Raises:
            OSError: The disk says no.
        """
        self._vacated.discard(places.pool.name)
        if not places.pool.is_dir():
            self._sweep(living)
        for each in (places.pool, places.pool_logs, places.pod, places.logs):
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

    def _sweep(self, living: Collection[str]) -> None:
        """Remove what pools without pods and engines have left. One whose directory is not empty is looked at again."""
        for pool in [each for each in self._vacated if each not in living]:
            with contextlib.suppress(OSError):
                for each in (self._logs / pool, self._pools / pool):
                    if each.is_dir():
                        each.rmdir()
                self._vacated.discard(pool)
