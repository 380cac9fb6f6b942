"""`python -m bench`: measure everything, and print the table of docs/benchmarks.md."""

from __future__ import annotations

import asyncio
import os
import platform
from datetime import UTC, datetime

from bench import commands, density, http, idle, images, lag, node, starts
from bench.harness import Row


def main() -> None:
    """Measure one after another; a measurement that fails is told, and the others go on."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, ", end="")
    print(f"Linux {platform.release()}, Python {platform.python_version()}\n")
    print("| measured | result | bar | holds |\n|---|---|---|---|", flush=True)
    rooms = (commands, starts, density, http, images, lag, node, idle)
    for measure in [room.measure for room in rooms]:
        try:
            found = measure()
            rows = found if isinstance(found, list) else asyncio.run(found)
        except Exception as error:  # one bench that fails must not hide the others' figures
            rows = [Row(measure.__module__, f"failed: {error!r}", "", False)]
        for row in rows:
            print(f"| {row.what} | {row.measured} | {row.bar} | {row.verdict} |", flush=True)


if __name__ == "__main__":
    main()
