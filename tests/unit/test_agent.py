"""The composition root: one agent a directory, idleness, its end."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from tests.support.pods import bundle, container, pod
from tests.support.processes import processes_of
from tests.support.waiting import eventually
from wasmlet import agent
from wasmlet.base.errors import ConflictError, UserError
from wasmlet.cli.connect import Agent
from wasmlet.config import Config, File, make_state_directory
from wasmlet.pods.accounts import Account
from wasmlet.pods.dispatch import Dispatch
from wasmlet.server.hub import Hub


@pytest.fixture
def config(state_directory: Path) -> Config:
    return Config(state=state_directory, file=File(engine_idle_seconds=60))


def test_one_holder_at_a_time(config: Config) -> None:
    with agent.held_state(config):
        with pytest.raises(ConflictError, match=f"process {os.getpid()}") as refusal, agent.held_state(config):
            pass
        assert "--state" in (refusal.value.hint or "")
    with agent.held_state(config):
        pass


def test_a_state_directory_is_its_owners_only(tmp_path: Path) -> None:
    config = Config(state=tmp_path / "a" / "b", file=File())
    make_state_directory(config)
    assert config.state.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot use the state directory"):
        make_state_directory(Config(state=tmp_path / "file", file=File()))


# --- idleness ---------------------------------------------------------------------------------------------------------


class Living:
    """As much of a dispatch as idleness looks at."""

    def __init__(self) -> None:
        self.is_idle = False


async def test_idleness_waits_for_silence_and_for_the_last_pod() -> None:
    living, idleness = Living(), agent.Idleness(0.02)
    over = asyncio.get_running_loop().create_task(idleness.over(cast("Dispatch", living)))
    await asyncio.wait([over], timeout=0.1)
    assert not over.done()
    living.is_idle = True
    async with asyncio.timeout(20):
        await over


async def test_asking_puts_idleness_off() -> None:
    living, idleness = Living(), agent.Idleness(1.0)
    living.is_idle = True
    over = asyncio.get_running_loop().create_task(idleness.over(cast("Dispatch", living)))
    for _ in range(6):
        await asyncio.wait([over], timeout=0.25)
        idleness.touch()
    assert not over.done()
    over.cancel()
    with pytest.raises(asyncio.CancelledError):
        await over


# --- serving ----------------------------------------------------------------------------------------------------------

Serve = Callable[..., Any]


@pytest.fixture
async def serving(
    config: Config, engine_program: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Agent, asyncio.Task[None]]]:
    """An agent that is served by this process, and its task."""
    monkeypatch.setenv("WASMLET_ENGINE", str(engine_program))
    readable, writable = os.pipe()
    served = agent.serve(config, idle_seconds=1.0, ready_descriptor=writable)
    task = asyncio.get_running_loop().create_task(served)
    assert await asyncio.to_thread(os.read, readable, 1) == b"\n"
    os.close(readable)
    yield Agent(config), task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_it_serves_runs_and_ends_when_nothing_lives(
    serving: tuple[Agent, asyncio.Task[None]], config: Config
) -> None:
    client, task = serving
    submitted = bundle(container("main", "hello"))
    made = await client.call("POST", "/pods", Account, submitted)
    assert made.pod.metadata.uid == submitted.uid
    async with asyncio.timeout(20):
        await task
    assert processes_of(config.state) == []
    assert (config.state / "pods" / submitted.uid / "facts.json").exists()


async def test_a_signal_ends_it_and_no_pod(serving: tuple[Agent, asyncio.Task[None]], config: Config) -> None:
    client, task = serving
    submitted = bundle(container("main", "sleep"))
    await client.call("POST", "/pods", Account, submitted)
    log = config.state / "logs"
    await eventually(lambda: [each for each in log.rglob("0.log") if each.stat().st_size], log)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(20):
        await task
    assert len(processes_of(config.state)) == 1
    with agent.held_state(config):
        pass


async def test_a_pod_that_lives_keeps_it(serving: tuple[Agent, asyncio.Task[None]]) -> None:
    client, task = serving
    await client.call("POST", "/pods", Account, bundle(container("main", "sleep", "4")))
    await asyncio.wait([task], timeout=3)
    assert not task.done()
    async with asyncio.timeout(20):
        await task


async def test_a_reader_that_is_gone_is_no_hindrance(
    config: Config, engine_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WASMLET_ENGINE", str(engine_program))
    readable, writable = os.pipe()
    os.close(readable)
    async with asyncio.timeout(20):
        await agent.serve(config, idle_seconds=0.05, ready_descriptor=writable)


class Machine:
    """A cluster's half that goes on until it is cancelled, and a machine whose end takes as long as it takes."""

    def __init__(self) -> None:
        self.is_running = asyncio.Event()
        self.goes_down = asyncio.Event()
        self.is_down = asyncio.Event()

    async def run(self, _dispatch: object, _hub: object) -> None:
        self.is_running.set()
        await asyncio.Event().wait()

    async def shut_down(self) -> None:
        self.goes_down.set()
        await self.is_down.wait()


@pytest.mark.parametrize("way", ["the machine is ready", "a second signal"])
async def test_a_signal_lets_the_machine_go_down_first(config: Config, way: str) -> None:
    machine = Machine()
    dispatch = cast(Dispatch, None)
    end = agent._until_the_end(agent.Idleness(None), dispatch, cast(Any, machine), Hub())
    task = asyncio.get_running_loop().create_task(end)
    await machine.is_running.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await machine.goes_down.wait()
    assert not task.done()
    if way == "a second signal":
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        machine.is_down.set()
    await asyncio.wait_for(task, 10)


async def test_static_pods_run_without_a_cluster(
    config: Config, engine_program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WASMLET_ENGINE", str(engine_program))
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    document = msgspec.to_builtins(pod(container("main", "sleep"), name="web"))
    (manifests / "web.json").write_bytes(msgspec.json.encode({"apiVersion": "v1", "kind": "Pod", **document}))
    served = agent.serve(config, manifest_directory=manifests)
    task = asyncio.get_running_loop().create_task(served)
    log = config.state / "logs"
    name = f"default_web-{config.node_name}_*"
    await eventually(lambda: [each for each in log.glob(f"default/{name}/main/0.log") if each.stat().st_size], log)
    (manifests / "web.json").unlink()
    await eventually(lambda: not list((config.state / "pods").iterdir()), log)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
