"""Whether a container that ended runs again, and when (kubelet-contract 4.6). Pure."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from wasmlet.kube.types import Container, ExitCodes, PodSpec
from wasmlet.pods.facts import Attempt, ContainerFacts, Facts


class Decision(enum.Enum):
    """What follows a container's end."""

    RESTART = "restart"
    RESTART_ALL = "restart-all"
    STAY = "stay"


@dataclass(frozen=True, kw_only=True)
class BackOff:
    """Crash and pull back-off, in seconds: the first wait, and the longest (kubelet: 10 s doubling to 300 s)."""

    initial_seconds: float = 10.0
    maximum_seconds: float = 300.0

    def after(self, seconds: float) -> float:
        """The wait that follows one of `seconds` (0: none yet)."""
        return min(self.maximum_seconds, max(self.initial_seconds, 2 * seconds))


def is_sidecar(container: Container, *, spec: PodSpec) -> bool:
    """An init container with restartPolicy Always runs beside the app containers (contract 4.5)."""
    return container.restart_policy == "Always" and any(each is container for each in spec.init_containers)


def decide(container: Container, attempt: Attempt, *, spec: PodSpec) -> Decision:
    """What follows the end of `attempt`: rules first, then the container's policy, then the pod's.

    A kill by the agent for a failed probe consults only the policies; one for restart-all or another image always
    restarts.
    """
    if attempt.stopping is not None and attempt.stopping.reason in ("restart-all", "changed"):
        return Decision.RESTART
    killed = attempt.stopping is not None
    if container.restart_policy is not None and not killed:
        for rule in container.restart_policy_rules:
            if rule.exit_codes is not None and _matches(rule.exit_codes, attempt.exit_code):
                return Decision.RESTART_ALL if rule.action == "RestartAllContainers" else Decision.RESTART
    policy = container.restart_policy or spec.restart_policy
    is_init = any(each is container for each in spec.init_containers)
    if is_init and container.restart_policy != "Always":
        policy = "Never" if policy == "Never" else "OnFailure"
    if policy == "Always" or (policy == "OnFailure" and attempt.exit_code != 0):
        return Decision.RESTART
    return Decision.STAY


def _matches(exit_codes: ExitCodes, code: int) -> bool:
    return (code in exit_codes.values) == (exit_codes.operator == "In")


def belongs_to_round(attempt: Attempt | None, facts: Facts) -> bool:
    """Whether the attempt came after the last restart of all containers (none: the only round)."""
    if attempt is None:
        return False
    return facts.restart_all_at is None or attempt.created_at > facts.restart_all_at


def round_moment(facts: Facts, now: float) -> float:
    """When a new round begins: after every attempt so far, also when the clock was set back since."""
    return max([now, *(attempt.created_at for own in facts.containers.values() for attempt in own.attempts)])


def attempt_moment(facts: Facts, now: float) -> float:
    """When an attempt is created: after the round began, also when the clock was set back since."""
    return now if facts.restart_all_at is None else max(now, math.nextafter(facts.restart_all_at, math.inf))


def restart_at(facts: ContainerFacts, attempt: Attempt, back_off: BackOff) -> float:
    """When the container may start again: at once the first time, then after a wait that doubles."""
    finished = attempt.finished_at or attempt.created_at
    return finished + _current(facts, finished, back_off)


def raise_back_off(facts: ContainerFacts, now: float, back_off: BackOff) -> None:
    """Lengthen the wait when a container is started again; once for each end, however often the start fails."""
    if facts.last is None:
        return
    ended = facts.last.finished_at or now
    if facts.back_off_at < ended:
        facts.back_off_seconds = back_off.after(_current(facts, ended, back_off))
        facts.back_off_at = max(now, ended)


def _current(facts: ContainerFacts, now: float, back_off: BackOff) -> float:
    """Forgotten when nothing has raised it for twice the longest wait."""
    return 0.0 if now - facts.back_off_at > 2 * back_off.maximum_seconds else facts.back_off_seconds
