"""What the engines say of a pod's sandboxes becomes facts here, and what containers left when they ended."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from wasmlet.base import beneath, clock
from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.kube.types import Container
from wasmlet.pods.endings import read_end
from wasmlet.pods.facts import LOST_MESSAGE, Attempt, ContainerFacts
from wasmlet.pods.rooms import Rooms
from wasmlet.pods.view import all_containers
from wasmlet.sandbox import protocol

if TYPE_CHECKING:
    from wasmlet.pods.worker import Worker

__all__ = ["Observer"]

logger = logging.getLogger(__name__)

EXIT_BYTES = 1 << 16
"""More than any exit record: its message is bounded by 4 KiB."""


class Observer:
    """Watches the sandboxes of one worker's pod."""

    def __init__(self, rooms: Rooms, worker: Worker) -> None:
        self._rooms = rooms
        self._worker = worker

    async def observe(self) -> None:
        """Turn what the engines said into facts, and save them."""
        changed = False
        for container in all_containers(self._worker.bundle.pod):
            own = self._worker.facts.container(container.name)
            attempt = own.last
            if attempt is not None and attempt.finished_at is None:
                changed |= await self._observe_attempt(container, own, attempt)
        if changed:
            self._worker.save()

    async def _observe_attempt(self, container: Container, own: ContainerFacts, attempt: Attempt) -> bool:
        account = self._rooms.engines.account(attempt.engine, attempt.id)
        if account is not None and account.state != "exited":
            if attempt.started_at is None and account.started_at is not None:
                attempt.started_at = clock.from_text(account.started_at)
                return True
            return False
        ended = account.exit if account is not None else self._saved_exit(container.name, attempt)
        if ended is None and self._rooms.engines.is_alive(attempt.engine):
            own.attempts.remove(attempt)  # the agent died before it asked: the plan starts it again under its number
            return True
        await self._finish(container, attempt, ended)
        return True

    def _saved_exit(self, container: str, attempt: Attempt) -> protocol.Exit | None:
        path = self._worker.places.exit_file(container, attempt.number)
        try:
            content = beneath.read_file(path.parent, path.name, limit_bytes=EXIT_BYTES)
            return msgspec.json.decode(content, type=protocol.Exit)
        except (NotFoundError, UserError, msgspec.DecodeError):
            return None

    async def _finish(self, container: Container, attempt: Attempt, ended: protocol.Exit | None) -> None:
        if ended is None:
            attempt.finished_at, attempt.exit_code, attempt.reason = self._rooms.clock(), 137, "Error"
            attempt.message = LOST_MESSAGE
        else:
            attempt.started_at = clock.from_text(ended.started_at)
            attempt.finished_at = clock.from_text(ended.finished_at)
            attempt.exit_code, attempt.reason = ended.exit_code, ended.reason
            attempt.message = await asyncio.to_thread(read_end, self._worker.places, container, attempt, ended)
        name = self._worker.bundle.pod.metadata.name
        logger.info("container ended", extra={"pod": name, "container": container.name, "exit": attempt.exit_code})
        self._worker.save()
        await self._rooms.engines.forget(attempt.engine, attempt.id)
