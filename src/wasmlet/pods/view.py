"""What the rules of a pod's life look at: the pod, its facts, the present, and small questions about them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from wasmlet.kube.types import Container, LifecycleHandler, Pod
from wasmlet.pods.facts import Attempt, ContainerFacts, Facts
from wasmlet.pods.restarts import BackOff, belongs_to_round

MINIMUM_GRACE_SECONDS = 1.0
"""A deletion's grace is never below this (contract 4.7)."""

DEFAULT_GRACE_SECONDS = 30.0


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

    def running(self, container: Container) -> Attempt | None:
        """The attempt whose sandbox may be alive, of any round."""
        attempt = self.of(container).last
        return attempt if attempt is not None and attempt.finished_at is None else None

    def is_running(self, container: Container) -> bool:
        """Whether a sandbox of it may be alive, of any round."""
        return self.running(container) is not None

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


def post_start(container: Container) -> LifecycleHandler | None:
    """Its postStart hook."""
    return None if container.lifecycle is None else container.lifecycle.post_start


def pre_stop(container: Container) -> LifecycleHandler | None:
    """Its preStop hook."""
    return None if container.lifecycle is None else container.lifecycle.pre_stop


def is_post_starting(container: Container, attempt: Attempt) -> bool:
    """Whether the attempt's postStart hook is under way, or still to come."""
    return post_start(container) is not None and attempt.post_started_at is None


def has_started(container: Container, attempt: Attempt) -> bool:
    """Whether the attempt ran, its postStart hook went well, and its startup probe passed (status field `started`)."""
    if attempt.started_at is None or is_post_starting(container, attempt):
        return False
    if attempt.unhealthy is not None and attempt.unhealthy.probe == "postStart":
        return False
    return container.startup_probe is None or attempt.probed_started
