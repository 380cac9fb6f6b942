"""`python -m bench [NAME...]`: measure everything, or these parts, and print the table of docs/benchmarks.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from datetime import UTC, datetime
from typing import Final

from bench import commands, density, http, idle, images, lag, many, node, short, starts
from bench.harness import Row

ROOMS: Final = {
    room.__name__.rpartition(".")[2]: room.measure
    for room in (node, commands, starts, idle, lag, images, http, short, density, many)
}
"""In this order: the last ones delete ten thousands of files, which makes new ones dear on ext4 for minutes."""


def main() -> None:
    """Measure one after another; a measurement that fails is told, and the others go on."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", nargs="*", help=f"one of {', '.join(ROOMS)}; all when none is named")
    names = parser.parse_args().name or list(ROOMS)
    if unknown := [name for name in names if name not in ROOMS]:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(ROOMS)}")
    memory, began = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, time.monotonic()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, ", end="")
    print(f"Linux {platform.release()}, Python {platform.python_version()}\n")
    print("| measured | result | bar | holds |\n|---|---|---|---|", flush=True)
    for name in names:
        for row in _rows(name):
            print(f"| {row.what} | {row.measured} | {row.bar} | {row.verdict} |", flush=True)
    print(f"\ntook {(time.monotonic() - began) / 60:.0f} min")


def _rows(name: str) -> list[Row]:
    try:
        found = ROOMS[name]()
        return found if isinstance(found, list) else asyncio.run(found)
    except Exception as error:  # one bench that fails must not hide the others' figures
        return [Row(name, f"failed: {error!r}", "", False)]


if __name__ == "__main__":
    main()
