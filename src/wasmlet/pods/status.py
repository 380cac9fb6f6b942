"""PodStatus from facts: pure (kubelet-contract 4.1, 4.2, 4.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wasmlet.base.clock import to_text
from wasmlet.kube.types import (
    IP,
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    PodCondition,
    PodStatus,
    VolumeMount,
    VolumeMountStatus,
)
from wasmlet.pods.demands import is_recursively_read_only
from wasmlet.pods.facts import Attempt
from wasmlet.pods.plan import has_completed
from wasmlet.pods.quality import qos_class
from wasmlet.pods.restarts import Decision, decide, is_sidecar, restart_at
from wasmlet.pods.view import View, has_started

RUNTIME_NAME = "wasmlet"
"""The scheme of container ids and of the node's containerRuntimeVersion."""


def render(view: View, *, host_ips: tuple[str, ...] = (), previous: PodStatus | None = None) -> PodStatus:
    """The status of the pod as its facts have it at `view.now`.

    Args:
        host_ips: The node's addresses.
        previous: The last status rendered or read; its transition times stay where nothing changed, and conditions
            that others own are kept.
    """
    facts, pod = view.facts, view.pod
    before = previous or pod.status
    rejected = facts.verdict is not None and facts.admitted_at is None
    inits = [] if rejected else [_container_status(view, each) for each in pod.spec.init_containers]
    apps = [] if rejected else [_container_status(view, each) for each in pod.spec.containers]
    if facts.ended_at is not None and not rejected:
        _finish(view, inits, apps)
    phase = _phase(view)
    status = PodStatus(
        observed_generation=pod.metadata.generation,
        phase=phase,
        reason=facts.verdict.reason if facts.verdict else "",
        message=facts.verdict.message if facts.verdict else "",
        host_ip=host_ips[0] if host_ips else "",
        host_ips=[IP(ip=ip) for ip in host_ips],
        pod_ip=facts.pod_ip,
        pod_ips=[IP(ip=ip) for ip in facts.pod_ips],
        start_time=to_text(facts.seen_at),
        qos_class=before.qos_class or qos_class(pod),
        init_container_statuses=inits,
        container_statuses=sorted(apps, key=lambda each: each.name),
        ephemeral_container_statuses=[] if rejected else [_not_run(each) for each in pod.spec.ephemeral_containers],
    )
    status.conditions = _conditions(view, status, before)
    return status


def exit_code(view: View) -> int:
    """What stands for the pod's end in one number: the first failed container's code, else 0.

    A pod refused at admission, or one whose deadline passed, counts as 1 unless a container says more.
    """
    for container in [*view.pod.spec.init_containers, *view.pod.spec.containers]:
        attempt = view.of(container).last
        if attempt is None or attempt.exit_code == 0 or is_sidecar(container, spec=view.pod.spec):
            continue
        return attempt.exit_code
    return 0 if _phase(view) == "Succeeded" else 1


# --- phase ------------------------------------------------------------------------------------------------------------


def _phase(view: View) -> str:
    facts, spec = view.facts, view.pod.spec
    if facts.verdict is not None and facts.admitted_at is None:
        return facts.verdict.phase  # nothing has run, so there is nothing to wait for
    apps = [view.of(container) for container in spec.containers]
    if facts.ended_at is not None:
        if facts.verdict is not None:
            return "Succeeded" if facts.verdict.disrupts and _had_succeeded(view) else facts.verdict.phase
        well = all(each.last is not None and each.last.finished_at and each.last.exit_code == 0 for each in apps)
        return "Succeeded" if well else "Failed"
    if any(_initializing(view, container) for container in spec.init_containers):
        return "Pending"
    if not all(any(attempt.started_at is not None for attempt in each.attempts) for each in apps):
        return "Pending"
    return "Running"


def _had_succeeded(view: View) -> bool:
    """Whether the pod had done its work before the node wanted its end: an exit of 0 on request is none (a Job's)."""
    attempts = [view.current(container) for container in view.pod.spec.containers]
    well = all(each is not None and each.exit_code == 0 and each.stopping is None for each in attempts)
    return well and has_completed(view)


def _initializing(view: View, container: Container) -> bool:
    attempt = view.current(container)
    if is_sidecar(container, spec=view.pod.spec):
        return attempt is None and view.of(container).last is None
    return attempt is None or attempt.finished_at is None or attempt.exit_code != 0


# --- containers that were never seen ----------------------------------------------------------------------------------


