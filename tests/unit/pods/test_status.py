"""PodStatus from facts (kubelet-contract 4.1, 4.2, 4.4), with the exact texts."""

from typing import Any

import pytest

from tests.support.pods import pod
from tests.support.simulation import START, Simulation
from tests.unit.pods.lives import PROBE, app, sidecar
from wasmlet.kube.types import (
    Container,
    ContainerStatus,
    ExitCodes,
    Lifecycle,
    LifecycleHandler,
    PodCondition,
    PodStatus,
    ReadinessGate,
    ResourceRequirements,
    RestartRule,
    SleepAction,
    VolumeMount,
)
from wasmlet.pods.facts import Unhealthy, Verdict
from wasmlet.pods.status import exit_code, render


def life(*containers: Container, **spec: Any) -> Simulation:
    simulation = Simulation(pod(*containers, **spec))
    simulation.settle()
    return simulation


def exits(simulation: Simulation, *ends: tuple[str, int]) -> Simulation:
    for name, code in ends:
        assert simulation.exit(name, code)
        simulation.settle()
    return simulation


def of(status: PodStatus, name: str = "main") -> ContainerStatus:
    return next(each for each in [*status.init_container_statuses, *status.container_statuses] if each.name == name)


def condition(status: PodStatus, kind: str) -> tuple[str, str, str]:
    found = next(each for each in status.conditions if each.type == kind)
    return found.status, found.reason, found.message


def test_a_container_whose_hook_failed_was_never_started_nor_ready() -> None:
    hook = Lifecycle(post_start=LifecycleHandler(sleep=SleepAction(seconds=0)))
    simulation = life(app(lifecycle=hook))
    attempt = simulation.facts.container("main").last
    assert attempt is not None
    attempt.post_started_at = START + 1
    attempt.unhealthy = Unhealthy(probe="postStart", at=START + 1)
    shown = of(simulation.status())
    assert (shown.started, shown.ready) == (False, False)


# --- phase ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "simulation"),
    [
        ("Pending", Simulation(pod(app()))),
        ("Running", life(app())),
        ("Pending", life(app(), init_containers=[app("first")])),
        ("Running", exits(life(app(), init_containers=[app("first")]), ("first", 0))),
        ("Pending", exits(life(app(), init_containers=[app("first")], restart_policy="Always"), ("first", 1))),
        ("Failed", exits(life(app(), init_containers=[app("first")]), ("first", 1))),
        ("Pending", life(app(), init_containers=[sidecar(startup_probe=PROBE)])),
        ("Running", life(app(), init_containers=[sidecar()])),
        ("Succeeded", exits(life(app()), ("main", 0))),
        ("Failed", exits(life(app()), ("main", 1))),
        ("Running", exits(life(app(), app("other")), ("main", 1))),
        ("Failed", exits(life(app(), app("other")), ("main", 1), ("other", 0))),
        ("Running", exits(life(app(), restart_policy="Always"), ("main", 0), ("main", 0))),
        ("Running", exits(life(app(), restart_policy="OnFailure"), ("main", 1), ("main", 1))),
        ("Succeeded", exits(life(app(), restart_policy="OnFailure"), ("main", 1), ("main", 0))),
        ("Succeeded", exits(life(app(), init_containers=[sidecar()]), ("main", 0))),
    ],
)
def test_phases(phase: str, simulation: Simulation) -> None:
    assert simulation.status().phase == phase


def test_a_pod_is_not_final_while_a_sidecar_runs() -> None:
    simulation = life(app(), init_containers=[sidecar()])
    simulation.stop_seconds = 10
    exits(simulation, ("main", 0))
    assert simulation.status().phase == "Running"
    simulation.pass_time(11)
    assert simulation.status().phase == "Succeeded"


def test_a_back_off_does_not_lead_back_to_pending() -> None:
    simulation = exits(life(app(), restart_policy="Always"), ("main", 1), ("main", 1))
    simulation.failing["main"] = "image"
    simulation.pass_time(11)
    status = simulation.status()
    assert status.phase == "Running"
    assert of(status).state.waiting is not None
    assert of(status).last_state.terminated is not None


