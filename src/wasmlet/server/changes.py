"""Wakes readers when something happens in a directory: one inotify instance for all of them (the kernel gives 128)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wasmlet.base.tasks import Tasks

if TYPE_CHECKING:
    from asyncinotify import Event, Inotify, Watch

logger = logging.getLogger(__name__)

RESYNC_SECONDS: Final = 30.0
"""How often a reader looks although nothing was said."""

UNWATCHED_SECONDS: Final = 1.0
"""The same when the kernel has no watch left for it; a kubelet's logForceCheckPeriod."""

REST_SECONDS: Final = 0.005
"""Between two rounds of events: the kernel merges equal ones meanwhile, so that a busy log does not fill the loop."""

EVENTS_AT_ONCE: Final = 500
"""About 10 ms of them at most."""


class Wakeup:
    """Tells one reader to look again. `resync_seconds`: after so long it looks anyway."""

    def __init__(self) -> None:
        self.resync_seconds = RESYNC_SECONDS
        self._event = asyncio.Event()

    def set(self) -> None:
        """Something happened."""
        self._event.set()

    def clear(self) -> None:
        """The reader begins to look: what happens from now on wakes it again."""
        self._event.clear()

    async def wait(self) -> None:
        """Until something happens, or it is time to look anyway."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.resync_seconds):
                await self._event.wait()


class Changes:
    """Watches directories while somebody wants to know."""

    def __init__(self) -> None:
        self._inotify: Inotify | None = None
        self._readers: dict[Path, set[Wakeup]] = {}
        self._watches: dict[Path, Watch] = {}
        self._tasks = Tasks()

    def __repr__(self) -> str:
        return f"<Changes of {len(self._readers)} directories>"

    @contextlib.contextmanager
    def watch(self, directory: Path) -> Iterator[Wakeup]:
        """A wakeup for what happens in the directory. When it cannot be watched, the wakeup resyncs more often."""
        wakeup = Wakeup()
        readers = self._readers.setdefault(directory, set())
        readers.add(wakeup)
        try:
            if not self._begin(directory):
                wakeup.resync_seconds = UNWATCHED_SECONDS
            yield wakeup
        finally:
            readers.discard(wakeup)
            if not readers and self._readers.get(directory) is readers:
                del self._readers[directory]
                self._end(directory)

    async def close(self) -> None:
        """Watch nothing any more."""
        await self._tasks.close()
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._watches.clear()

    def _begin(self, directory: Path) -> bool:
        from asyncinotify import Inotify, Mask  # noqa: PLC0415  # only who follows a log needs it

        if directory in self._watches:
            return True
        mask = Mask.MODIFY | Mask.CREATE | Mask.MOVED_TO | Mask.DELETE_SELF | Mask.ONLYDIR | Mask.DONT_FOLLOW
        try:
            if self._inotify is None:
                # A limit of 0 asks before it reads: the library's NONBLOCK is O_CLOEXEC, its descriptor blocks (4.4).
                self._inotify = Inotify(cache_size=64, sync_timeout=0)
                self._tasks.start(self._notice(self._inotify), name="log changes")
            self._watches[directory] = self._inotify.add_watch(directory, mask)
        except OSError as error:
            logger.warning("watch failed", extra={"directory": str(directory), "error": str(error)})
            return False
        return True

    def _end(self, directory: Path) -> None:
        watch = self._watches.pop(directory, None)
        if watch is not None and self._inotify is not None:
            with contextlib.suppress(OSError):  # the directory is gone, and its watch with it
                self._inotify.rm_watch(watch)

    async def _notice(self, inotify: Inotify) -> None:
        while True:
            self._wake(await inotify.get())
            for _ in range(EVENTS_AT_ONCE):
                if (event := inotify.sync_get()) is None:
                    break
                self._wake(event)
            await asyncio.sleep(REST_SECONDS)

    def _wake(self, event: Event) -> None:
        from asyncinotify import Mask  # noqa: PLC0415

        watch = event.watch
        if watch is None:
            # Of a watch that has ended; or the queue has overflowed, and anything may have happened.
            woken = list(self._readers.values()) if event.mask & Mask.Q_OVERFLOW else []
        else:
            woken = [self._readers.get(watch.path, set())]
            if event.mask & Mask.IGNORED and self._watches.get(watch.path) is watch:
                del self._watches[watch.path]
        for readers in woken:
            for wakeup in readers:
                wakeup.set()
