"""In the engine: from the request to the started event, for modules compiled before."""

from __future__ import annotations

import time
from pathlib import Path

from bench.harness import DEMOS, GUESTS, Row, Sample, compiled, engine, spec, state_directory
from wasmlet.sandbox.engines import Engines, Handle

STARTS = 1000
GO_STARTS = 20


async def measure() -> list[Row]:
    """A small C guest a thousand times, one after another; a Go guest's first and later starts."""
    with state_directory() as state:
        async with engine(state) as (pool, handle):
            small = await _starts(state, pool, handle, GUESTS / "hello.wasm", STARTS)
        async with engine(state) as (pool, handle):
            began = time.perf_counter()
            go = DEMOS / "hello-world-go" / "hello-world-wasi-go.wasm"
            await compiled(state, go, handle)
            compile_seconds = time.perf_counter() - began
            large = await _starts(state, pool, handle, go, GO_STARTS)
    second = Sample(large.seconds[1:])
    return [
        Row(
            f"request → started event, {STARTS} starts of a small C guest",
            small.milliseconds(),
            "p50 ≤ 1 ms, p99 ≤ 3 ms",
            small.percentile(50) <= 0.001 and small.percentile(99) <= 0.003,
        ),
        Row("first start of a 2.6 MB Go guest: compile", f"{compile_seconds:.2f} s", ""),
        Row(
            "then its first start in an engine",
            f"{large.seconds[0] * 1000:.1f} ms",
            "≤ 10 ms",
            large.seconds[0] <= 0.01,
        ),
        Row(
            "later starts of it, median",
            f"{second.percentile(50) * 1000:.2f} ms",
            "≤ 10 ms",
            second.percentile(50) <= 0.01,
        ),
    ]


async def _starts(state: Path, pool: Engines, handle: Handle, module: Path, count: int) -> Sample:
    artifact = await compiled(state, module, handle)
    specs = {f"{module.stem}-{number}": None for number in range(count)}
    events = handle.client.events(after=handle.sequence, incarnation=handle.engine.incarnation)
    sample = Sample()
    for identity in specs:
        wanted = spec(state, identity, artifact)
        began = time.perf_counter()
        await handle.client.put(identity, wanted)
        async for event in events:
            if event.sandbox is not None and event.sandbox.id == identity and event.type == "started":
                sample.seconds.append(time.perf_counter() - began)
            if event.sandbox is not None and event.sandbox.id == identity and event.type == "exited":
                break
        await handle.client.forget(identity)
    await events.aclose()  # type: ignore[attr-defined]
    del pool
    return sample
