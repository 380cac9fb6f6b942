"""Files that others replace: by rename, by symlink, in two steps, and badly."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from wasmlet.base.errors import UserError
from wasmlet.node.files import Watched, follow


class Taker:
    """Reads all files at each change; refuses what does not fit together."""

    def __init__(self, *paths: Path) -> None:
        self.paths = list(paths)
        self.taken: list[str] = []
        self.asked = 0
        self.watched = Watched("pair", lambda: self.paths, changed=self.take)

    async def take(self) -> None:
        self.asked += 1
        contents = {each.read_text() for each in self.paths if each.exists()}
        if len(contents) != 1:
            raise UserError("the files do not belong together")
        self.taken.append(contents.pop())


@pytest.fixture
def taker(tmp_path: Path) -> Taker:
    for name in ("certificate", "key"):
        (tmp_path / name).write_text("one")
    return Taker(tmp_path / "certificate", tmp_path / "key")


async def test_nothing_is_read_while_nothing_changes(taker: Taker) -> None:
    for _ in range(3):
        await taker.watched.look()
    assert taker.asked == 0


async def test_a_writer_between_two_files_is_waited_for(taker: Taker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    certificate, key = taker.paths
    certificate.write_text("other")
    for _ in range(2):
        await taker.watched.look()
    assert [each.getMessage() for each in caplog.records] == ["pair not taken over: the files do not belong together"]
    key.write_text("other")
    for _ in range(2):
        await taker.watched.look()
    assert taker.taken == ["other"]


@pytest.mark.parametrize("way", ["rename", "symlink", "same length", "removed and back"])
async def test_every_way_of_replacing_is_seen(tmp_path: Path, way: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    path = tmp_path / "current"
    path.symlink_to("one")
    taker = Taker(path)
    match way:
        case "rename":
            (tmp_path / "two").rename(path)
        case "symlink":
            (tmp_path / "new").symlink_to("two")
            (tmp_path / "new").rename(path)
        case "same length":
            path.write_text("two")
            os.utime(path, ns=(0, 1))
        case _:
            path.unlink()
            await taker.watched.look()
            assert taker.taken == []
            path.write_text("two")
    await taker.watched.look()
    assert taker.taken == ["two"]


async def test_paths_that_become_others_are_looked_at(tmp_path: Path, taker: Taker) -> None:
    taker.paths[0].write_text("two")
    taker.paths[1].unlink()
    await taker.watched.look()
    taker.paths = [taker.paths[0]]
    await taker.watched.look()
    asked = taker.asked
    await taker.watched.look()
    assert taker.asked == asked


async def test_it_goes_on_by_itself(taker: Taker) -> None:
    task = asyncio.get_running_loop().create_task(follow([taker.watched], seconds=0.001))
    for text in ("two", "three"):
        for each in taker.paths:
            each.write_text(text)
        await eventually(lambda text=text: taker.taken[-1:] == [text], taker.taken)  # type: ignore[misc]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
