"""Programs of others, ended in time whatever they do."""

import os
import time
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from wasmlet.base.programs import Answer, ask

SHELL = "/bin/sh"


async def test_it_is_asked_and_answers() -> None:
    answer = await ask(["cat"], question=b"who?" * 50_000, seconds=20, most_bytes=1 << 20)
    assert answer == Answer(0, b"who?" * 50_000)


async def test_its_environment_is_what_is_given() -> None:
    answer = await ask(["/usr/bin/env"], environment={"A": "1"}, seconds=20, most_bytes=1000)
    assert answer == Answer(0, b"A=1\n")


async def test_its_status_is_told_and_what_it_complains_of_is_not() -> None:
    assert await ask([SHELL, "-c", "echo a; echo b >&2; exit 3"], seconds=20, most_bytes=10) == Answer(3, b"a\n")
    assert await ask([SHELL, "-c", "kill -9 $$"], seconds=20, most_bytes=10) == Answer(-9, b"")


@pytest.mark.parametrize("attempt", range(5))
async def test_one_that_says_too_much_is_ended_although_nobody_reads_the_rest(attempt: int) -> None:
    """Its pipe is full at each moment between the first byte too many and its end."""
    before, descriptors = time.monotonic(), set(os.listdir("/proc/self/fd"))
    answer = await ask(["cat", "/dev/zero"], seconds=20, most_bytes=(1 << 20) + attempt)
    assert answer.status is None
    assert time.monotonic() - before < 15
    assert set(os.listdir("/proc/self/fd")) == descriptors


async def test_one_that_waits_is_ended_with_its_children(tmp_path: Path) -> None:
    script = f"sleep 300 & echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/child; wait"
    with pytest.raises(TimeoutError):
        await ask([SHELL, "-c", script], seconds=2, most_bytes=10)
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    await eventually(lambda: not child.exists() or child.read_text().split()[2] == "Z", child)


async def test_one_that_is_missing() -> None:
    descriptors = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        await ask(["/none"], seconds=1, most_bytes=10)
    assert set(os.listdir("/proc/self/fd")) == descriptors