def _finish(view: View, inits: list[ContainerStatus], apps: list[ContainerStatus]) -> None:
    """Nothing of an ended pod is left waiting, but for what could not have begun (the kubelet's TerminatePod)."""
    begun = [position for position, each in enumerate(inits) if each.state.waiting is None]
    for each in inits[: max(begun, default=0) + 1]:
        _give_up(each)
    regular = [each for each in view.pod.spec.init_containers if not is_sidecar(each, spec=view.pod.spec)]
    if not any(_initializing(view, each) for each in regular):
        for each in apps:
            _give_up(each)


def _give_up(status: ContainerStatus) -> None:
    if status.state.waiting is not None:
        message = "The container could not be located when the pod was terminated"
        state = ContainerStateTerminated(exit_code=137, reason="ContainerStatusUnknown", message=message)
        status.state = ContainerState(terminated=state)


# --- containers -------------------------------------------------------------------------------------------------------


def _container_status(view: View, container: Container) -> ContainerStatus:
    facts = view.of(container)
    attempt = view.current(container) or facts.last
    state, last = _states(view, container)
    running = state.running is not None
    regular_init = container in view.pod.spec.init_containers and not is_sidecar(container, spec=view.pod.spec)
    if regular_init:
        ready = state.terminated is not None and state.terminated.exit_code == 0
        started = running
    else:
        started = running and attempt is not None and has_started(container, attempt)
        ready = started and attempt is not None and (container.readiness_probe is None or attempt.probed_ready)
    return ContainerStatus(
        name=container.name,
        state=state,
        last_state=last,
        ready=ready,
        started=started,
        restart_count=0 if attempt is None else attempt.number,
        image=attempt.image if attempt is not None and attempt.image else container.image,
        image_id=attempt.image_id if attempt is not None else "",
        container_id=_container_id(attempt) if attempt is not None and attempt.started_at is not None else "",
        volume_mounts=[
            VolumeMountStatus(
                name=mount.name,
                mount_path=mount.mount_path,
                read_only=mount.read_only,
                recursive_read_only=_recursion(mount),
            )
            for mount in container.volume_mounts
        ],
    )


def _not_run(container: Container) -> ContainerStatus:
    """Of an ephemeral container: it has ended before it began, so that `kubectl debug` says why and does not wait."""
    message = "wasmlet does not run ephemeral containers yet; on the node: wasmlet exec"
    ended = ContainerStateTerminated(exit_code=128, reason="ContainerCannotRun", message=message)
    return ContainerStatus(name=container.name, image=container.image, state=ContainerState(terminated=ended))


def _recursion(mount: VolumeMount) -> str | None:
    """Of a read-only mount: whether what is mounted below it is read-only too, if the pod asked for that."""
    if not mount.read_only:
        return None
    return "Enabled" if is_recursively_read_only(mount) else "Disabled"


def _states(view: View, container: Container) -> tuple[ContainerState, ContainerState]:
    """The present state and the last one."""
    facts = view.of(container)
    attempt = facts.last
    earlier = [_terminated(each) for each in facts.attempts[:-1] if each.finished_at is not None]
    last = earlier[-1] if earlier else ContainerState()
    if attempt is None:
        return _waiting_for_first_start(view, container), last
    if attempt.finished_at is None:
        if attempt.started_at is None:
            return _waiting("ContainerCreating"), last
        return ContainerState(running=ContainerStateRunning(started_at=to_text(attempt.started_at))), last
    waiting = _waiting_for_restart(view, container, attempt)
    return (_terminated(attempt), last) if waiting is None else (waiting, _terminated(attempt))


def _waiting_for_first_start(view: View, container: Container) -> ContainerState:
    failure = view.of(container).failure
    if failure is not None:
        return _waiting(failure.shown, failure.message)
    if view.facts.volume_failure is not None:
        return _waiting("ContainerCreating", view.facts.volume_failure.message)
    return _waiting("PodInitializing" if view.pod.spec.init_containers else "ContainerCreating")


def _waiting_for_restart(view: View, container: Container, attempt: Attempt) -> ContainerState | None:
    """None when it stays ended, or is about to start without a wait."""
    if view.facts.ended_at is not None or view.facts.deletion is not None or view.facts.verdict is not None:
        return None
    if view.current(container) is None:
        return _waiting("RestartingAllContainers")
    if decide(container, attempt, spec=view.pod.spec) is not Decision.RESTART or has_completed(view):
        return None
    facts = view.of(container)
    if facts.failure is not None:
        return _waiting(facts.failure.shown, facts.failure.message)
    if restart_at(facts, attempt, view.back_off) <= view.now:
        failed_hook = attempt.unhealthy is not None and attempt.unhealthy.probe == "postStart"
        return _waiting("PostStartHookError", "PostStartHook failed") if failed_hook else None
    meta = view.pod.metadata
    seconds = restart_at(facts, attempt, view.back_off) - (attempt.finished_at or 0.0)
    return _waiting(
        "CrashLoopBackOff",
        f"back-off {_duration(seconds)} restarting failed container={container.name} "
        f"pod={meta.name}_{meta.namespace}({meta.uid})",
    )


