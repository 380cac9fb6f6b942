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
from dataclasses import dataclass, field

from wasmlet.kube.types import Container, Pod
from wasmlet.pods.facts import Attempt, ContainerFacts, Facts, Failure
from wasmlet.pods.restarts import BackOff, Decision, belongs_to_round, decide, is_sidecar, restart_at

MINIMUM_GRACE_SECONDS = 1.0
"""A deletion's grace is never below this (contract 4.7)."""

DEFAULT_GRACE_SECONDS = 30.0


class Stage(enum.Enum):
    """Where a pod is in its life; derived, never saved."""

    NEW = "new"
    PREPARING = "preparing"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"
    GONE = "gone"


# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Admit:
    """Check the pod against what this node can run; saves either `admitted_at` or a verdict."""


@dataclass(frozen=True)
class Prepare:
    """Make the pod's directories and volumes and give it its address; saves `volumes_at`."""


@dataclass(frozen=True)
class Start:
    """Start a container: image, artifact, environment, root, sandbox; saves an attempt before the engine is asked."""

    container: str
    number: int


@dataclass(frozen=True)
class BackOffFailure:
    """Say that a failed step waits for its next try (ErrImagePull becomes ImagePullBackOff)."""

    container: str


@dataclass(frozen=True)
class Stop:
    """Ask a sandbox to end; saves `stopping` before the engine is asked."""

    container: str
    grace_seconds: float
    reason: str


@dataclass(frozen=True)
class RestartAll:
    """A restart rule asks for a new round of all containers; saves `restart_all_at`."""


@dataclass(frozen=True)
class Expire:
    """activeDeadlineSeconds are over; saves the verdict."""


@dataclass(frozen=True)
class End:
    """Every container has ended for good; saves `ended_at`, after which the phase is final."""


@dataclass(frozen=True)
class TearDown:
    """Unmount volumes and remove what the pod's containers had; saves `torn_down_at`."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do until a moment (None: until something happens)."""

    until: float | None = None


Step = Admit | Prepare | Start | BackOffFailure | Stop | RestartAll | Expire | End | TearDown | Wait


# --- what the rules look at -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """A pod, its facts, and the present."""

    pod: Pod
    facts: Facts
    now: float
    back_off: BackOff = field(default_factory=BackOff)

    def of(self, container: Container) -> ContainerFacts:
        """The container's facts; empty ones when there are none yet."""
        return self.facts.containers.get(container.name) or ContainerFacts()

    def current(self, container: Container) -> Attempt | None:
        """The newest attempt of the present round."""
        attempt = self.of(container).last
        return attempt if belongs_to_round(attempt, self.facts) else None

    def is_running(self, container: Container) -> bool:
        """Whether a sandbox of it may be alive, of any round."""
        attempt = self.of(container).last
        return attempt is not None and attempt.finished_at is None

    @property
    def grace_seconds(self) -> float:
        """What a container has for its end: the shortest that anybody asked for, else the pod's."""
        asked = [grace for _, grace in self.deadlines]
        if asked:
            return max(MINIMUM_GRACE_SECONDS, min(asked))
        grace = self.pod.spec.termination_grace_period_seconds
        return DEFAULT_GRACE_SECONDS if grace is None else max(MINIMUM_GRACE_SECONDS, float(grace))

    @property
    def deadlines(self) -> list[tuple[float, float]]:
        """Who wants the pod to end: from when, and within how many seconds."""
        deletion, verdict = self.facts.deletion, self.facts.verdict
        found = [] if deletion is None else [(deletion.at, deletion.grace_seconds)]
        if verdict is not None and verdict.grace_seconds is not None:
            found.append((verdict.at, verdict.grace_seconds))
        return found


def all_containers(pod: Pod) -> Iterator[Container]:
    """Init containers in their order, then app containers in theirs."""
    yield from pod.spec.init_containers
    yield from pod.spec.containers


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
        running = view.of(container).last
        if running is not None and running.stopping is None:
            return Stop(container.name, 0.0, "restart-all")
    return Wait() if left_over else None


def _stop_unhealthy(view: View) -> Step | None:
    for container in all_containers(view.pod):
        attempt = view.current(container)
        if attempt is None or attempt.finished_at is not None or attempt.stopping is not None:
            continue
        if attempt.unhealthy is not None:
            grace = attempt.unhealthy.grace_seconds
            return Stop(container.name, view.grace_seconds if grace is None else grace, "unhealthy")
    return None


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


def has_started(container: Container, attempt: Attempt) -> bool:
    """Whether the attempt ran, and passed its startup probe if it has one (status field `started`)."""
    return attempt.started_at is not None and (container.startup_probe is None or attempt.probed_started)


def _start_app_containers(view: View) -> Step | None:
    if any(_blocks_apps(view, container) for container in view.pod.spec.init_containers):
        return None
    for container in view.pod.spec.containers:
        step = _start_if_due(view, container)
        if step is not None and not isinstance(step, Wait):
            return step
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
    return _stop_sidecars(view, "finished") or End()


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


def _stop_sidecars(view: View, reason: str) -> Step | None:
    """The last sidecar first; each waits until the later ones have ended (contract 4.5)."""
    for container in reversed(view.pod.spec.init_containers):
        if view.is_running(container):
            return _stop(view, container, reason) or Wait()
    return None


def _stop(view: View, container: Container, reason: str) -> Step | None:
    """Ask it to end, or shorten the grace it was given; None when it has been asked already."""
    attempt = view.of(container).last
    if attempt is None or attempt.finished_at is not None:
        return None
    grace = view.grace_seconds
    if attempt.stopping is None:
        return Stop(container.name, _remaining(view, grace), reason)
    if view.now + grace < attempt.stopping.at + attempt.stopping.grace_seconds:
        return Stop(container.name, grace, reason)
    return None


def _remaining(view: View, grace: float) -> float:
    """Sidecars share the one grace period that began with the deletion, or the node's wish."""
    ends = [at + seconds for at, seconds in view.deadlines]
    return grace if not ends else max(MINIMUM_GRACE_SECONDS, min(ends) - view.now)


def _stop_apps(view: View) -> Step | None:
    """App containers (and an init container that is at work) are stopped in parallel, before the sidecars."""
    reason = _ending_reason(view)
    sidecars = [each for each in view.pod.spec.init_containers if is_sidecar(each, spec=view.pod.spec)]
    others = [each for each in all_containers(view.pod) if each not in sidecars]
    for container in others:
        step = _stop(view, container, reason)
        if step is not None:
            return step
    return Wait() if any(view.is_running(container) for container in others) else None


def _stop_sidecars_of_ending(view: View) -> Step | None:
    return _stop_sidecars(view, _ending_reason(view))


def _ending_reason(view: View) -> str:
    if view.facts.deletion is not None:
        return "deleted"
    return "disrupted" if view.facts.verdict is not None and view.facts.verdict.disrupts else "deadline"


def _end(_view: View) -> Step | None:
    return End()


def _tear_down(_view: View) -> Step | None:
    return TearDown()


TABLE: dict[Stage, tuple[Rule, ...]] = {
    Stage.NEW: (_admit,),
    Stage.PREPARING: (_expire, _prepare),
    Stage.RUNNING: (
        _expire,
        _restart_all,
        _stop_unhealthy,
        _end_when_done,
        _initialize,
        _start_app_containers,
    ),
    Stage.ENDING: (_stop_apps, _stop_sidecars_of_ending, _end),
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