def test_a_refused_pod_has_no_containers() -> None:
    simulation = Simulation(pod(app()))
    simulation.refusal = Verdict(phase="Failed", reason="OutOfcpu", message="Pod was rejected: no", at=START)
    simulation.settle()
    status = simulation.status()
    assert (status.phase, status.reason, status.message) == ("Failed", "OutOfcpu", "Pod was rejected: no")
    assert status.container_statuses == []
    assert status.start_time == "1970-01-12T13:46:40Z"


# --- conditions -------------------------------------------------------------------------------------------------------


def test_conditions_of_a_running_pod() -> None:
    status = life(app()).status()
    assert {each.type: each.status for each in status.conditions} == dict.fromkeys(
        ("PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"), "True"
    )
    assert {each.observed_generation for each in status.conditions} == {1}


def test_conditions_before_initialisation() -> None:
    status = life(app("b"), app("a"), init_containers=[app("one"), app("two")]).status()
    assert condition(status, "Initialized") == (
        "False", "ContainersNotInitialized", "containers with incomplete status: [one two]",
    )  # fmt: skip
    unready = ("False", "ContainersNotReady", "containers with unready status: [a b]")
    assert condition(status, "ContainersReady") == unready
    assert condition(status, "Ready") == unready
    assert condition(status, "PodReadyToStartContainers")[0] == "True"


def test_sidecars_count_for_readiness() -> None:
    status = life(app(), init_containers=[sidecar(readiness_probe=PROBE)]).status()
    assert condition(status, "Ready") == ("False", "ContainersNotReady", "containers with unready status: [side]")
    assert condition(status, "Initialized")[0] == "True"


@pytest.mark.parametrize(("code", "reason"), [(0, "PodCompleted"), (1, "PodFailed")])
def test_conditions_of_an_ended_pod(code: int, reason: str) -> None:
    status = exits(life(app()), ("main", code)).status()
    assert condition(status, "Ready") == ("False", reason, "")
    assert condition(status, "ContainersReady") == ("False", reason, "")
    assert condition(status, "Initialized")[0] == "True"
    assert condition(status, "PodReadyToStartContainers")[0] == "False"


def test_readiness_gates() -> None:
    simulation = life(app(), readiness_gates=[ReadinessGate(condition_type="example.com/a")])
    status = simulation.status()
    assert condition(status, "ContainersReady")[0] == "True"
    assert condition(status, "Ready")[:2] == ("False", "ReadinessGatesNotReady")
    assert "example.com/a" in condition(status, "Ready")[2]
    status.conditions.append(PodCondition(type="example.com/a", status="True"))
    after = simulation.status(status)
    assert condition(after, "Ready")[0] == "True"
    assert condition(after, "example.com/a")[0] == "True"


def test_transition_times_change_with_the_status_only() -> None:
    simulation = life(app(readiness_probe=PROBE))
    before = simulation.status()
    simulation.now += 100
    attempt = simulation.running("main")
    assert attempt is not None
    attempt.probed_ready = True
    after = simulation.status(before)
    times = {each.type: each.last_transition_time for each in before.conditions}
    changed = {each.type for each in after.conditions if each.last_transition_time != times[each.type]}
    assert changed == {"Ready", "ContainersReady"}


# --- containers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inits", "reason"), [([], "ContainerCreating"), ([app("first")], "PodInitializing")])
def test_before_the_first_start(inits: list[Container], reason: str) -> None:
    status = Simulation(pod(app(), init_containers=inits)).status()
    waiting = of(status).state.waiting
    assert waiting is not None
    assert waiting.reason == reason
    assert (of(status).ready, of(status).started, of(status).restart_count) == (False, False, 0)
    assert (of(status).container_id, of(status).image_id) == ("", "")


def test_a_running_container() -> None:
    status = of(life(app()).status())
    assert status.state.running is not None
    assert status.state.running.started_at == "1970-01-12T13:46:40Z"
    assert (status.ready, status.started, status.container_id) == (True, True, "wasmlet://main-0")


