"""What is left of pods that nobody knows: sandboxes and directories (kubelet-contract section 3 and 4.7).

Called only when every source of pods has reported: what is unknown then is nobody's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from wasmlet.base import beneath
from wasmlet.base.errors import WasmletError
from wasmlet.pods.directories import Directories
from wasmlet.sandbox.engines import Engines
from wasmlet.volumes import mount

logger = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""What an orphan has for its end (contract 4.7)."""


async def clean(directories: Directories, engines: Engines, *, is_known: Callable[[str], bool]) -> None:
    """End the sandboxes of unknown pods, and remove the directories of those.

    Args:
        is_known: Whether there is a pod of that UID.
    """
    unknown = {uid: found for uid, found in directories.all().items() if not is_known(uid)}
    await _end_sandboxes(engines, is_known)
    for uid, found in unknown.items():
        for each in found:
            if not is_known(uid):  # it may have come meanwhile
                await _remove(each)


async def _remove(directory: Path) -> None:
    logger.warning("removing what is left of a pod", extra={"directory": str(directory)})
    try:
        await mount.tear_down(directory)
        await asyncio.to_thread(beneath.remove_tree, directory)
    except (WasmletError, OSError) as error:
        logger.error("removing failed", extra={"directory": str(directory), "error": str(error)})


async def _end_sandboxes(engines: Engines, is_known: Callable[[str], bool]) -> None:
    for handle in engines.handles:
        for sandbox in list(handle.accounts.values()):
            if is_known(sandbox.pod_uid):
                continue
            logger.warning("orphan sandbox", extra={"pod": sandbox.pod_uid, "sandbox": sandbox.id})
            try:
                if sandbox.state != "exited":
                    await engines.stop(handle.record.id, sandbox.id, grace_seconds=GRACE_SECONDS)
                else:
                    await engines.forget(handle.record.id, sandbox.id)
            except WasmletError as error:
                logger.error("ending failed", extra={"sandbox": sandbox.id, "error": str(error)})
