"""Ends of containers that the plan orders, done: the end is saved, told, and asked of the engine (`stops` decides)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasmlet.pods import stops
from wasmlet.pods.facts import Attempt, Stopping
from wasmlet.pods.rooms import Rooms
from wasmlet.pods.steps import Signal, Stop
from wasmlet.pods.view import all_containers, pre_stop

if TYPE_CHECKING:
    from wasmlet.pods.worker import Worker

__all__ = ["Stopper"]


class Stopper:
    """Ends the containers of one worker's pod."""

    def __init__(self, rooms: Rooms, worker: Worker) -> None:
        self._rooms = rooms
        self._worker = worker

    def stop(self, step: Stop) -> None:
        """Begin a container's end."""
        attempt = self._worker.facts.container(step.container).last
        assert attempt is not None
        before = attempt.stopping
        attempt.stopping = Stopping(
            at=self._rooms.clock(), grace_seconds=step.grace_seconds, reason=step.reason,
            pre_stopped_at=None if before is None else before.pre_stopped_at,
        )  # fmt: skip
        if before is None:
            self._worker.tell("Normal", "Killing", _killing_text(step, attempt), container=step.container)
        if pre_stop(self._worker.container(step.container)) is not None:
            self._worker.save()  # without a hook nothing is done yet: the signal, or the wait for it, saves this too

    async def signal(self, step: Signal) -> None:
        """Have the engine end a container."""
        attempt = self._worker.facts.container(step.container).last
        assert attempt is not None
        assert attempt.stopping is not None
        attempt.stopping.signalled_at = self._rooms.clock()
        self._worker.save()
        await self._rooms.engines.stop(attempt.engine, attempt.id, grace_seconds=step.grace_seconds)

    async def repeat_signals(self) -> None:
        """Ask once more for the ends that were saved: an earlier agent may have died before it asked."""
        for container in all_containers(self._worker.bundle.pod):
            attempt = self._worker.facts.container(container.name).last
            if attempt is None or attempt.finished_at is not None or attempt.stopping is None:
                continue
            at = attempt.stopping.signalled_at
            if at is not None:
                left = at + stops.signal_grace(attempt.stopping, at) - self._rooms.clock()
                await self._rooms.engines.stop(attempt.engine, attempt.id, grace_seconds=max(0.0, left))


def _killing_text(step: Stop, attempt: Attempt) -> str:
    if attempt.unhealthy is not None and attempt.unhealthy.probe == "postStart" and step.reason == "unhealthy":
        return "FailedPostStartHook"
    if attempt.unhealthy is not None and step.reason == "unhealthy":
        return f"Container {step.container} failed {attempt.unhealthy.probe} probe, will be restarted"
    if step.reason == "changed" and attempt.leaves_engine:
        return f"Container {step.container} will be restarted in an engine of this release"
    if step.reason == "changed":
        return f"Container {step.container} definition changed, will be restarted"
    return f"Stopping container {step.container}"