def _duration(seconds: float) -> str:
    """Go's time.Duration text for whole seconds: 10s, 1m20s, 5m0s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _waiting(reason: str, message: str = "") -> ContainerState:
    return ContainerState(waiting=ContainerStateWaiting(reason=reason, message=message))


def _terminated(attempt: Attempt) -> ContainerState:
    return ContainerState(
        terminated=ContainerStateTerminated(
            exit_code=attempt.exit_code,
            reason=attempt.reason or ("Completed" if attempt.exit_code == 0 else "Error"),
            message=attempt.message,
            started_at=to_text(attempt.started_at or attempt.created_at),
            finished_at=to_text(attempt.finished_at or attempt.created_at),
            container_id=_container_id(attempt),
        )
    )


def _container_id(attempt: Attempt) -> str:
    return f"{RUNTIME_NAME}://{attempt.id}"


# --- conditions -------------------------------------------------------------------------------------------------------

DISRUPTION_TARGET = "DisruptionTarget"
"""Anybody may say it; the node does of pods that it ends (contract 1.5)."""

OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def _conditions(view: View, status: PodStatus, before: PodStatus) -> list[PodCondition]:
    previous = {condition.type: condition for condition in before.conditions}
    known = view.pod.status.conditions or before.conditions
    foreign = [each for each in known if each.type not in OWN_CONDITIONS]
    others = {each.type: each.status for each in foreign}
    verdicts = [
        ("PodReadyToStartContainers", *_ready_to_start(view)),
        ("Initialized", *_initialized(view, status)),
        ("Ready", *_ready(view, status, others)),
        ("ContainersReady", *_containers_ready(view, status)),
        ("PodScheduled", True, "", ""),
    ]
    verdict = view.facts.verdict
    if verdict is not None and verdict.disrupts:
        foreign = [each for each in foreign if each.type != DISRUPTION_TARGET]
        verdicts.append((DISRUPTION_TARGET, True, "TerminationByKubelet", verdict.message))
    own = [_condition(view, previous, *each) for each in verdicts]
    return own + foreign


def _condition(
    view: View, previous: Mapping[str, PodCondition], kind: str, holds: bool, reason: str, message: str
) -> PodCondition:
    status = "True" if holds else "False"
    before = previous.get(kind)
    changed = before is None or before.status != status or before.last_transition_time is None
    return PodCondition(
        type=kind,
        status=status,
        observed_generation=view.pod.metadata.generation,
        last_transition_time=to_text(view.now) if changed or before is None else before.last_transition_time,
        reason=reason,
        message=message,
    )


def _ready_to_start(view: View) -> tuple[bool, str, str]:
    return view.facts.volumes_at is not None and view.facts.ended_at is None, "", ""


def _initialized(view: View, status: PodStatus) -> tuple[bool, str, str]:
    if status.phase == "Succeeded":
        return True, "PodCompleted", ""
    if status.phase == "Failed" and view.facts.admitted_at is None:
        return False, "PodFailed", ""
    incomplete = [each.name for each in view.pod.spec.init_containers if _initializing(view, each)]
    if incomplete:
        return False, "ContainersNotInitialized", f"containers with incomplete status: {_listed(incomplete)}"
    return True, "", ""


def _containers_ready(view: View, status: PodStatus) -> tuple[bool, str, str]:
    if status.phase in ("Succeeded", "Failed"):
        return False, f"Pod{'Completed' if status.phase == 'Succeeded' else 'Failed'}", ""
    sidecars = {each.name for each in view.pod.spec.init_containers if is_sidecar(each, spec=view.pod.spec)}
    counted = [each for each in status.init_container_statuses if each.name in sidecars] + status.container_statuses
    unready = [each.name for each in counted if not each.ready]
    if unready:
        return False, "ContainersNotReady", f"containers with unready status: {_listed(unready)}"
    return True, "", ""


def _ready(view: View, status: PodStatus, others: Mapping[str, str]) -> tuple[bool, str, str]:
    holds, reason, message = _containers_ready(view, status)
    if not holds:
        return holds, reason, message
    gates = [gate.condition_type for gate in view.pod.spec.readiness_gates]
    missing = [gate for gate in gates if others.get(gate) != "True"]
    if missing:
        texts = (f"pod readiness gate {gate!r} is not True" for gate in missing)
        return False, "ReadinessGatesNotReady", "; ".join(texts)
    return True, "", ""


def _listed(names: Iterable[str]) -> str:
    return f"[{' '.join(names)}]"
