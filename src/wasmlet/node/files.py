"""Files that others replace while this agent runs: authorities, certificates, a kubeconfig (contract 2).

They are looked at, not watched: a look is one `stat`, while inotify has to follow symlinks, renames of directories and
mounts, as cert-manager, kubeadm and Secrets replace files by all three.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from wasmlet.base.errors import WasmletError

__all__ = ["LOOK_SECONDS", "Watched", "follow"]

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
"""Between two looks. A kubelet takes up to a minute (dynamiccertificates) or five (client-go's reload)."""

Mark = tuple[int, int, int] | None


class Watched:
    """Files that mean something together, such as a certificate and its key.

    Args:
        what: For the log.
        paths: Which files, asked at each look.
        changed: Takes over what they hold now. What it raises is told, and it is asked again at the next look: a
            writer may be between two files.
    """

    def __init__(
        self, what: str, paths: Callable[[], Iterable[Path]], *, changed: Callable[[], Awaitable[None]]
    ) -> None:
        self._what = what
        self._paths = paths
        self._changed = changed
        self._marks = self._look()
        self._told = ""

    def __repr__(self) -> str:
        return f"<Watched {self._what}: {', '.join(map(str, self._paths()))}>"

    async def look(self) -> None:
        """Look once, and take over what changed."""
        marks = self._look()
        if marks == self._marks:
            return
        try:
            await self._changed()
        except WasmletError as error:
            if str(error) != self._told:
                logger.warning("%s not taken over: %s", self._what, error)
            self._told = str(error)
        else:
            logger.info("%s taken over", self._what)
            # Not a new look: what was replaced meanwhile is seen at the next one. The paths may be others now.
            self._marks = marks if marks.keys() == self._look().keys() else self._look()
            self._told = ""

    def _look(self) -> dict[Path, Mark]:
        return {each: _mark(each) for each in self._paths()}


async def follow(watched: Sequence[Watched], *, seconds: float = LOOK_SECONDS) -> None:
    """Look for ever."""
    while True:
        await asyncio.sleep(seconds)
        for each in watched:
            await each.look()


def _mark(path: Path) -> Mark:
    """Which version of a file this is, through symlinks; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
