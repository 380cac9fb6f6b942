"""News of pods for whoever watches them: bounded, newest wins."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Iterator

from wasmlet.kube.types import Pod
from wasmlet.pods.accounts import News, Progress

KEPT_NEWS = 100
"""For each pod; older news is dropped (a cluster's events live an hour)."""


class Watch:
    """What one watcher has not seen yet. A slow watcher misses progress, never the newest status."""

    def __init__(self) -> None:
        self.changed = False
        self.news: collections.deque[News] = collections.deque(maxlen=KEPT_NEWS)
        self.progress: dict[str, Progress] = {}
        self._some = asyncio.Event()

    def mark(self) -> None:
        """There is something to see."""
        self._some.set()

    async def __aiter__(self) -> AsyncIterator[Watch]:
        """Itself, whenever there is something new; the caller takes what it wants and clears it."""
        while True:
            await self._some.wait()
            self._some.clear()
            yield self


class Hub:
    """The `pods.rooms.Listener` of this agent."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}
        self._news: dict[str, collections.deque[News]] = {}
        self._progress: dict[str, dict[str, Progress]] = {}

    def removed(self, uid: str) -> None:
        """The pod is gone for good: watchers see its last account, and its news is dropped."""
        self._news.pop(uid, None)
        self._progress.pop(uid, None)
        self.changed(uid)

    def changed(self, uid: str) -> None:
        """The pod's status may be another."""
        for watch in self._watches.get(uid, ()):
            watch.changed = True
            watch.mark()

    def news(self, pod: Pod, news: News) -> None:
        """Keep and pass on what happened."""
        uid = pod.metadata.uid
        self._news.setdefault(uid, collections.deque(maxlen=KEPT_NEWS)).append(news)
        for watch in self._watches.get(uid, ()):
            watch.news.append(news)
            watch.mark()

    def progress(self, uid: str, progress: Progress) -> None:
        """Pass on how far long work is; the newest for each container counts, for watchers that come later too."""
        under_way = self._progress.setdefault(uid, {})
        under_way[progress.container] = progress
        if progress.stage == "done":
            del under_way[progress.container]
        for watch in self._watches.get(uid, ()):
            watch.progress[progress.container] = progress
            watch.mark()

    def is_watched(self, uid: str) -> bool:
        """Whether somebody follows the pod now."""
        return uid in self._watches

    def kept(self, uid: str) -> list[News]:
        """The pod's latest news."""
        return list(self._news.get(uid, ()))

    @contextlib.contextmanager
    def watch(self, uid: str) -> Iterator[Watch]:
        """Watch a pod while the context lasts; begins with its present status."""
        watch = Watch()
        watch.progress |= self._progress.get(uid, {})
        self._watches.setdefault(uid, set()).add(watch)
        watch.changed = True
        watch.mark()
        try:
            yield watch
        finally:
            self._watches[uid].discard(watch)
            if not self._watches[uid]:
                del self._watches[uid]
