"""Compiling, the cache, and what is refused."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from tests.support.guests import demo_guest, guest
from tests.support.processes import processes_of
from tests.support.waiting import eventually
from tests.unit.sandbox.conftest import Sandboxes, digest_of
from wasmlet.base.errors import GuestError, RetryableError, WasmletError
from wasmlet.sandbox.artifacts import STALE_AFTER_SECONDS, Artifacts, Settings
from wasmlet.sandbox.engines import PoolKey

MISSING_IMPORT = (
    b"\0asm\x01\0\0\0"
    b"\x01\x04\x01\x60\0\0"
    b"\x02\x0d\x01\x03env\x05greet\0\0"
    b"\x03\x02\x01\0"
    b"\x07\x0a\x01\x06_start\0\x01"
    b"\x0a\x04\x01\x02\0\x0b"
)
"""A command that imports env.greet."""


class Compiler:
    """Artifacts of one directory, and how often something was compiled."""

    def __init__(self, directory: Path, program: Path, **settings: int) -> None:
        self.directory = directory
        self.made = Artifacts(Settings(directory=directory, **settings), program=program)
        self.compiles = 0

    async def ensure(self, module: Path, *, compatibility: str = "c", digest: str | None = None) -> Path:
        def count() -> None:
            self.compiles += 1

        artifact, _ = await self.made.ensure(
            module, digest=digest or digest_of(module), compatibility=compatibility, on_compile=count
        )
        return Path(artifact.path)


@pytest.fixture
def compiler(state_directory: Path, engine_program: Path) -> Compiler:
    return Compiler(state_directory / "cache", engine_program)


async def test_a_module_is_compiled_once(compiler: Compiler, engine_program: Path) -> None:
    path = await compiler.ensure(guest("hello"))
    assert path.stat().st_size > 0
    assert await compiler.ensure(guest("hello")) == path
    later = Compiler(compiler.directory, engine_program)
    assert await later.ensure(guest("hello")) == path
    assert (compiler.compiles, later.compiles) == (1, 0)


async def test_asked_twice_at_once_it_is_compiled_once(compiler: Compiler) -> None:
    await asyncio.gather(*(compiler.ensure(guest("hello")) for _ in range(5)))
    assert compiler.compiles == 1


async def test_another_engine_or_another_module_is_another_artifact(compiler: Compiler) -> None:
    paths = {
        await compiler.ensure(guest("hello")),
        await compiler.ensure(guest("hello"), compatibility="other"),
        await compiler.ensure(guest("exit")),
    }
    assert len(paths) == 3
    assert compiler.compiles == 3


@pytest.mark.parametrize("harm", ["shortened", "record torn", "record gone", "gone"])
async def test_what_is_not_whole_is_compiled_again(compiler: Compiler, engine_program: Path, harm: str) -> None:
    path = await compiler.ensure(guest("hello"))
    record = path.with_suffix(".json")
    match harm:
        case "shortened":
            os.truncate(path, 100)
        case "record torn":
            record.write_bytes(b"{")
        case "record gone":
            record.unlink()
        case "gone":
            path.unlink()
    later = Compiler(compiler.directory, engine_program)
    assert await later.ensure(guest("hello")) == path
    assert later.compiles == 1
    assert path.stat().st_size > 100


async def test_an_artifact_that_goes_while_an_agent_knows_it_is_compiled_again(compiler: Compiler) -> None:
    path = await compiler.ensure(guest("hello"))
    path.unlink()
    assert await compiler.ensure(guest("hello")) == path
    assert compiler.compiles == 2


async def test_an_engine_refuses_a_changed_artifact_and_it_is_discarded(sandboxes: Sandboxes) -> None:
    handle = await sandboxes.engines.acquire(PoolKey("a"))
    spec = await sandboxes.spec(handle, "x", "hello")
    path = Path(spec.artifact.path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(WasmletError) as refusal:
        await sandboxes.engines.put("x", spec, engine=handle.record.id)
    assert refusal.value.reason == "Artifact"
    sandboxes.artifacts.discard(spec.artifact)
    assert not path.exists()
    again = await sandboxes.spec(handle, "x", "hello")
    assert (await sandboxes.engines.put("x", again, engine=handle.record.id)).id == "x"


@pytest.mark.parametrize(
    ("content", "reason", "text"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(57), "NotWasm", "ELF"),
        (b"#!/bin/sh\n", "NotWasm", ""),
        (b"", "NotWasm", ""),
        (b"\0asm", "Malformed", ""),
        (guest("hello").read_bytes()[:-10], "Malformed", ""),
        (b"\0asm\x01\0\0\0", "NoEntryPoint", "_start"),
        (MISSING_IMPORT, "MissingImport", "env.greet"),
    ],
)
async def test_refusals_are_the_guests_and_remembered(
    compiler: Compiler, tmp_path: Path, content: bytes, reason: str, text: str
) -> None:
    module = tmp_path / "app.wasm"
    module.write_bytes(content)
    for _ in range(2):
        with pytest.raises(GuestError) as refusal:
            await compiler.ensure(module)
        assert refusal.value.reason == reason
        assert text in refusal.value.message
    assert compiler.compiles == 1
    assert list(compiler.directory.rglob("*.*")) == []


async def test_memory_has_an_end(state_directory: Path, engine_program: Path) -> None:
    small = Compiler(state_directory / "cache", engine_program, memory_bytes=32 * 1024 * 1024)
    with pytest.raises(GuestError) as refusal:
        await small.ensure(demo_guest("go"))
    assert refusal.value.reason == "CompileMemory"
    assert list(small.directory.rglob("*.*")) == []


async def test_a_module_that_changed_meanwhile_is_tried_again(compiler: Compiler) -> None:
    with pytest.raises(RetryableError, match="changed while it was compiled"):
        await compiler.ensure(guest("hello"), digest=f"sha256:{'0' * 64}")
    assert list(compiler.directory.rglob("*.*")) == []


async def test_a_module_that_is_gone(compiler: Compiler, tmp_path: Path) -> None:
    with pytest.raises(RetryableError, match="No such file"):
        await compiler.ensure(tmp_path / "none.wasm", digest="sha256:0")


async def test_a_helper_that_dies_says_what_it_said(tmp_path: Path) -> None:
    program = tmp_path / "helper"
    program.write_text("#!/bin/sh\necho the end is near >&2\nkill -9 $$\n")
    program.chmod(0o755)
    with pytest.raises(RetryableError, match=r"ended with -9 on .*: the end is near"):
        await Compiler(tmp_path / "cache", program).ensure(guest("hello"))


async def test_a_compile_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    program = tmp_path / "helper"
    program.write_text(f"#!/bin/sh\nexec tail -f {program}\n")
    program.chmod(0o755)
    compiler = Compiler(tmp_path / "cache", program)
    waiting = asyncio.get_running_loop().create_task(compiler.ensure(guest("hello")))
    await eventually(lambda: processes_of(tmp_path), "helper")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert processes_of(tmp_path) == []


async def test_old_artifacts_and_leavings_go(compiler: Compiler) -> None:
    old, young = await compiler.ensure(guest("hello")), await compiler.ensure(guest("exit"))
    now = old.stat().st_mtime
    os.utime(old, (now - STALE_AFTER_SECONDS - 10, now))
    (old.parent / "leaving.tmp").write_bytes(b"x")
    (old.parent / "orphan.json").write_bytes(b"x")
    assert compiler.made.remove_stale(now=now) == 1
    assert sorted(compiler.directory.glob("*/*")) == sorted([young, young.with_suffix(".json")])


def test_a_cache_of_a_release_without_users_is_opened_to_them(tmp_path: Path, engine_program: Path) -> None:
    (tmp_path / "cache" / "ab").mkdir(parents=True)
    artifact, record = (tmp_path / "cache" / "ab" / f"abc.{each}" for each in ("cwasm", "json"))
    for each in (artifact, record):
        each.touch(mode=0o640)
    artifact.parent.chmod(0o750)
    Artifacts(Settings(directory=tmp_path / "cache"), program=engine_program)
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "cache", artifact.parent, artifact, record)]
    assert modes == [0o711, 0o711, 0o644, 0o640]
