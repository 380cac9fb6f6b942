"""A pod without a world: applies what the plan's steps do to the facts, on a clock of its own.

What a worker, an engine and a prober do is told in a few lines here, so that thousands of lives can be looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import msgspec

from wasmlet.kube.types import Container, Pod, PodStatus
from wasmlet.pods import plan, restarts, status, stops, view
from wasmlet.pods.facts import Attempt, Deletion, Facts, Failure, Stopping, Unhealthy, Verdict
from wasmlet.pods.plan import Stage
from wasmlet.pods.restarts import BackOff
from wasmlet.pods.view import View, all_containers

TICK = 0.001
"""What every step takes, so that two facts never have the same moment."""

KEPT_ATTEMPTS = 2
START = 1_000_000.0


class Simulation:
    """One pod's life.

    Attributes:
        log: Every step but Wait, with its moment.
        stop_seconds: How long a container takes to end when it is asked (its grace at most, then it is killed).
        failing: Containers whose next start fails, and at which stage.
    """

    def __init__(self, pod: Pod, *, back_off: BackOff | None = None) -> None:
        self.pod = pod
        self.now = START
        self.facts = Facts(uid=pod.metadata.uid, seen_at=START)
        self.log: list[tuple[float, plan.Step]] = []
        self.stop_seconds = 0.0
        self.refusal: Verdict | None = None
        self.failing: dict[str, str] = {}
        self._back_off = back_off or BackOff()
        self._ends: dict[str, tuple[float, int]] = {}

    # --- looking ------------------------------------------------------------------------------------------------------

    def view(self, *, at: float | None = None) -> View:
        return View(self.pod, self.facts, self.now if at is None else at, self._back_off)

    @property
    def stage(self) -> Stage:
        return plan.stage(self.view())

    def is_at(self, stage: Stage) -> bool:
        return self.stage is stage

    @property
    def started(self) -> list[tuple[str, int]]:
        """All starts, in order."""
        return [(step.container, step.number) for _, step in self.log if isinstance(step, plan.Start)]

    @property
    def stopped(self) -> list[tuple[str, float, str]]:
        """All stops, in order."""
        steps = [step for _, step in self.log if isinstance(step, plan.Stop)]
        return [(step.container, step.grace_seconds, step.reason) for step in steps]

    @property
    def signalled(self) -> list[tuple[str, Any]]:
        """All signals, in order."""
        return [(step.container, step.grace_seconds) for _, step in self.log if isinstance(step, plan.Signal)]

    def status(self, previous: PodStatus | None = None) -> PodStatus:
        return status.render(self.view(), previous=previous)

    def moments(self) -> list[float]:
        """When the plan may have something to do without anything happening."""
        found = [] if self.facts.volume_failure is None else [self.facts.volume_failure.retry_at]
        if self.pod.spec.active_deadline_seconds is not None:
            found.append(self.facts.seen_at + self.pod.spec.active_deadline_seconds)
        for container in all_containers(self.pod):
            own = self.facts.container(container.name)
            if own.failure is not None:
                found.append(own.failure.retry_at)
            if own.last is not None and own.last.finished_at is None and own.last.stopping is not None:
                found.append(own.last.stopping.at + own.last.stopping.grace_seconds)
            if own.last is not None and own.last.finished_at is not None:
                found.append(restarts.restart_at(own, own.last, self._back_off))
        return found

    # --- what happens -------------------------------------------------------------------------------------------------

    def exit(self, name: str, code: int = 0) -> bool:
        """The guest ends on its own; False when it does not run."""
        attempt = self.running(name)
        if attempt is None:
            return False
        self._finish(name, attempt, code)
        return True

    def running(self, name: str) -> Attempt | None:
        attempt = self.facts.container(name).last
        return attempt if attempt is not None and attempt.finished_at is None else None

    def fail_probe(self, name: str, *, probe: str = "liveness", grace_seconds: float | None = None) -> None:
        if (attempt := self.running(name)) is not None and attempt.unhealthy is None:
            attempt.unhealthy = Unhealthy(probe=probe, at=self.now, grace_seconds=grace_seconds)

    def pass_startup(self, name: str) -> None:
        if (attempt := self.running(name)) is not None:
            attempt.probed_started = True

    def end_hook(self, name: str, *, well: bool = True) -> bool:
        """The hook that is under way ends; False when there is none."""
        attempt, container = self.running(name), named(self.pod, name)
        if attempt is None:
            return False
        if attempt.stopping is not None and stops.is_pre_stopping(container, attempt):
            attempt.stopping.pre_stopped_at = self.now
            return True
        if attempt.stopping is None and view.is_post_starting(container, attempt):
            attempt.post_started_at = self.now
            if not well:
                attempt.unhealthy = Unhealthy(probe="postStart", at=self.now)
            return True
        return False

    def delete(self, grace_seconds: float) -> None:
        if self.facts.deletion is None:
            self.facts.deletion = Deletion(at=self.now, grace_seconds=grace_seconds)
        else:
            self.facts.deletion.grace_seconds = min(self.facts.deletion.grace_seconds, grace_seconds)

    def pass_time(self, seconds: float) -> None:
        """Let the time pass, with all that comes due in it."""
        until = self.now + seconds
        while self.now < until:
            step = self.settle()
            ends = [moment for moment, _ in self._ends.values()]
            due = [each for each in [*ends, step.until] if each is not None and each > self.now]
            self.now = min([until, *due])
            self._end_stopped()
        self.settle()

    # --- what the worker does -----------------------------------------------------------------------------------------

    def settle(self) -> plan.Wait:
        """Do steps until there is nothing to do."""
        for step in self.steps():
            if isinstance(step, plan.Wait):
                return step
        raise AssertionError

    def steps(self, *, limit: int = 200) -> Iterator[plan.Step]:
        """Do and give each step, a Wait last.

        Raises:
            AssertionError: There are ever more of them.
        """
        for _ in range(limit):
            before = msgspec.json.encode(self.facts)
            step = plan.next_step(self.view())
            if not isinstance(step, plan.Wait):
                self.log.append((self.now, step))
                self._apply(step)
                assert msgspec.json.encode(self.facts) != before, f"{step} changed nothing"
                self.now += TICK
                self._end_stopped()
            yield step
            if isinstance(step, plan.Wait):
                return
        raise AssertionError(f"busy: {self.log[-6:]}")

    def copy(self) -> Simulation:
        """Another life from here."""
        return copy.deepcopy(self)

    def _apply(self, step: plan.Step) -> None:
        match step:
            case plan.Admit():
                self.facts.admitted_at, self.facts.verdict = (None if self.refusal else self.now), self.refusal
            case plan.Prepare():
                self._prepare()
            case plan.Start():
                self._start(step)
            case plan.BackOffFailure(container=name):
                failure = self.facts.container(name).failure
                assert failure is not None
                failure.shown = "ImagePullBackOff"
            case plan.Stop():
                self._stop(step)
            case plan.Signal():
                self._signal(step)
            case plan.RestartAll():
                self.facts.restart_all_at = restarts.round_moment(self.facts, self.now)
            case plan.Expire():
                message = "Pod was active on the node longer than the specified deadline"
                self.facts.verdict = Verdict(phase="Failed", reason="DeadlineExceeded", message=message, at=self.now)
            case plan.End():
                self.facts.ended_at = self.now
            case plan.TearDown():
                self.facts.torn_down_at = self.now

    def _prepare(self) -> None:
        if "" in self.failing:
            del self.failing[""]
            self.facts.volume_failure = self._failure("volumes", "ContainerCreating", None)
        else:
            self.facts.volume_failure, self.facts.volumes_at = None, self.now

    def _start(self, step: plan.Start) -> None:
        own = self.facts.container(step.container)
        if (stage := self.failing.pop(step.container, None)) is not None:
            shown = {"image": "ErrImagePull", "config": "CreateContainerConfigError"}[stage]
            own.failure = self._failure(stage, shown, own.failure)
            return
        restarts.raise_back_off(own, self.now, self._back_off)
        attempt = Attempt(
            number=step.number, id=f"{step.container}-{step.number}", engine="e",
            created_at=restarts.attempt_moment(self.facts, self.now), started_at=self.now,
        )  # fmt: skip
        own.failure = None
        own.attempts = [*own.attempts, attempt][-KEPT_ATTEMPTS:]

    def _failure(self, stage: str, shown: str, before: Failure | None) -> Failure:
        delay = plan.retry_delay(before, stage=stage, back_off=self._back_off)
        return Failure(
            stage=stage, shown=shown, message="it failed", cause="Cause", fault="user", at=self.now,
            count=1 + (before.count if before else 0), retry_at=self.now + delay,
        )  # fmt: skip

    def _stop(self, step: plan.Stop) -> None:
        attempt = self.facts.container(step.container).last
        assert attempt is not None
        before = attempt.stopping
        attempt.stopping = Stopping(
            at=self.now, grace_seconds=step.grace_seconds, reason=step.reason,
            pre_stopped_at=None if before is None else before.pre_stopped_at,
        )  # fmt: skip

    def _signal(self, step: plan.Signal) -> None:
        attempt = self.facts.container(step.container).last
        assert attempt is not None
        assert attempt.stopping is not None
        attempt.stopping.signalled_at = self.now
        code = 143 if self.stop_seconds < step.grace_seconds else 137
        end = self.now + min(self.stop_seconds, step.grace_seconds)
        self._ends[step.container] = min((end, code), self._ends.get(step.container, (end, code)))

    def _end_stopped(self) -> None:
        for name, (moment, code) in list(self._ends.items()):
            attempt = self.running(name)
            if attempt is None:
                del self._ends[name]
            elif moment <= self.now:
                self._finish(name, attempt, code)

    def _finish(self, name: str, attempt: Attempt, code: int) -> None:
        attempt.finished_at, attempt.exit_code = self.now, code
        attempt.reason = "Completed" if code == 0 else "Error"
        self._ends.pop(name, None)
        self.now += TICK


def named(pod: Pod, name: str) -> Container:
    """The container of that name."""
    return next(each for each in all_containers(pod) if each.name == name)
