"""The next step of a pod: a pure function over a table.

`stage` derives from the facts where a pod is in its life; `TABLE` lists, for each stage, the rules to try in order;
the first that has a step to offer decides. Nothing else decides what happens to a pod. The stages follow the
kubelet's contract sync → terminating → terminated: a pod that is terminated is never started again.

    NEW → PREPARING → RUNNING → ENDING → ENDED → GONE
       ╲________________________↗ (refused at admission, deadline, deletion)
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator

from wasmlet.kube.types import Container
from wasmlet.pods.facts import Failure
from wasmlet.pods.restarts import BackOff, Decision, belongs_to_round, decide, is_sidecar, restart_at
from wasmlet.pods.steps import (
    Admit,
    BackOffFailure,
    End,
    Expire,
    Prepare,
    RestartAll,
    Signal,
    Start,
    Step,
    Stop,
    TearDown,
    Wait,
)
from wasmlet.pods.stops import signal_moments, signal_stopping, stop_all, stop_changed, stop_sidecars, stop_unhealthy
from wasmlet.pods.view import View, all_containers, has_started, is_post_starting

__all__ = [
    "Admit",
    "BackOffFailure",
    "End",
    "Expire",
    "Prepare",
    "RestartAll",
    "Signal",
    "Stage",
    "Start",
    "Step",
    "Stop",
    "TearDown",
    "Wait",
    "has_completed",
    "next_step",
    "retry_delay",
    "stage",
]


class Stage(enum.Enum):
    """Where a pod is in its life; derived, never saved."""

    NEW = "new"
    PREPARING = "preparing"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"
    GONE = "gone"


def stage(view: View) -> Stage:
    """Where the pod is in its life."""
    facts = view.facts
    if facts.torn_down_at is not None:
        return Stage.GONE
    if facts.ended_at is not None:
        return Stage.ENDED
    if facts.deletion is not None or facts.verdict is not None:
        return Stage.ENDING
    if facts.admitted_at is None:
        return Stage.NEW
    return Stage.PREPARING if facts.volumes_at is None else Stage.RUNNING


# --- rules ------------------------------------------------------------------------------------------------------------

Rule = Callable[[View], Step | None]


def _admit(_view: View) -> Step | None:
    return Admit()


def _expire(view: View) -> Step | None:
    deadline = _deadline(view)
    return Expire() if deadline is not None and view.now >= deadline else None


def _deadline(view: View) -> float | None:
    seconds = view.pod.spec.active_deadline_seconds
    return None if seconds is None else view.facts.seen_at + seconds


def _prepare(view: View) -> Step | None:
    failure = view.facts.volume_failure
    if failure is not None and view.now < failure.retry_at:
        return Wait(failure.retry_at)
    return Prepare()


def _restart_all(view: View) -> Step | None:
    """A rule of any container may ask for a new round; then whatever still runs of the old one is killed."""
    left_over = []
    for container in all_containers(view.pod):
        attempt = view.current(container)
        if attempt is None and view.is_running(container):
            left_over.append(container)
        elif attempt is None or attempt.finished_at is None:
            continue
        elif decide(container, attempt, spec=view.pod.spec) is Decision.RESTART_ALL:
            return RestartAll()
    for container in left_over:
        running = view.running(container)
        if running is not None and (running.stopping is None or running.stopping.reason != "restart-all"):
            return Stop(container.name, 0.0, "restart-all")
    return Wait() if left_over else None


def _initialize(view: View) -> Step | None:
    """Init containers one after another; a sidecar lets the next begin as soon as it has started."""
    for container in view.pod.spec.init_containers:
        attempt = view.current(container)
        if is_sidecar(container, spec=view.pod.spec):
            step = _start_if_due(view, container)
            if step is not None and not isinstance(step, Wait):
                return step
            if not _has_initialized(view, container):
                return step or Wait()
            continue
        if attempt is not None and attempt.finished_at is not None and attempt.exit_code == 0:
            continue
        if _failed_for_good(view, container):
            return None
        return _start_if_due(view, container) or Wait()
    return None


def _has_initialized(view: View, container: Container) -> bool:
    """A sidecar counts as initialised from the first time it has started in this round.

    Only its last two attempts are kept, so a later container's start is proof as well.
    """
    attempts = [each for each in view.of(container).attempts if belongs_to_round(each, view.facts)]
    if any(has_started(container, attempt) for attempt in attempts):
        return True
    later = list(all_containers(view.pod))
    position = next(index for index, each in enumerate(later) if each.name == container.name)
    return any(view.current(each) is not None for each in later[position + 1 :])


def _start_app_containers(view: View) -> Step | None:
    if any(_blocks_apps(view, container) for container in view.pod.spec.init_containers):
        return None
    for container in view.pod.spec.containers:
        step = _start_if_due(view, container)
        if step is not None and not isinstance(step, Wait):
            return step
        attempt = view.running(container)
        if attempt is not None and is_post_starting(container, attempt):
            return None  # the hook of one delays the next (contract 4.5)
    return None


def _blocks_apps(view: View, container: Container) -> bool:
    if is_sidecar(container, spec=view.pod.spec):
        return not _has_initialized(view, container)
    attempt = view.current(container)
    return attempt is None or attempt.finished_at is None or attempt.exit_code != 0


def _start_if_due(view: View, container: Container) -> Step | None:
    """Start it, or wait for the moment when it may start; None when it runs, or stays ended."""
    facts = view.of(container)
    attempt = view.current(container)
    if attempt is not None and attempt.finished_at is None:
        return None
    if attempt is not None and decide(container, attempt, spec=view.pod.spec) is not Decision.RESTART:
        return None
    due = view.now if attempt is None else restart_at(facts, attempt, view.back_off)
    if facts.failure is not None:
        if facts.failure.shown == "ErrImagePull":
            return BackOffFailure(container.name)
        due = max(due, facts.failure.retry_at)
    if due > view.now:
        return Wait(due)
    number = 0 if facts.last is None else facts.last.number + 1
    return Start(container.name, number)


def _failed_for_good(view: View, container: Container) -> bool:
    attempt = view.current(container)
    if attempt is None or attempt.finished_at is None or attempt.exit_code == 0:
        return False
    return decide(container, attempt, spec=view.pod.spec) is Decision.STAY


def _end_when_done(view: View) -> Step | None:
    """No container of the pod will run again: sidecars are stopped in reverse order, then the pod ends."""
    if not has_completed(view):
        return None
    return stop_sidecars(view) or End()


def has_completed(view: View) -> bool:
    """Whether every app container has ended for good, or an init container has failed for good."""
    inits = [each for each in view.pod.spec.init_containers if not is_sidecar(each, spec=view.pod.spec)]
    if any(_failed_for_good(view, container) for container in inits):
        return not any(view.is_running(container) for container in view.pod.spec.containers)
    return all(_has_ended(view, container) for container in view.pod.spec.containers)


def _has_ended(view: View, container: Container) -> bool:
    attempt = view.current(container)
    if attempt is None or attempt.finished_at is None:
        return False
    return decide(container, attempt, spec=view.pod.spec) is Decision.STAY


def _end(_view: View) -> Step | None:
    return End()


def _tear_down(_view: View) -> Step | None:
    return TearDown()


TABLE: dict[Stage, tuple[Rule, ...]] = {
    Stage.NEW: (_admit,),
    Stage.PREPARING: (_expire, _prepare),
    Stage.RUNNING: (
        _expire,
        signal_stopping,
        _restart_all,
        stop_unhealthy,
        stop_changed,
        _end_when_done,
        _initialize,
        _start_app_containers,
    ),
    Stage.ENDING: (signal_stopping, stop_all, _end),
    Stage.ENDED: (_tear_down,),
    Stage.GONE: (),
}


def next_step(view: View) -> Step:
    """The one thing to do now for this pod."""
    steps = (rule(view) for rule in TABLE[stage(view)])
    step = next((each for each in steps if each is not None), Wait())
    return Wait(min(_moments(view, step), default=None)) if isinstance(step, Wait) else step


def _moments(view: View, wait: Wait) -> Iterator[float]:
    """When there may be something to do though nothing happens: what the rule waits for, restarts, the deadline.

    A rule waits for one container; others may be due before (a sidecar, while an init container is at work).
    """
    if wait.until is not None:
        yield wait.until
    yield from signal_moments(view)
    if stage(view) not in (Stage.PREPARING, Stage.RUNNING):
        return
    deadline = _deadline(view)
    if deadline is not None:
        yield deadline
    for container in all_containers(view.pod):
        step = _start_if_due(view, container)
        if isinstance(step, Wait) and step.until is not None:
            yield step.until


def retry_delay(failure: Failure | None, *, stage: str, back_off: BackOff, sync_seconds: float = 10.0) -> float:
    """Seconds until a failed step is tried again: images back off, everything else is tried at the sync period."""
    if stage != "image":
        return sync_seconds
    previous = failure.retry_at - failure.at if failure is not None and failure.stage == stage else 0.0
    return back_off.after(previous)
