"""What every bench needs: a state directory, an engine or an agent in it, and a way to tell what came out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wasmlet.sandbox import protocol
from wasmlet.sandbox.artifacts import Artifacts
from wasmlet.sandbox.artifacts import Settings as ArtifactSettings
from wasmlet.sandbox.engines import Access, Engines, Handle, PoolKey
from wasmlet.sandbox.engines import Settings as EngineSettings
from wasmlet.sandbox.program import find_engine_program

ROOT = Path(__file__).parent.parent
GUESTS = ROOT / "tests" / "guests"
DEMOS = ROOT / "demos"


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, what came out, and the bar that it is held against."""

    what: str
    measured: str
    bar: str
    holds: bool | None = None

    @property
    def verdict(self) -> str:
        """A word for the table; None is a figure without a bar."""
        return {True: "yes", False: "no", None: ""}[self.holds]


@dataclass
class Sample:
    """Durations in seconds."""

    seconds: list[float] = field(default_factory=list)

    def percentile(self, percent: int) -> float:
        """The value below which `percent` of the durations lie."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]

    def milliseconds(self) -> str:
        """`p50 1.2 ms, p99 3.4 ms`."""
        return f"p50 {self.percentile(50) * 1000:.2f} ms, p99 {self.percentile(99) * 1000:.2f} ms"


MEMORY = Path("/dev/shm")  # a folder of our own is made in it
"""A file system without a disk: what is measured there is the engine, and not how the disk finds a free inode."""


@contextlib.contextmanager
def state_directory(within: Path | None = None) -> Iterator[Path]:
    """A state directory that is gone afterwards, with every process that served it."""
    with tempfile.TemporaryDirectory(prefix="wasmlet-bench-", dir=within, ignore_cleanup_errors=True) as name:
        state = Path(name)
        try:
            yield state
        finally:
            end_processes(state)


def end_processes(state: Path) -> None:
    """Kill the agent and the engines whose command lines name `state`."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if str(state).encode() in (process / "cmdline").read_bytes() and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)


@contextlib.asynccontextmanager
async def engine(state: Path) -> AsyncIterator[tuple[Engines, Handle]]:
    """An engine of its own."""
    pool = Engines(
        EngineSettings(directory=state / "engines", access=Access(write=(state,)), idle_seconds=3600),
        program=find_engine_program(),
    )
    try:
        yield pool, await pool.acquire(PoolKey("bench"))
    finally:
        await pool.close()


async def compiled(state: Path, module: Path, handle: Handle) -> protocol.Artifact:
    """The artifact of `module`."""
    cache = Artifacts(ArtifactSettings(directory=state / "cache"), program=find_engine_program())
    digest = f"sha256:{hashlib.sha256(module.read_bytes()).hexdigest()}"
    artifact, _ = await cache.ensure(module, digest=digest, compatibility=handle.engine.compatibility)
    return artifact


def spec(state: Path, identity: str, artifact: protocol.Artifact, *args: str) -> protocol.SandboxSpec:
    """A sandbox with a log and an exit file below `state`."""
    folder = state / "sandboxes" / identity
    folder.mkdir(parents=True)
    return protocol.SandboxSpec(
        pod_uid=identity,
        pod_namespace="bench",
        pod_name=identity,
        container="bench",
        attempt=0,
        artifact=artifact,
        args=["bench", *args],
        log=protocol.Log(path=str(folder / "0.log")),
        exit_file=str(folder / "exit.json"),
    )


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process: `rss`, `pss` (its share of what is shared), `tables` (the kernel's page tables for it)."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name.lower()] = int(rest.split()[0]) * 1024
    status = Path(f"/proc/{pid}/status").read_text()
    tables = next(line for line in status.splitlines() if line.startswith("VmPTE"))
    return {"rss": found["rss"], "pss": found["pss"], "tables": int(tables.split()[1]) * 1024}


def wake_ups(pid: int) -> int:
    """How often any thread of the process was given a core so far."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for line in (thread / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total


def run_command(state: Path, *arguments: str) -> tuple[int, float, bytes]:
    """Run the installed command line; its status, its seconds, and its stdout."""
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "wasmlet", "--state", str(state), *arguments], capture_output=True, check=False
    )
    return result.returncode, time.perf_counter() - started, result.stdout


async def until(condition: asyncio.Event, *, seconds: float = 60.0) -> None:
    """Wait for an event, but not for ever."""
    async with asyncio.timeout(seconds):
        await condition.wait()


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)
