"""A node in a real cluster: from the POST of a pod to Ready, seen by a client that watches. Mode `host`."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench.harness import GUESTS, Row, Sample, end_processes, memory
from tests.support.cluster import Cluster, running_cluster
from tests.support.registry import docker_registry
from wasmlet.kube import kubeconfig
from wasmlet.kube.client import Client
from wasmlet.kube.resources import PODS
from wasmlet.kube.types import Container, ObjectMeta, Pod, PodSpec, Toleration
from wasmlet.kube.watch import Added, Modified, watch_resource

SEQUENTIAL = 50
BURST = 100
NAME = "bench"


async def measure() -> list[Row]:
    """Fifty pods one after another, then a hundred at once, each with the image present."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wasmlet-bench-")))
        (place / "registry").mkdir()
        registry = stack.enter_context(docker_registry(place / "registry"))
        cluster = stack.enter_context(running_cluster(place / "cluster"))
        stack.callback(end_processes, place / "state")
        image = f"{registry.address}/sleep:1"
        _wasmlet(place, "push", str(GUESTS / "sleep.wasm"), image)
        agent = _join(place, cluster)
        stack.callback(agent.wait)
        stack.callback(agent.kill)
        client = Client(kubeconfig.load(cluster.admin_kubeconfig))
        try:
            return await _measure(client, agent.pid, image)
        finally:
            await client.close()


async def _measure(client: Client, agent: int, image: str) -> list[Row]:
    ready: dict[str, float] = {}
    async with _watching(client, ready):
        await _create(client, "warm-up", image)
        await _all_ready(ready, {"warm-up"}, seconds=60)
        one_by_one = Sample()
        for number in range(SEQUENTIAL):
            began = time.perf_counter()
            await _create(client, f"one-{number}", image)
            await _all_ready(ready, {f"one-{number}"}, seconds=30)
            one_by_one.seconds.append(ready[f"one-{number}"] - began)
        cpu, began = _cpu_seconds(agent), time.perf_counter()
        names = [f"many-{number}" for number in range(BURST)]
        await asyncio.gather(*(_create(client, name, image) for name in names))
        await _all_ready(ready, set(names), seconds=60)
        seconds = max(ready[name] for name in names) - began
        cpu = _cpu_seconds(agent) - cpu
    rate = BURST / seconds
    return [
        Row(
            f"pod POST → Ready, {SEQUENTIAL} one after another, image present",
            one_by_one.milliseconds(),
            "p50 ≤ 20 ms, p99 ≤ 60 ms",
            one_by_one.percentile(50) <= 0.02 and one_by_one.percentile(99) <= 0.06,
        ),
        Row(
            f"{BURST} pods at once, with a service-account token each", f"{rate:.0f} pods/s", "≥ 40 pods/s", rate >= 40
        ),
        Row("agent CPU for each of them", f"{cpu / BURST * 1000:.1f} ms", "≤ 8 ms", cpu / BURST <= 0.008),
        Row("agent with those pods", f"{memory(agent)['rss'] / 1_000_000:.0f} MB", ""),
    ]


def _wasmlet(place: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "wasmlet", "--state", str(place / "state"), *arguments]
    subprocess.run(command, check=True, capture_output=True)


def _join(place: Path, cluster: Cluster) -> subprocess.Popen[bytes]:
    _wasmlet(
        place, "join", "--server", cluster.server, "--token", cluster.bootstrap_token, "--ca-hash", cluster.ca_hash,
        "--node-name", NAME,
    )  # fmt: skip
    command = [sys.executable, "-m", "wasmlet", "--state", str(place / "state"), "node", "--log-level", "error"]
    return subprocess.Popen([*command, "--node-name", NAME, "--port", "10932", "--max-pods", "400"])


async def _create(client: Client, name: str, image: str) -> None:
    tolerations = [Toleration(key="kubernetes.io/arch", operator="Exists")]
    spec = PodSpec(containers=[Container(name="sleep", image=image)], tolerations=tolerations, node_name=NAME)
    await client.create(PODS, Pod(metadata=ObjectMeta(name=name), spec=spec), namespace="default")


@contextlib.asynccontextmanager
async def _watching(client: Client, ready: dict[str, float]) -> AsyncIterator[None]:
    """Notes when each pod was first seen Ready."""

    async def follow() -> None:
        async with contextlib.aclosing(watch_resource(client, PODS, namespace="default")) as events:
            async for event in events:
                if isinstance(event, Added | Modified):
                    conditions = {each.type: each.status for each in event.object.status.conditions}
                    if conditions.get("Ready") == "True":
                        ready.setdefault(event.object.metadata.name, time.perf_counter())

    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow(), name="watch")
        yield
        task.cancel()


async def _all_ready(ready: dict[str, float], names: set[str], *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not names <= ready.keys():  # noqa: ASYNC110  # the moment itself is noted by the watch
            await asyncio.sleep(0.002)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
