"""Wakeups for what happens in a directory."""

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncinotify
import pytest

from wasmlet.server.changes import UNWATCHED_SECONDS, Changes, Wakeup


@pytest.fixture
async def watched() -> AsyncIterator[Changes]:
    changes = Changes()
    yield changes
    await changes.close()


async def woken(wakeup: Wakeup, *, seconds: float = 5.0) -> bool:
    """Whether it is woken in that time; then it sleeps again."""
    try:
        async with asyncio.timeout(seconds):
            await wakeup.wait()
    except TimeoutError:
        return False
    wakeup.clear()
    return True


async def test_what_wakes(watched: Changes, tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    with watched.watch(tmp_path) as wakeup:
        assert not await woken(wakeup, seconds=0.05)
        log.touch()
        assert await woken(wakeup)
        with log.open("a") as file:
            file.write("x")
        assert await woken(wakeup)
        log.rename(tmp_path / "0.log.1")
        assert await woken(wakeup)
        assert not await woken(wakeup, seconds=0.05)


async def test_readers_of_one_directory_share_a_watch(watched: Changes, tmp_path: Path) -> None:
    with watched.watch(tmp_path) as one:
        with watched.watch(tmp_path) as other:
            (tmp_path / "a").touch()
            assert await woken(one)
            assert await woken(other)
            assert len(watched._watches) == 1
        (tmp_path / "b").touch()
        assert await woken(one)
    assert not watched._watches
    assert not watched._readers
    with watched.watch(tmp_path) as again:
        (tmp_path / "c").touch()
        assert await woken(again)


async def test_other_directories_wake_nobody(watched: Changes, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with watched.watch(tmp_path / "a") as a, watched.watch(tmp_path / "b") as b:
        (tmp_path / "a" / "x").touch()
        assert await woken(a)
        assert not await woken(b, seconds=0.05)


async def test_a_directory_that_goes_away(watched: Changes, tmp_path: Path) -> None:
    directory = tmp_path / "a"
    directory.mkdir()
    with watched.watch(directory) as wakeup:
        shutil.rmtree(directory)
        assert await woken(wakeup)
        directory.mkdir()
        with watched.watch(directory) as again:
            await woken(again, seconds=0.05)
            (directory / "x").touch()
            assert await woken(again)


@pytest.mark.parametrize("kind", ["absent", "link", "file"])
async def test_what_cannot_be_watched_is_looked_at_more_often(watched: Changes, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "link":
        path.symlink_to(tmp_path)
    elif kind == "file":
        path.touch()
    with watched.watch(path) as wakeup:
        assert wakeup.resync_seconds == UNWATCHED_SECONDS
        wakeup.resync_seconds = 0.01
        assert await woken(wakeup)
    assert not watched._readers


async def test_no_inotify_instance_left(watched: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(**_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncinotify, "Inotify", none_left)
    with watched.watch(tmp_path) as wakeup:
        assert wakeup.resync_seconds == UNWATCHED_SECONDS


async def test_an_overflow_wakes_everybody(watched: Changes, tmp_path: Path) -> None:
    with watched.watch(tmp_path) as wakeup:
        watched._wake(asyncinotify.Event(watch=None, mask=asyncinotify.Mask.Q_OVERFLOW, cookie=0, name=None))
        assert await woken(wakeup)
