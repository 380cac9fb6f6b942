"""Engines: launched, found again, killed, ended."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.processes import processes_of
from tests.support.waiting import eventually
from tests.unit.sandbox.conftest import Sandboxes
from wasmlet.base.errors import ConflictError, NotFoundError
from wasmlet.sandbox import client, protocol
from wasmlet.sandbox.engines import Engines, PoolKey, Settings
from wasmlet.sandbox.refusals import EngineGoneError


def state_of(sandboxes: Sandboxes, handle: object, identity: str) -> str | None:
    account = sandboxes.account(handle, identity)  # type: ignore[arg-type]
    return None if account is None else account.state


async def test_a_sandbox_is_started_and_its_end_is_told(sandboxes: Sandboxes) -> None:
    handle, identity = await sandboxes.put("exit", "7")
    await eventually(lambda: state_of(sandboxes, handle, identity) == "exited", sandboxes.engines)
    account = sandboxes.account(handle, identity)
    assert account is not None
    assert account.exit is not None
    assert (account.exit.exit_code, account.exit.reason) == (7, "Error")
    assert identity in sandboxes.changes
    saved = protocol.Exit.__name__
    assert saved
    assert (sandboxes.directory / identity / "exit.json").exists()
    await sandboxes.engines.forget(handle.record.id, identity)
    assert sandboxes.account(handle, identity) is None
    assert await handle.client.sandboxes() == []


async def test_a_put_is_idempotent_and_another_body_is_refused(sandboxes: Sandboxes) -> None:
    handle, identity = await sandboxes.put("sleep")
    spec = await sandboxes.spec(handle, identity, "sleep")
    again = await sandboxes.engines.put(identity, spec, engine=handle.record.id)
    assert again.state == "running"
    with pytest.raises(ConflictError):
        await sandboxes.engines.put(
            identity, await sandboxes.spec(handle, identity, "sleep", "3"), engine=handle.record.id
        )
    assert handle.running == 1


async def test_stop_ends_a_sandbox_and_stopping_nothing_is_no_error(sandboxes: Sandboxes) -> None:
    handle, identity = await sandboxes.put("sleep")
    await sandboxes.engines.stop(handle.record.id, identity, grace_seconds=5)
    await eventually(lambda: state_of(sandboxes, handle, identity) == "exited", sandboxes.engines)
    await sandboxes.engines.stop(handle.record.id, identity, grace_seconds=5)
    await sandboxes.engines.stop(handle.record.id, "nobody", grace_seconds=5)
    await sandboxes.engines.stop("nowhere", "nobody", grace_seconds=5)
    await sandboxes.engines.forget("nowhere", "nobody")
    with pytest.raises(NotFoundError):
        await handle.client.stop("nobody", grace_seconds=1)


async def test_one_engine_serves_a_namespace_also_when_asked_twice_at_once(sandboxes: Sandboxes) -> None:
    one, same, other, own = await asyncio.gather(
        *(sandboxes.engines.acquire(PoolKey(*key)) for key in (("a",), ("a",), ("b",), ("a", "uid")))
    )
    assert one is same
    assert len({each.engine.pid for each in (one, other, own)}) == 3
    assert len(sandboxes.engines.handles) == 3


async def test_an_engine_counts_from_its_start_on(sandboxes: Sandboxes) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sandboxes.engines.acquire(PoolKey("a")))
        await asyncio.sleep(0)
        assert (sandboxes.engines.keys, sandboxes.engines.handles) == ({PoolKey("a")}, [])
    assert sandboxes.engines.keys == {PoolKey("a")}


async def test_a_full_engine_is_passed_over(sandboxes: Sandboxes) -> None:
    first = await sandboxes.engines.acquire(PoolKey("a"))
    first.full = True
    assert await sandboxes.engines.acquire(PoolKey("a")) is not first


async def test_an_engine_of_another_release_goes_on_and_takes_nothing_new(sandboxes: Sandboxes, tmp_path: Path) -> None:
    old, running = await sandboxes.put("sleep")
    release = tmp_path / "wasmlet-engine"
    shutil.copy(sandboxes.program, release)  # another file is another release
    sandboxes.program = release
    await sandboxes.restart()
    (adopted,) = sandboxes.engines.handles
    new = await sandboxes.engines.acquire(old.record.key)
    assert new.engine.pid != old.engine.pid
    await sandboxes.engines.stop(adopted.record.id, running, grace_seconds=0)
    await eventually(lambda: state_of(sandboxes, adopted, running) == "exited", sandboxes.engines)


async def test_launches_are_forgotten_when_they_are_over(sandboxes: Sandboxes) -> None:
    for name in ("a", "b"):
        await sandboxes.engines.acquire(PoolKey(name))
    assert list(sandboxes.engines._launches) == []


async def test_an_engine_of_the_next_protocol_goes_on_and_takes_nothing_new(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, running = await sandboxes.put("sleep")
    monkeypatch.setattr(protocol, "PROTOCOL", old.engine.protocol + 1)
    await sandboxes.restart()
    (adopted,) = sandboxes.engines.handles
    assert (adopted.old, adopted.full, state_of(sandboxes, adopted, running)) == (True, True, "running")
    await sandboxes.engines.stop(adopted.record.id, running, grace_seconds=0)
    await eventually(lambda: state_of(sandboxes, adopted, running) == "exited", sandboxes.engines)


async def test_an_engine_of_a_protocol_that_is_further_away_is_ended(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, _ = await sandboxes.put("sleep")
    monkeypatch.setattr(protocol, "PROTOCOL", old.engine.protocol + 2)
    await sandboxes.restart()
    assert sandboxes.engines.handles == []
    await eventually(lambda: old.engine.pid not in processes_of(sandboxes.directory), old)
    (killed,) = [each for each in caplog.records if each.getMessage() == "engine killed"]
    assert f"speaks protocol {old.engine.protocol}, this agent {old.engine.protocol + 2}" in vars(killed)["why"]


async def test_engines_are_found_again(sandboxes: Sandboxes) -> None:
    handle, running = await sandboxes.put("sleep")
    _, ended = await sandboxes.put("exit", "4")
    await eventually(lambda: state_of(sandboxes, handle, ended) == "exited", sandboxes.engines)
    await sandboxes.restart()
    (adopted,) = sandboxes.engines.handles
    assert (adopted.engine.pid, adopted.record) == (handle.engine.pid, handle.record)
    assert state_of(sandboxes, adopted, running) == "running"
    assert state_of(sandboxes, adopted, ended) == "exited"
    assert await sandboxes.engines.acquire(adopted.record.key) is adopted
    sandboxes.changes.clear()
    await sandboxes.engines.stop(adopted.record.id, running, grace_seconds=0)
    await eventually(lambda: state_of(sandboxes, adopted, running) == "exited", sandboxes.engines)
    assert running in sandboxes.changes


async def test_a_killed_engine_is_told_and_nothing_of_it_remains(sandboxes: Sandboxes) -> None:
    handle, identity = await sandboxes.put("sleep")
    other, kept = await sandboxes.put("sleep", key=PoolKey("other"))
    sandboxes.changes.clear()
    os.kill(handle.engine.pid, signal.SIGKILL)
    await eventually(lambda: identity in sandboxes.changes, sandboxes.engines)
    assert sandboxes.account(handle, identity) is None
    assert not sandboxes.engines.is_alive(handle.record.id)
    assert sandboxes.engines.handles == [other]
    assert state_of(sandboxes, other, kept) == "running"
    assert not (sandboxes.directory / "engines" / handle.record.id).exists()
    with pytest.raises(EngineGoneError):
        await sandboxes.engines.put("x", await sandboxes.spec(other, "x", "sleep"), engine=handle.record.id)
    assert await sandboxes.engines.acquire(handle.record.key) is not handle


async def test_an_adopted_engine_that_is_killed_is_told_too(sandboxes: Sandboxes) -> None:
    handle, identity = await sandboxes.put("sleep")
    await sandboxes.restart()
    sandboxes.changes.clear()
    os.kill(handle.engine.pid, signal.SIGKILL)
    await eventually(lambda: identity in sandboxes.changes, sandboxes.engines)
    assert sandboxes.engines.handles == []


async def test_an_engine_that_hangs_while_an_agent_starts_is_not_forgotten(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, _ = await sandboxes.put("sleep")
    monkeypatch.setattr(client, "REQUEST_TIMEOUT_SECONDS", 0.2)
    os.kill(handle.engine.pid, signal.SIGSTOP)
    await sandboxes.restart()
    os.kill(handle.engine.pid, signal.SIGCONT)
    assert sandboxes.engines.is_alive(handle.record.id) == (handle.engine.pid in processes_of(sandboxes.directory))


async def test_what_dead_engines_left_is_removed(sandboxes: Sandboxes) -> None:
    handle, _ = await sandboxes.put("sleep")
    await sandboxes.engines.close()
    os.kill(handle.engine.pid, signal.SIGKILL)
    await eventually(lambda: handle.engine.pid not in processes_of(sandboxes.directory), handle)
    (sandboxes.directory / "engines" / "stray").mkdir()
    torn = sandboxes.directory / "engines" / "torn"
    torn.mkdir()
    (torn / "engine.json").write_bytes(b"{")
    await sandboxes.restart()
    assert sandboxes.engines.handles == []
    assert list((sandboxes.directory / "engines").iterdir()) == []


async def test_an_idle_engine_ends_and_one_that_works_does_not(sandboxes: Sandboxes) -> None:
    idle, identity = await sandboxes.put("hello")
    busy, _ = await sandboxes.put("sleep", key=PoolKey("other"))
    await eventually(lambda: state_of(sandboxes, idle, identity) == "exited", sandboxes.engines)
    sandboxes.idle_seconds = 0.1
    await sandboxes.restart()
    await eventually(lambda: not sandboxes.engines.is_alive(idle.record.id), sandboxes.engines)
    assert [each.record for each in sandboxes.engines.handles] == [busy.record]
    assert idle.engine.pid not in processes_of(sandboxes.directory)


async def test_close_leaves_engines_and_may_end_the_idle_ones(sandboxes: Sandboxes) -> None:
    idle = await sandboxes.engines.acquire(PoolKey("idle"))
    busy, _ = await sandboxes.put("sleep")
    await sandboxes.engines.close(end_idle=True)
    await eventually(lambda: processes_of(sandboxes.directory) == [busy.engine.pid], idle)


async def test_events_missed_while_away_are_caught_up(sandboxes: Sandboxes) -> None:
    handle, identity = await sandboxes.put("sleep", "1")
    await sandboxes.engines.close()
    await eventually((sandboxes.directory / identity / "exit.json").exists, "exit.json")
    await sandboxes.restart()
    (adopted,) = sandboxes.engines.handles
    assert state_of(sandboxes, adopted, identity) == "exited"
    del handle


async def test_an_engine_with_sandboxes_does_not_shut_down(sandboxes: Sandboxes) -> None:
    handle, _ = await sandboxes.put("sleep")
    with pytest.raises(ConflictError):
        await handle.client.shut_down()
    with pytest.raises(ConflictError):
        await handle.client.forget("s0")


async def test_a_deep_directory_is_no_matter(state_directory: Path, engine_program: Path) -> None:
    made = Sandboxes(state_directory / ("deep" * 20) / ("deeper" * 20), engine_program)
    try:
        handle, identity = await made.put("hello")
        await eventually(lambda: state_of(made, handle, identity) == "exited", made.engines)
    finally:
        await made.engines.close()


async def test_an_engine_is_given_its_memory_budget(sandboxes: Sandboxes) -> None:
    settings = Settings(directory=sandboxes.directory / "bounded", memory_bytes=1 << 30)
    made = Engines(settings, program=sandboxes.program)
    try:
        handle = await made.acquire(PoolKey("default"))
        assert handle.engine.memory == protocol.Budget(used=0, limit=1 << 30)
        assert handle.engine.connections is not None
    finally:
        await made.close(end_idle=True)
