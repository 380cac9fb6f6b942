"""A node in a real cluster: from the POST of a pod to Ready, seen by a client that watches; then a thousand pods."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench import bare
from bench.harness import GUESTS, Row, Sample, end_processes, memory, wake_ups
from tests.support.cluster import Cluster, running_cluster
from tests.support.node import free_port
from tests.support.registry import docker_registry
from wasmlet.cli import connect
from wasmlet.config import Config, File
from wasmlet.kube import kubeconfig
from wasmlet.kube.client import Client
from wasmlet.kube.resources import PODS
from wasmlet.kube.types import Container, ObjectMeta, Pod, PodSpec, Toleration
from wasmlet.kube.watch import Added, Modified, watch_resource

SEQUENTIAL = 50
BURST = 100
MANY = 1000
QUIET_SECONDS = 30.0
NAME = "bench"
LAG_MILLISECONDS = 20.0
NETWORK = "host"
"""What pods' addresses cost is in docs/decisions/0008; mode `podcidr` would leave a network behind."""


async def measure() -> list[Row]:
    """Fifty pods one after another, then bursts of a hundred, then a thousand, each with the image present."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wasmlet-bench-")))
        place.chmod(0o711)  # engines have users of their own, who must find their way to it
        (place / "registry").mkdir()
        registry = stack.enter_context(docker_registry(place / "registry"))
        extra = ["kube-controller-manager=--node-cidr-mask-size=22"]
        cluster = stack.enter_context(running_cluster(place / "cluster", extra=extra))
        stack.callback(end_processes, place / "state")
        image = f"{registry.address}/sleep:1"
        _wasmlet(place, "push", str(GUESTS / "sleep.wasm"), image)
        agent = join(place, cluster)
        stack.callback(agent.wait)
        stack.callback(agent.kill)
        least = stack.enter_context(_bare_loop(cluster))
        stack.callback(least.kill)
        client = Client(kubeconfig.load(cluster.admin_kubeconfig))
        try:
            lag = Lag(place / "state")
            return [*await _measure(client, agent.pid, image, lag), *await _many(client, agent.pid, image, lag)]
        finally:
            await client.close()


async def _measure(client: Client, agent: int, image: str, lag: Lag) -> list[Row]:
    ready: dict[str, float] = {}
    ours, least = Sample(), Sample()
    async with _watching(client, ready):
        await _create(client, "warm-up", image)
        await _create(client, "bare-warm-up", image, node=bare.NAME)
        await _all_ready(ready, {"warm-up", "bare-warm-up"}, seconds=60)
        for number in range(SEQUENTIAL):
            for sample, node in ((ours, NAME), (least, bare.NAME)):
                began = time.perf_counter()
                await _create(client, f"{node}-{number}", image, node=node)
                await _all_ready(ready, {f"{node}-{number}"}, seconds=30)
                sample.seconds.append(ready[f"{node}-{number}"] - began)
        floor, _ = await _burst(client, agent, image, ready, "least", token=False, node=bare.NAME)
        async with lag.measured(seconds=4):
            plain, plain_cpu = await _burst(client, agent, image, ready, "plain", token=False)
        await asyncio.sleep(1)  # its events are still told
        token, token_cpu = await _burst(client, agent, image, ready, "token", token=True)
    longer = ours.percentile(50) / least.percentile(50)
    return [
        Row(
            f"pod POST → Ready, {SEQUENTIAL} one after another, image present",
            ours.milliseconds(),
            "p50 ≤ 20 ms, p99 ≤ 60 ms",
            ours.percentile(50) <= 0.02 and ours.percentile(99) <= 0.06,
        ),
        Row("the same with a bare loop, in turn with it (bench/bare.py)", least.milliseconds(), ""),
        Row("p50 against the bare loop's", f"{longer:.2f} ×", "≤ 1.8 × (20 of 11 ms)", longer <= 1.8),
        Row(f"{BURST} pods at once, no service-account token", f"{plain:.0f} pods/s", "≥ 60 pods/s", plain >= 60),
        Row("the same with the bare loop", f"{floor:.0f} pods/s", ""),
        Row("against it", f"{plain / floor:.2f} ×", "≥ 0.68 × (60 of 88 pods/s)", plain / floor >= 0.68),
        Row("agent CPU for each of them", f"{plain_cpu:.1f} ms", "≤ 8 ms", plain_cpu <= 8),
        Row(f"{BURST} pods at once, with a token each", f"{token:.0f} pods/s", "≥ 40 pods/s", token >= 40),
        Row("agent CPU for each of them", f"{token_cpu:.1f} ms", "≤ 8 ms", token_cpu <= 8),
        lag.row("event-loop lag during the first of these bursts"),
    ]


async def _burst(
    client: Client, agent: int, image: str, ready: dict[str, float], prefix: str, *, token: bool, node: str = NAME
) -> tuple[float, float]:
    """Pods a second until all are Ready, and the agent's milliseconds of CPU for each, events included."""
    cpu, began = cpu_seconds(agent), time.perf_counter()
    names = [f"{prefix}-{number}" for number in range(BURST)]
    await asyncio.gather(*(_create(client, name, image, token=token, node=node) for name in names))
    await _all_ready(ready, set(names), seconds=60)
    seconds = max(ready[name] for name in names) - began
    await asyncio.sleep(2)
    return BURST / seconds, (cpu_seconds(agent) - cpu) / BURST * 1000