def test_crash_loop_back_off_and_its_text() -> None:
    simulation = life(app(), restart_policy="Always")
    meta = simulation.pod.metadata
    texts = []
    for _ in range(7):
        simulation.exit("main", 1)
        waiting = of(simulation.status()).state.waiting
        texts.append("" if waiting is None else f"{waiting.reason}: {waiting.message}")
        simulation.pass_time(301)
    where = f"restarting failed container=main pod={meta.name}_default({meta.uid})"
    assert texts == ["", *(f"CrashLoopBackOff: back-off {each} {where}" for each in
                           ("10s", "20s", "40s", "1m20s", "2m40s", "5m0s"))]  # fmt: skip


def test_a_restarted_container_shows_its_last_end() -> None:
    simulation = exits(life(app(), restart_policy="Always"), ("main", 3))
    status = of(simulation.status())
    assert status.state.running is not None
    assert status.last_state.terminated is not None
    assert (status.last_state.terminated.exit_code, status.last_state.terminated.reason) == (3, "Error")
    assert status.last_state.terminated.container_id == "wasmlet://main-0"
    assert (status.restart_count, status.container_id) == (1, "wasmlet://main-1")


@pytest.mark.parametrize(("code", "reason"), [(0, "Completed"), (1, "Error"), (143, "Error")])
def test_terminated(code: int, reason: str) -> None:
    terminated = of(exits(life(app()), ("main", code)).status()).state.terminated
    assert terminated is not None
    assert (terminated.exit_code, terminated.reason, terminated.signal) == (code, reason, 0)


@pytest.mark.parametrize(("stage", "reason"), [("image", "ImagePullBackOff"), ("config", "CreateContainerConfigError")])
def test_failed_starts(stage: str, reason: str) -> None:
    simulation = Simulation(pod(app()))
    simulation.failing["main"] = stage
    simulation.settle()
    waiting = of(simulation.status()).state.waiting
    assert waiting is not None
    assert (waiting.reason, waiting.message) == (reason, "it failed")


def test_missing_volumes_show_as_creating() -> None:
    simulation = Simulation(pod(app()))
    simulation.failing[""] = "volumes"
    simulation.settle()
    waiting = of(simulation.status()).state.waiting
    assert waiting is not None
    assert (waiting.reason, waiting.message) == ("ContainerCreating", "it failed")


def test_restarting_all_containers() -> None:
    rule = RestartRule(action="RestartAllContainers", exit_codes=ExitCodes(values=[3]))
    simulation = life(app(restart_policy="Never", restart_policy_rules=[rule]), app("other"))
    simulation.stop_seconds = 1
    simulation.exit("main", 3)
    steps = simulation.steps()
    next(steps)
    waiting = of(simulation.status()).state.waiting
    assert waiting is not None
    assert waiting.reason == "RestartingAllContainers"
    assert of(simulation.status(), "other").state.running is not None


def test_a_regular_init_container_is_ready_when_it_has_succeeded() -> None:
    simulation = life(app(), init_containers=[app("first")])
    assert (of(simulation.status(), "first").ready, of(simulation.status(), "first").started) == (False, True)
    exits(simulation, ("first", 0))
    assert (of(simulation.status(), "first").ready, of(simulation.status(), "first").started) == (True, False)


def test_started_and_ready_follow_the_probes() -> None:
    simulation = life(app(startup_probe=PROBE, readiness_probe=PROBE))
    seen = [(of(simulation.status()).started, of(simulation.status()).ready)]
    simulation.pass_startup("main")
    seen.append((of(simulation.status()).started, of(simulation.status()).ready))
    attempt = simulation.running("main")
    assert attempt is not None
    attempt.probed_ready = True
    seen.append((of(simulation.status()).started, of(simulation.status()).ready))
    simulation.exit("main", 0)
    seen.append((of(simulation.status()).started, of(simulation.status()).ready))
    assert seen == [(False, False), (True, False), (True, True), (False, False)]


