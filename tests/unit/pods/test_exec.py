"""What exec finds in a container."""

import shutil
from pathlib import Path

import pytest

from tests.support.agent import Agent
from tests.support.guests import guest
from tests.support.pods import bundle, container, data_volume
from wasmlet.base.errors import ConflictError, NotFoundError, UserError, WasmletError
from wasmlet.kube.types import VolumeMount
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.exec import COMMAND_NOT_FOUND


async def running(agent: Agent) -> tuple[Bundle, Path]:
    """A pod whose container sees the directory `tools` of a volume at /tools and all of it at /data."""
    mounts = [
        VolumeMount(name="data", mount_path="/tools", sub_path="in/tools"),
        VolumeMount(name="data", mount_path="/data"),
    ]
    submitted = bundle(container("main", "sleep", volume_mounts=mounts), volumes=[data_volume()])
    agent.dispatch.submit(submitted)
    attempt = await agent.until_running(submitted)
    return submitted, Path(next(each.root for each in attempt.directories if each.guest_path == "/data"))


async def test_a_module_is_found_where_the_guest_sees_it_also_by_the_next_agent(agent: Agent) -> None:
    submitted, data = await running(agent)
    shutil.copy(guest("exit"), data / "in" / "tools" / "exit.wasm")
    specs = []
    for path in ("/tools/exit.wasm", "/data/in/tools/exit.wasm", "tools/../tools//exit.wasm", "//tools/exit.wasm"):
        _, spec = await agent.dispatch.exec(submitted.uid, "main", [path, "x"], stdin=True)
        assert (spec.args, spec.stdin) == ([path, "x"], True)
        specs.append(spec.artifact)
    await agent.restart()
    attempt, spec = await agent.dispatch.exec(submitted.uid, "main", ["/tools/exit.wasm"], stdin=False)
    assert [*specs, spec.artifact] == [spec.artifact] * 5
    assert spec.artifact is not None
    assert attempt.number == 0
    for own in ("sleep", "sleep.wasm", "main"):
        assert (await agent.dispatch.exec(submitted.uid, "main", [own], stdin=False))[1].artifact is None


async def test_a_function_of_a_module_in_a_mount(agent: Agent) -> None:
    submitted, data = await running(agent)
    shutil.copy(guest("exit"), data / "in" / "tools" / "exit.wasm")
    for path in ("/tools/exit.wasm#_start", "tools/exit.wasm#_start"):
        _, spec = await agent.dispatch.exec(submitted.uid, "main", [path], stdin=False)
        assert spec.artifact is not None
        assert (spec.args, spec.artifact.function) == ([path], "_start")
    for named in ("exit.wasm#_start", "main#_start"):
        with pytest.raises(NotFoundError, match="in container 'main'") as raised:
            await agent.dispatch.exec(submitted.uid, "main", [named], stdin=False)
        assert raised.value.reason == COMMAND_NOT_FOUND


async def test_links_that_a_guest_plants_lead_nowhere(agent: Agent, tmp_path: Path) -> None:
    submitted, data = await running(agent)
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(guest("exit"), outside / "exit.wasm")
    (data / "file.wasm").symlink_to(outside / "exit.wasm")
    (data / "up.wasm").symlink_to("../" * 20 + str(outside).lstrip("/") + "/exit.wasm")
    (data / "in" / "tools").rmdir()
    (data / "in" / "tools").symlink_to(outside)
    for path in ("/data/file.wasm", "/data/up.wasm", "/tools/exit.wasm", "/data/in/tools/exit.wasm"):
        with pytest.raises(UserError):
            await agent.dispatch.exec(submitted.uid, "main", [path], stdin=False)


async def test_what_is_no_command(agent: Agent) -> None:
    submitted, data = await running(agent)
    (data / "fifo.wasm").mkdir()
    cases: list[tuple[str, list[str], type[WasmletError], str]] = [
        ("main", [], UserError, "UserError"),
        ("main", ["/data/nothing"], NotFoundError, COMMAND_NOT_FOUND),
        ("main", ["other.wasm"], NotFoundError, COMMAND_NOT_FOUND),
        ("main", ["/bin/sh", "-c", "true"], NotFoundError, COMMAND_NOT_FOUND),
        ("main", ["cat"], NotFoundError, COMMAND_NOT_FOUND),
        ("main", ["/data/fifo.wasm"], UserError, "UserError"),
        ("main", ["/data/\0"], UserError, "UserError"),
        ("other", ["x"], NotFoundError, "NotFoundError"),
    ]
    for name, command, kind, reason in cases:
        with pytest.raises(kind) as raised:
            await agent.dispatch.exec(submitted.uid, name, command, stdin=False)
        assert raised.value.reason == reason, command
    (data / "large.wasm").touch()
    with (data / "large.wasm").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="larger"):
        await agent.dispatch.exec(submitted.uid, "main", ["/data/large.wasm"], stdin=False)
    agent.dispatch.end(submitted.uid, remove=False)
    await agent.until_ended(submitted)
    with pytest.raises(ConflictError, match="has ended"):
        await agent.dispatch.exec(submitted.uid, "main", ["x"], stdin=False)
