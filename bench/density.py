"""A thousand idle guests in one engine, and what an idle engine and an idle agent cost."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from bench.harness import (
    GUESTS,
    MEMORY,
    Row,
    compiled,
    engine,
    median,
    memory,
    run_command,
    spec,
    state_directory,
    wake_ups,
)
from bench.wire import put, spread
from wasmlet.sandbox import protocol

GUESTS_COUNT = 1000
RUNS = 3
AT_ONCE = 32
BAR_SECONDS = 0.5
REST_SECONDS = 5.0


async def measure() -> list[Row]:
    """Density, then idleness."""
    return [*await _density(), *await _starts_in_memory(), *await _idle_engine(), *await _idle_agent()]


async def _density() -> list[Row]:
    with state_directory() as state:
        async with engine(state) as (_, handle):
            artifact = await compiled(state, GUESTS / "sleep.wasm", handle)
            await handle.client.put("first", spec(state, "first", artifact))
            await asyncio.sleep(1)
            before = memory(handle.engine.pid)
            seconds = [await _start(state, handle.client.directory, artifact, first) for first in range(RUNS)]
            await asyncio.sleep(2)
            after = memory(handle.engine.pid)
            woken = wake_ups(handle.engine.pid)
            await asyncio.sleep(REST_SECONDS)
            woken = wake_ups(handle.engine.pid) - woken
            info = await handle.client.engine()
    each = (after["pss"] + after["tables"] - before["pss"] - before["tables"]) / (RUNS * GUESTS_COUNT) / 1024
    return [
        Row(
            f"{RUNS * GUESTS_COUNT} idle small C guests, memory and page tables of the engine, each",
            f"{each:.1f} KiB",
            "≤ 60 KiB",
            each <= 60,
        ),
        _started(seconds, "files on disk"),
        Row(
            "maps and descriptors of that engine",
            f"{info.maps.used} of {info.maps.limit}, {info.descriptors.used} of {info.descriptors.limit}",
            "",
        ),
        Row(f"wake-ups of that engine in {REST_SECONDS:g} s", str(woken), ""),
    ]


async def _starts_in_memory() -> list[Row]:
    with state_directory(MEMORY) as state:
        async with engine(state) as (_, handle):
            artifact = await compiled(state, GUESTS / "sleep.wasm", handle)
            await handle.client.put("first", spec(state, "first", artifact))
            seconds = [await _start(state, handle.client.directory, artifact, first) for first in range(RUNS)]
    return [_started(seconds, "files in memory")]


def _started(seconds: list[float], where: str) -> Row:
    what = f"starting {GUESTS_COUNT} idle small C guests, {AT_ONCE} requests at a time, {where}, median of {RUNS}"
    return Row(what, f"{median(seconds):.2f} s", f"≤ {BAR_SECONDS} s", median(seconds) <= BAR_SECONDS)


async def _start(state: Path, directory: Path, artifact: protocol.Artifact, group: int) -> float:
    """The seconds that a thousand starts take, their directories made before."""
    names = [f"idle-{group}-{number}" for number in range(GUESTS_COUNT)]
    requests = {name: put(name, spec(state, name, artifact)) for name in names}
    began = time.perf_counter()
    await spread(directory, names, lambda line, name: line.ask(requests[name]), at_once=AT_ONCE)
    return time.perf_counter() - began


async def _idle_engine() -> list[Row]:
    with state_directory() as state:
        async with engine(state) as (_, handle):
            artifact = await compiled(state, GUESTS / "hello.wasm", handle)
            await handle.client.put("hello", spec(state, "hello", artifact))
            await asyncio.sleep(1)
            rss = memory(handle.engine.pid)["rss"] / 1_000_000
            woken = wake_ups(handle.engine.pid)
            await asyncio.sleep(REST_SECONDS)
            woken = wake_ups(handle.engine.pid) - woken
    return [
        Row("idle engine, after one guest", f"{rss:.1f} MB", "≤ 15 MB", rss <= 15),
        Row(f"its wake-ups in {REST_SECONDS:g} s", str(woken), "none", woken == 0),
    ]


async def _idle_agent() -> list[Row]:
    with state_directory() as state:
        process = subprocess.Popen(  # noqa: ASYNC220  # the agent is to outlive this call
            [sys.executable, "-m", "wasmlet", "--state", str(state), "node", "--log-level", "error"]
        )
        try:
            for _ in range(3):
                await asyncio.to_thread(run_command, state, "run", str(GUESTS / "hello.wasm"))
            listed = await asyncio.to_thread(run_command, state, "ps", "-o", "json")
            assert json.loads(listed[2])["items"] == []
            await asyncio.sleep(1)
            rss = memory(process.pid)["rss"] / 1_000_000
            woken = wake_ups(process.pid)
            await asyncio.sleep(REST_SECONDS)
            woken = wake_ups(process.pid) - woken
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)
    return [
        Row("idle agent, after three runs", f"{rss:.1f} MB", "≤ 70 MB", rss <= 70),
        Row(f"its wake-ups in {REST_SECONDS:g} s", str(woken), ""),
    ]