def test_orders_and_mounts() -> None:
    mounts = [VolumeMount(name="v", mount_path="/v"), VolumeMount(name="v", mount_path="/r", read_only=True)]
    status = life(app("b", volume_mounts=mounts), app("a"), init_containers=[sidecar("z"), sidecar("y")]).status()
    assert [each.name for each in status.container_statuses] == ["a", "b"]
    assert [each.name for each in status.init_container_statuses] == ["z", "y"]
    assert [(each.mount_path, each.read_only, each.recursive_read_only) for each in of(status, "b").volume_mounts] == [
        ("/v", False, None), ("/r", True, "Disabled"),
    ]  # fmt: skip


def test_ephemeral_containers_say_that_they_do_not_run() -> None:
    status = life(app(), ephemeral_containers=[app("debug")]).status()
    (debug,) = status.ephemeral_container_statuses
    assert debug.name == "debug"
    assert debug.state.terminated is not None
    assert (debug.state.terminated.exit_code, debug.state.terminated.reason) == (128, "ContainerCannotRun")
    assert "wasmlet does not run ephemeral containers yet" in debug.state.terminated.message
    assert (status.phase, [each.name for each in status.container_statuses]) == ("Running", ["main"])


def test_addresses() -> None:
    simulation = life(app())
    simulation.facts.pod_ips = ["127.88.0.1"]
    status = render(simulation.view(), host_ips=("10.0.0.1", "fd00::1"))
    assert (status.pod_ip, [each.ip for each in status.pod_ips]) == ("127.88.0.1", ["127.88.0.1"])
    assert (status.host_ip, [each.ip for each in status.host_ips]) == ("10.0.0.1", ["10.0.0.1", "fd00::1"])


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([({}, {})], "BestEffort"),
        ([({"cpu": "1", "memory": "1Gi"}, {})], "Guaranteed"),
        ([({"cpu": "1", "memory": "1Gi"}, {"cpu": "1", "memory": "1Gi"})], "Guaranteed"),
        ([({"cpu": "1", "memory": "1Gi"}, {"cpu": "1000m", "memory": "1024Mi"})], "Guaranteed"),
        ([({"cpu": "1", "memory": "1Gi"}, {"cpu": "500m"})], "Burstable"),
        ([({"memory": "1Gi"}, {})], "Burstable"),
        ([({}, {"cpu": "1"})], "Burstable"),
        ([({"cpu": "1", "memory": "1Gi"}, {}), ({}, {})], "Burstable"),
        ([({"example.com/gpu": "1"}, {})], "BestEffort"),
        ([({"cpu": "lots", "memory": "1Gi"}, {"cpu": "more"})], "Burstable"),
    ],
)
def test_qos(resources: list[tuple[dict[str, str], dict[str, str]]], expected: str) -> None:
    made = [
        app(f"c{number}", resources=ResourceRequirements(limits=dict(limits), requests=dict(requests)))
        for number, (limits, requests) in enumerate(resources)
    ]
    assert life(*made).status().qos_class == expected


def test_the_api_servers_qos_is_echoed() -> None:
    simulation = life(app())
    simulation.pod.status.qos_class = "Guaranteed"
    assert simulation.status().qos_class == "Guaranteed"


# --- one number for a pod's end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("simulation", "code"),
    [
        (exits(life(app()), ("main", 0)), 0),
        (exits(life(app()), ("main", 7)), 7),
        (exits(life(app("a"), app("b"), app("c")), ("b", 4), ("a", 3), ("c", 0)), 3),
        (exits(life(app(), init_containers=[app("first")]), ("first", 9)), 9),
        (exits(life(app(), init_containers=[sidecar()]), ("main", 0)), 0),
        (exits(life(app(), restart_policy="OnFailure"), ("main", 5), ("main", 0)), 0),
    ],
)
def test_exit_codes(simulation: Simulation, code: int) -> None:
    assert exit_code(simulation.view()) == code


def test_exit_codes_of_ends_from_outside() -> None:
    simulation = life(app())
    simulation.delete(10)
    simulation.settle()
    assert exit_code(simulation.view()) == 143
    refused = Simulation(pod(app()))
    refused.refusal = Verdict(phase="Failed", reason="Invalid", message="", at=START)
    refused.settle()
    assert exit_code(refused.view()) == 1
