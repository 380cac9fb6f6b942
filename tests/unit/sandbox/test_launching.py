"""Engines that do not start."""

from pathlib import Path

import pytest

from tests.support.processes import processes_of
from tests.unit.sandbox.conftest import Sandboxes
from wasmlet.base.errors import RetryableError, WasmletError
from wasmlet.sandbox import launching, protocol
from wasmlet.sandbox.engines import Engines, PoolKey, Settings


def launching_script(tmp_path: Path, text: str) -> Engines:
    """Engines whose program is a shell script."""
    program = tmp_path / "engine"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return Engines(Settings(directory=tmp_path / "engines"), program=program)


async def test_an_engine_that_dies_at_its_start_is_told_with_what_it_said(tmp_path: Path) -> None:
    made = launching_script(tmp_path, "echo no such kernel >&2; exit 1")
    with pytest.raises(RetryableError, match="no such kernel"):
        await made.acquire(PoolKey("a"))
    assert list((tmp_path / "engines").iterdir()) == []
    await made.close()


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    made = Engines(Settings(directory=tmp_path / "engines"), program=tmp_path / "none")
    with pytest.raises(RetryableError, match="cannot start an engine"):
        await made.acquire(PoolKey("a"))
    assert list((tmp_path / "engines").iterdir()) == []
    await made.close()


async def test_a_program_of_another_protocol_is_refused_and_ended(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "PROTOCOL", protocol.PROTOCOL + 1)
    with pytest.raises(WasmletError, match=r"speaks protocol \d+, this agent \d+; .* of one release"):
        await sandboxes.engines.acquire(PoolKey("a"))
    assert "speaks protocol" in sandboxes.engines.launcher.problem
    assert (sandboxes.engines.handles, processes_of(sandboxes.directory)) == ([], [])
    assert list((sandboxes.directory / "engines").iterdir()) == []


async def test_an_engine_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "START_DEADLINE_SECONDS", 0.05)
    made = launching_script(tmp_path, "kill -STOP $$")
    with pytest.raises(RetryableError, match="did not answer within"):
        await made.acquire(PoolKey("a"))
    assert list((tmp_path / "engines").iterdir()) == []
    assert processes_of(tmp_path) == []
    await made.close()
