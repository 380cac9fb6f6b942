"""A process that pulls images and tells what that cost: `python -m bench.pulls LOOP DIRECTORY COPIES REFERENCE...`.

It is a process of its own, so that memory and the event loop's lag are of pulling alone. Images of files are unpacked,
and laid as a container's root. With POLICY in the environment every image has to be vouched for.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from pathlib import Path

from bench.harness import Sample
from wasmlet.images.library import Library
from wasmlet.images.settings import Settings

TICK_SECONDS = 0.005


async def pull(directory: Path, copies: int, references: list[str]) -> dict[str, float]:
    """Pull all references at once, each as often as `copies` says: seconds, CPU, lag p99 and memory's growth."""
    policy = os.environ.get("POLICY")
    library = Library(Settings(directory=directory, policy_file=Path(policy) if policy else None))
    lag = Sample()
    ticking = asyncio.ensure_future(_tick(lag))  # noqa: TID251
    try:
        await _warm(library, references[0])
        memory, lag.seconds = _memory("VmRSS"), []
        _forget_peak()
        began, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(_used(library, directory, each) for each in references for _ in range(copies)))
        seconds, used = time.perf_counter() - began, time.process_time() - used
        return {
            "seconds": seconds,
            "cpu_seconds": used,
            "lag_p99": lag.percentile(99),
            "more_bytes": _memory("VmHWM") - memory,
        }
    finally:
        ticking.cancel()
        await library.close()


async def _used(library: Library, directory: Path, reference: str) -> None:
    """As a container has it."""
    image, _ = await library.ensure(reference, pull_policy="IfNotPresent")
    if image.tree is not None:
        root = directory.with_name("roots") / os.urandom(8).hex()
        await asyncio.to_thread(root.mkdir, parents=True)
        await library.lay(image, root, writable=True)


async def _warm(library: Library, reference: str) -> None:
    """Imports and a connection are not what is measured."""
    registry = await library._downloads.connected()  # noqa: SLF001
    from wasmlet.images.reference import parse_remote  # noqa: PLC0415

    await registry.resolve(parse_remote(reference))
    await asyncio.sleep(0.05)


async def _tick(lag: Sample) -> None:
    while True:
        asked = time.perf_counter()
        await asyncio.sleep(TICK_SECONDS)
        lag.seconds.append(max(0.0, time.perf_counter() - asked - TICK_SECONDS))


def _memory(name: str) -> int:
    """Bytes of this process: VmRSS, or VmHWM, the most that it was since the last `_forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{name}:"))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    loop, directory, copies, *references = sys.argv[1:]
    factory = importlib.import_module("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(pull(Path(directory), int(copies), references))))
