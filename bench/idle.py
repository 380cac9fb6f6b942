"""A node of a real cluster on which nothing happens: what the agent takes of a core and of memory."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

from bench.harness import Row, end_processes, memory, wake_ups
from bench.node import NAME, cpu_seconds, join
from tests.support.cluster import running_cluster
from wasmlet.kube import kubeconfig
from wasmlet.kube.client import Client
from wasmlet.node.objects import NODES

SETTLING_SECONDS = 15.0
SECONDS = 60.0
"""Six rounds of status and Lease."""


async def measure() -> list[Row]:
    """A minute after the node has become Ready."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wasmlet-bench-")))
        cluster = stack.enter_context(running_cluster(place / "cluster"))
        stack.callback(end_processes, place / "state")
        agent = join(place, cluster)
        stack.callback(agent.wait)
        stack.callback(agent.kill)
        client = Client(kubeconfig.load(cluster.admin_kubeconfig))
        try:
            await _until_ready(client)
        finally:
            await client.close()
        await asyncio.sleep(SETTLING_SECONDS)
        cpu, woken = cpu_seconds(agent.pid), wake_ups(agent.pid)
        await asyncio.sleep(SECONDS)
        share = (cpu_seconds(agent.pid) - cpu) / SECONDS
        woken = wake_ups(agent.pid) - woken
        resident = memory(agent.pid)["rss"]
    return [
        Row("idle node, agent's share of a core", f"{share:.2%}", "≤ 1 %", share <= 0.01),
        Row("idle node, agent's memory", f"{resident / 1_000_000:.0f} MB", "≤ 75 MB", resident <= 75_000_000),
        Row("idle node, wake-ups of the agent", f"{woken / SECONDS:.1f}/s", ""),
    ]


async def _until_ready(client: Client) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Exception):
                ready = (await client.get(NODES, NAME)).condition("Ready")
                if ready is not None and ready.status == "True":
                    return
            await asyncio.sleep(0.1)
