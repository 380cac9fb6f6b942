"""Ten thousand idle guests on one machine, in as many engines as the agent would open for them."""

from __future__ import annotations

import asyncio
import time

from bench.harness import GUESTS, Row, compiled, engine, memory, spec, state_directory
from wasmlet.sandbox.records import PoolKey
from wasmlet.sandbox.refusals import EngineBusyError

COUNT = 10_000
BAR_GIB = 0.8
BAR_ENGINES = 6


async def measure() -> list[Row]:
    """Start them by the agent's own pool of engines, which opens one more when the newest is full (70 %)."""
    with state_directory() as state:
        async with engine(state) as (pool, first):
            artifact = await compiled(state, GUESTS / "sleep.wasm", first)
            specs = {f"idle-{number}": spec(state, f"idle-{number}", artifact) for number in range(COUNT)}
            permits = asyncio.Semaphore(32)

            async def start(name: str) -> None:
                async with permits:
                    while True:
                        handle = await pool.acquire(PoolKey("bench"))
                        try:
                            await pool.put(name, specs[name], engine=handle.record.id)
                            return
                        except EngineBusyError:
                            continue  # the pool has noted it

            began = time.perf_counter()
            await asyncio.gather(*(start(name) for name in specs))
            seconds = time.perf_counter() - began
            await asyncio.sleep(3)
            found = [memory(each.engine.pid) for each in pool.handles]
            running = sum([(await each.client.engine()).running for each in pool.handles])
    if running != COUNT:
        raise RuntimeError(f"{running} of {COUNT} run")
    total = sum(each["pss"] + each["tables"] for each in found) / 2**30
    holds = total <= BAR_GIB and len(found) <= BAR_ENGINES
    what = f"{COUNT} idle small C guests on one machine, memory and page tables of all engines"
    return [
        Row(what, f"{total:.2f} GiB in {len(found)} engines", f"≤ {BAR_GIB} GiB in ≤ {BAR_ENGINES}", holds),
        Row(f"starting those {COUNT} through the agent's client, 32 at a time", f"{seconds:.1f} s", ""),
    ]
