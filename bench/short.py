"""Short commands, one engine: from the request to the end that is written down and told, and forgotten again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench.harness import GUESTS, MEMORY, Row, compiled, engine, median, spec, state_directory
from bench.wire import Wire, forget, put, spread, wire

COMMANDS = 3000
AT_ONCE = 16
RUNS = 5
BAR = 1000
"""A second; runwasi publishes 330 tasks a second."""


async def measure() -> list[Row]:
    """`hello` many times: each prints a line into its log, and ends with an exit file and an event."""
    what = f"short commands through one engine, {AT_ONCE} at a time: start → exit, median of {RUNS} × {COMMANDS}"
    rows = []
    for where, within in (("files in memory", MEMORY), ("files on disk", None)):
        rates = [await _rate(within) for _ in range(RUNS)]
        each = ", ".join(f"{rate:.0f}" for rate in rates)
        rows.append(Row(f"{what}, {where}", f"{median(rates):.0f}/s ({each})", f"≥ {BAR}/s", median(rates) >= BAR))
    return rows


async def _rate(within: Path | None) -> float:
    with state_directory(within) as state:
        async with engine(state) as (_, handle):
            artifact = await compiled(state, GUESTS / "hello.wasm", handle)
            names = [f"hello-{number}" for number in range(COMMANDS)]
            requests = {name: put(name, spec(state, name, artifact)) for name in names}
            ends = {name: asyncio.get_running_loop().create_future() for name in names}

            async def run(line: Wire, name: str) -> None:
                await line.ask(requests[name])
                await ends[name]
                await line.ask(forget(name))

            async with wire(handle.client.directory) as events, asyncio.TaskGroup() as group:
                told = group.create_task(events.exits(lambda name: ends[name].set_result(None)))
                began = time.perf_counter()
                await spread(handle.client.directory, names, run, at_once=AT_ONCE)
                seconds = time.perf_counter() - began
                told.cancel()
            for name in names:
                if (state / "sandboxes" / name / "exit.json").stat().st_size == 0:
                    raise RuntimeError(f"{name} has no exit")
    return COMMANDS / seconds