async def _many(client: Client, agent: int, image: str, lag: Lag) -> list[Row]:
    """A node with a thousand pods on which nothing happens."""
    ready: dict[str, float] = {}
    async with _watching(client, ready):
        names = [f"crowd-{number}" for number in range(MANY - 2 * BURST - SEQUENTIAL - 1)]
        began = time.perf_counter()
        async with lag.measured(seconds=10):
            for start in range(0, len(names), BURST):
                batch = names[start : start + BURST]
                await asyncio.gather(*(_create(client, name, image) for name in batch))
            await _all_ready(ready, set(names), seconds=180)
        seconds = max(ready[name] for name in names) - began
    await asyncio.sleep(20)  # events are told slower than pods start
    cpu, woken = cpu_seconds(agent), wake_ups(agent)
    await asyncio.sleep(QUIET_SECONDS)
    share = (cpu_seconds(agent) - cpu) / QUIET_SECONDS
    woken = round((wake_ups(agent) - woken) / QUIET_SECONDS)
    size = memory(agent)["rss"] / 1_000_000
    return [
        Row(f"{len(names)} more pods as fast as they are posted", f"{len(names) / seconds:.0f} pods/s", ""),
        lag.row("event-loop lag in the first ten seconds of that"),
        Row(f"agent with {MANY} running pods", f"{size:.0f} MB", "≤ 130 MB", size <= 130),
        Row("its CPU when nothing changes", f"{share:.1%} of a core", "≤ 5 % of a core", share <= 0.05),
        Row("its wake-ups a second then", f"{woken}", ""),
    ]


class Lag:
    """The agent's own measure of its event loop."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._found: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def measured(self, *, seconds: float) -> AsyncIterator[None]:
        """Measure for so long, while the context runs or longer."""
        agent = await connect.reach(Config(state=self._state, file=File()))
        asked = asyncio.ensure_future(agent.call("GET", "/debug/lag", dict[str, float], seconds=seconds))  # noqa: TID251
        await asyncio.sleep(0.1)
        yield
        self._found = await asked

    def row(self, what: str) -> Row:
        """What was found last."""
        found = self._found
        text = f"p50 {found['p50']:.1f} ms, p99 {found['p99']:.1f} ms, most {found['max']:.1f} ms"
        return Row(what, text, f"p99 ≤ {LAG_MILLISECONDS:g} ms", found["p99"] <= LAG_MILLISECONDS)


def _bare_loop(cluster: Cluster) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.bare", str(cluster.admin_kubeconfig)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it is ready
    return process


def _wasmlet(place: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "wasmlet", "--state", str(place / "state"), *arguments]
    subprocess.run(command, check=True, capture_output=True)


def join(place: Path, cluster: Cluster) -> subprocess.Popen[bytes]:
    """Join, and start the agent; its state is in `place/state`."""
    _wasmlet(
        place, "join", "--server", cluster.server, "--token", cluster.bootstrap_token, "--ca-hash", cluster.ca_hash,
        "--node-name", NAME,
    )  # fmt: skip
    command = [sys.executable, "-m", "wasmlet", "--state", str(place / "state"), "node", "--log-level", "error"]
    flags = ["--node-name", NAME, "--port", free_port(), "--max-pods", "1100", "--network", NETWORK]
    return subprocess.Popen([*command, *flags])


async def _create(client: Client, name: str, image: str, *, token: bool = True, node: str = NAME) -> None:
    tolerations = [Toleration(key="kubernetes.io/arch", operator="Exists")]
    spec = PodSpec(
        containers=[Container(name="sleep", image=image)], tolerations=tolerations, node_name=node,
        automount_service_account_token=token,
    )  # fmt: skip
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


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
