"""What probes and hooks say of a pod's containers becomes facts here (kubelet-contract 4.8 and section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wasmlet.pods import exec as exec_
from wasmlet.pods.facts import Unhealthy
from wasmlet.pods.hooks import HookKey, Hooks, Outcome, wanted
from wasmlet.pods.probes import Key, Prober, Result
from wasmlet.pods.rooms import Rooms

if TYPE_CHECKING:
    from wasmlet.pods.worker import Worker


class Health:
    """The probes and hooks of one worker's pod."""

    def __init__(self, rooms: Rooms, worker: Worker) -> None:
        self._rooms = rooms
        self._worker = worker
        self._prober = Prober(report=self._probed, execute=self._execute, period_scale=rooms.settings.probe_scale)
        self._hooks = Hooks(report=self._hooked, execute=self._execute, clock=rooms.clock)

    def sync(self, *, fresh: bool) -> None:
        """Run those that should run by the facts; `fresh` as in `Prober.sync`."""
        self._prober.sync(self._worker.bundle.pod, self._worker.facts, fresh=fresh)
        self._hooks.sync(self._worker.bundle.pod, self._worker.facts)

    async def close(self) -> None:
        """End all of them."""
        await self._prober.close()
        await self._hooks.close()

    async def _execute(
        self, container: str, command: Sequence[str], timeout_seconds: float | None = None
    ) -> exec_.Finished:
        return await exec_.execute(self._rooms, self._worker, container, command, timeout_seconds=timeout_seconds)

    def _probed(self, key: Key, result: Result, text: str) -> None:
        """A verdict of the prober: save what it changes, and let the plan look."""
        attempt = self._worker.facts.container(key.container).last
        if attempt is None or attempt.id != key.sandbox or attempt.finished_at is not None:
            return
        name = key.kind.capitalize()
        if result is Result.UNKNOWN:
            message = f"{name} probe errored and resulted in unknown state: {text}"
            self._worker.tell("Warning", "Unhealthy", message, container=key.container)
            return
        passed = result is Result.SUCCESS
        if passed and text:
            self._worker.tell("Warning", "ProbeWarning", f"{name} probe warning: {text}", container=key.container)
        elif not passed:
            self._worker.tell("Warning", "Unhealthy", f"{name} probe failed: {text}", container=key.container)
        if key.kind == "readiness":
            attempt.probed_ready = passed
        elif key.kind == "startup" and passed:
            attempt.probed_started = True
        elif not passed and attempt.unhealthy is None:
            attempt.unhealthy = Unhealthy(
                probe=key.kind, at=self._rooms.clock(), grace_seconds=self._probe_grace(key.container, key.kind)
            )
        self._worker.save()  # what a status has shown must not be forgotten with the agent
        self._worker.wake()

    def _probe_grace(self, name: str, kind: str) -> float | None:
        container = self._worker.container(name)
        probe = container.liveness_probe if kind == "liveness" else container.startup_probe
        return None if probe is None else probe.termination_grace_period_seconds

    def _hooked(self, key: HookKey, outcome: Outcome) -> None:
        """A hook is done: save that, and let the plan look; unless the container's end, begun meanwhile, ended it."""
        attempt = self._worker.facts.container(key.container).last
        if attempt is None or key not in dict(wanted(self._worker.bundle.pod, self._worker.facts)):
            return
        now = self._rooms.clock()
        if outcome.fallback_host:
            text = f"request to HTTPS lifecycle hook {outcome.fallback_host} got HTTP response, "
            self._worker.tell(
                "Warning", "LifecycleHTTPFallback", f"{text}retry with HTTP succeeded", container=key.container
            )
        if outcome.error:
            kind = f"{key.kind[0].upper()}{key.kind[1:]}Hook"
            text = f"{kind} failed: {outcome.told}" if outcome.told else f"{kind} failed"
            self._worker.tell("Warning", f"Failed{kind}", text, container=key.container)
        if key.kind == "preStop" and attempt.stopping is not None:
            attempt.stopping.pre_stopped_at = now
        elif key.kind == "postStart":
            attempt.post_started_at = now
            if outcome.error:
                attempt.unhealthy = Unhealthy(probe="postStart", at=now)
        self._worker.save()
        self._worker.wake()
