"""How containers end (kubelet-contract 4.5, 4.7, 4.8): rules of the plan. Pure.

An end has two steps. `Stop` begins it: the grace runs from there, and the preStop hook eats of it. `Signal` asks the
sandbox to end within what is left, two seconds at least: when the hook is done, or the grace is over; for a sidecar
of a pod that ends, when its turn has come.
"""

from __future__ import annotations

from collections.abc import Iterator

from wasmlet.kube.types import Container
from wasmlet.pods.facts import Attempt, Stopping
from wasmlet.pods.restarts import is_sidecar
from wasmlet.pods.steps import Signal, Step, Stop, Wait
from wasmlet.pods.view import MINIMUM_GRACE_SECONDS, View, all_containers, pre_stop

MINIMUM_SIGNAL_SECONDS = 2.0
"""What every container has between its signal and its kill, however long its hook or its turn took (contract 4.7)."""

ENDS_OF_PODS = ("deleted", "deadline", "disrupted", "finished")
"""The reasons of stops that end the whole pod: sidecars wait for their turn."""


def stop_unhealthy(view: View) -> Step | None:
    """Containers whose liveness or startup probe, or whose postStart hook has failed."""
    for container in all_containers(view.pod):
        attempt = view.current(container)
        if attempt is None or attempt.finished_at is not None or attempt.stopping is not None:
            continue
        if attempt.unhealthy is not None:
            grace = attempt.unhealthy.grace_seconds
            return Stop(container.name, view.grace_seconds if grace is None else grace, "unhealthy")
    return None


def stop_changed(view: View) -> Step | None:
    """Containers of which the pod wants another image by now (contract 4.5), or the operator another engine."""
    for container in all_containers(view.pod):
        attempt = view.running(container)
        if attempt is not None and (attempt.is_outdated or attempt.leaves_engine) and attempt.stopping is None:
            return Stop(container.name, view.grace_seconds, "changed")
    return None


def stop_sidecars(view: View) -> Step | None:
    """Sidecars of a pod whose other containers have ended for good; Wait while one runs."""
    sidecars = [each for each in view.pod.spec.init_containers if view.is_running(each)]
    return _first_stop(view, sidecars, "finished") or (Wait() if sidecars else None)


def stop_all(view: View) -> Step | None:
    """Everything that runs of a pod that is deleted, had its time, or has to go; Wait while something runs."""
    running = [each for each in all_containers(view.pod) if view.is_running(each)]
    return _first_stop(view, running, _ending_reason(view)) or (Wait() if running else None)


def _ending_reason(view: View) -> str:
    if view.facts.deletion is not None:
        return "deleted"
    return "disrupted" if view.facts.verdict is not None and view.facts.verdict.disrupts else "deadline"


def signal_stopping(view: View) -> Step | None:
    """The next sandbox whose moment to end has come."""
    for container, stopping in _unsignalled(view):
        if _is_due(view, container, stopping):
            return Signal(container.name, signal_grace(stopping, view.now))
    return None


def signal_moments(view: View) -> Iterator[float]:
    """When graces are over that hooks, or earlier turns, still eat of."""
    for _, stopping in _unsignalled(view):
        yield stopping.at + stopping.grace_seconds


def signal_grace(stopping: Stopping, now: float) -> float:
    """What a sandbox that is asked to end at `now` has; restart-all kills without a grace (contract 4.6)."""
    if stopping.reason == "restart-all":
        return 0.0
    return max(MINIMUM_SIGNAL_SECONDS, stopping.at + stopping.grace_seconds - now)


def is_pre_stopping(container: Container, attempt: Attempt) -> bool:
    """Whether the attempt's preStop hook is under way, or still to come; it is not run when there is no grace."""
    stopping = attempt.stopping
    if pre_stop(container) is None or stopping is None or attempt.started_at is None:
        return False
    return stopping.grace_seconds > 0 and stopping.pre_stopped_at is None and stopping.signalled_at is None


def _unsignalled(view: View) -> Iterator[tuple[Container, Stopping]]:
    for container in all_containers(view.pod):
        attempt = view.running(container)
        if attempt is not None and attempt.stopping is not None and attempt.stopping.signalled_at is None:
            yield container, attempt.stopping


def _is_due(view: View, container: Container, stopping: Stopping) -> bool:
    if view.now >= stopping.at + stopping.grace_seconds:
        return True
    attempt = view.running(container)
    if attempt is None or is_pre_stopping(container, attempt):
        return False
    return stopping.reason not in ENDS_OF_PODS or _is_its_turn(view, container)


def _is_its_turn(view: View, container: Container) -> bool:
    """App containers (and an init container at work) end in parallel, then sidecars one by one, the last one first."""
    if not is_sidecar(container, spec=view.pod.spec):
        return True
    inits = view.pod.spec.init_containers
    position = next(index for index, each in enumerate(inits) if each is container)
    sidecars = [each for each in inits[:position] if is_sidecar(each, spec=view.pod.spec)]
    others = [each for each in all_containers(view.pod) if each is not container and each not in sidecars]
    return not any(view.is_running(each) for each in others)


def _first_stop(view: View, containers: list[Container], reason: str) -> Step | None:
    """The first that has to be told to end, or that its time is shorter than it was told before."""
    for container in containers:
        attempt = view.running(container)
        if attempt is None:
            continue
        if attempt.stopping is None:
            return Stop(container.name, _remaining(view), reason)
        if view.now + view.grace_seconds < attempt.stopping.at + attempt.stopping.grace_seconds:
            return Stop(container.name, view.grace_seconds, reason)
    return None


def _remaining(view: View) -> float:
    """All containers share the one grace period that began with the deletion, or the node's wish."""
    ends = [at + seconds for at, seconds in view.deadlines]
    return view.grace_seconds if not ends else max(MINIMUM_GRACE_SECONDS, min(ends) - view.now)
