"""The plan, rule by rule (kubelet-contract section 4); `restarts` and `stops` have their own tests."""

import pytest

from tests.support.pods import container
from tests.support.simulation import START
from tests.unit.pods.lives import PROBE, app, life, sidecar
from wasmlet.pods import plan
from wasmlet.pods.facts import Verdict
from wasmlet.pods.plan import Stage

# --- the stages -------------------------------------------------------------------------------------------------------


def test_a_pod_goes_through_the_stages_in_order() -> None:
    simulation = life(app())
    stages = [simulation.stage, *(simulation.stage for _ in simulation.steps())]
    assert list(dict.fromkeys(stages)) == [Stage.NEW, Stage.PREPARING, Stage.RUNNING]
    simulation.exit("main")
    simulation.settle()
    assert [type(step).__name__ for _, step in simulation.log] == ["Admit", "Prepare", "Start", "End", "TearDown"]
    assert simulation.is_at(Stage.GONE)
    assert plan.next_step(simulation.view()) == plan.Wait()


def test_a_refused_pod_ends_and_starts_nothing() -> None:
    simulation = life(app())
    simulation.refusal = Verdict(phase="Failed", reason="Invalid", message="no", at=START)
    simulation.settle()
    assert [type(step).__name__ for _, step in simulation.log] == ["Admit", "End", "TearDown"]


def test_volumes_are_tried_again_at_the_sync_period() -> None:
    simulation = life(app())
    simulation.failing[""] = "volumes"
    wait = simulation.settle()
    assert simulation.is_at(Stage.PREPARING)
    assert wait.until == pytest.approx(START + 10, abs=1)
    simulation.pass_time(11)
    assert simulation.started == [("main", 0)]


# --- initialisation (4.5) ---------------------------------------------------------------------------------------------


def test_init_containers_wait_for_each_other_and_apps_for_all() -> None:
    simulation = life(app(), init_containers=[app("first"), app("second")])
    simulation.settle()
    assert simulation.started == [("first", 0)]
    simulation.exit("first")
    simulation.settle()
    assert simulation.started == [("first", 0), ("second", 0)]
    simulation.exit("second")
    simulation.settle()
    assert simulation.started == [("first", 0), ("second", 0), ("main", 0)]


@pytest.mark.parametrize(
    ("policy", "own", "restarts"),
    [
        ("Always", None, True),
        ("OnFailure", None, True),
        ("Never", None, False),
        ("Never", "OnFailure", True),
        ("Always", "Never", False),
    ],
)
def test_a_failed_init_container(policy: str, own: str | None, restarts: bool) -> None:
    simulation = life(app(), init_containers=[container("first", restart_policy=own)], restart_policy=policy)
    simulation.settle()
    simulation.exit("first", 1)
    simulation.settle()
    if restarts:
        assert simulation.started == [("first", 0), ("first", 1)]
    else:
        assert simulation.is_at(Stage.GONE)
        assert simulation.status().phase == "Failed"
    assert ("main", 0) not in simulation.started


def test_an_init_container_that_succeeded_is_not_run_again_with_always() -> None:
    simulation = life(app(), init_containers=[app("first")], restart_policy="Always")
    simulation.settle()
    simulation.exit("first")
    simulation.settle()
    simulation.exit("main", 1)
    simulation.pass_time(100)
    assert simulation.started.count(("first", 0)) == 1
    assert ("first", 1) not in simulation.started


def test_a_failed_init_container_waits_with_its_back_off() -> None:
    simulation = life(app(), init_containers=[app("first")], restart_policy="OnFailure")
    simulation.settle()
    simulation.exit("first", 1)
    simulation.settle()
    simulation.exit("first", 1)
    wait = simulation.settle()
    assert wait.until == pytest.approx(simulation.now + 10, abs=0.1)


def test_a_sidecar_lets_the_next_begin_once_it_has_started() -> None:
    side = sidecar("side", startup_probe=PROBE)
    simulation = life(app(), init_containers=[side, app("first")])
    simulation.settle()
    assert simulation.started == [("side", 0)]
    simulation.pass_startup("side")
    simulation.settle()
    assert simulation.started == [("side", 0), ("first", 0)]


def test_readiness_of_a_sidecar_holds_nobody_back() -> None:
    simulation = life(app(), init_containers=[sidecar("side", readiness_probe=PROBE)])
    simulation.settle()
    assert simulation.started == [("side", 0), ("main", 0)]


def test_a_sidecar_that_ends_before_it_has_started_holds_the_next_back() -> None:
    simulation = life(app(), init_containers=[sidecar("side", startup_probe=PROBE)])
    simulation.settle()
    simulation.exit("side", 1)
    simulation.settle()
    assert simulation.started == [("side", 0), ("side", 1)]
    simulation.exit("side", 1)
    assert simulation.settle().until is not None
    assert ("main", 0) not in simulation.started


def test_a_sidecar_is_restarted_while_an_init_container_runs() -> None:
    simulation = life(app(), init_containers=[sidecar("side"), app("long")])
    simulation.settle()
    waits = []
    for number in (1, 2, 3):
        simulation.exit("side", 1)
        ended = simulation.now
        simulation.pass_time(50)
        assert simulation.started[-1] == ("side", number)
        waits.append(round(simulation.log[-1][0] - ended))
    assert waits == [0, 10, 20]


def test_a_sidecar_is_restarted_while_an_init_container_waits_longer() -> None:
    simulation = life(app(), init_containers=[sidecar("side"), app("first")], restart_policy="OnFailure")
    simulation.settle()
    for _ in range(4):
        simulation.exit("first", 1)
        simulation.pass_time(90)
    simulation.exit("first", 1)
    simulation.settle()
    for _ in range(2):
        simulation.exit("side", 1)
        simulation.settle()
    began = simulation.now
    simulation.pass_time(70)
    restarted = [moment for moment, step in simulation.log if step == plan.Start("side", 2)]
    assert restarted == [pytest.approx(began + 10, abs=0.1)]


def test_a_sidecar_restarts_in_a_pod_that_never_restarts() -> None:
    simulation = life(app(), init_containers=[sidecar("side")], restart_policy="Never")
    simulation.settle()
    simulation.exit("side", 0)
    simulation.settle()
    assert simulation.started == [("side", 0), ("main", 0), ("side", 1)]


def test_app_containers_start_in_order_without_waiting_for_each_other() -> None:
    simulation = life(app("b"), app("a"), app("c"))
    simulation.failing["b"] = "config"
    simulation.settle()
    assert simulation.started == [("b", 0), ("a", 0), ("c", 0)]


def test_one_app_that_cannot_start_does_not_keep_another_from_its_restart() -> None:
    simulation = life(app("a"), app("b"), restart_policy="Always")
    simulation.failing["a"] = "config"
    simulation.settle()
    simulation.exit("b", 1)
    simulation.settle()
    assert simulation.started == [("a", 0), ("b", 0), ("b", 1)]
    simulation.pass_time(11)
    assert simulation.started[-1] == ("a", 0)


# --- the end of a pod -------------------------------------------------------------------------------------------------


def test_sidecars_are_stopped_in_reverse_each_after_the_later_ones() -> None:
    simulation = life(app(), init_containers=[sidecar("one"), sidecar("two"), sidecar("three")])
    simulation.stop_seconds = 5
    simulation.settle()
    simulation.exit("main")
    simulation.settle()
    assert {reason for _, _, reason in simulation.stopped} == {"finished"}
    assert simulation.signalled == [("three", pytest.approx(30, abs=0.1))]
    simulation.pass_time(5)
    assert [name for name, _ in simulation.signalled] == ["three", "two"]
    assert simulation.is_at(Stage.RUNNING)
    simulation.pass_time(10)
    assert [name for name, _ in simulation.signalled] == ["three", "two", "one"]
    assert simulation.is_at(Stage.GONE)
    assert simulation.status().phase == "Succeeded"


def test_sidecars_are_stopped_after_an_init_container_has_failed_for_good() -> None:
    simulation = life(app(), init_containers=[sidecar("side"), app("first")])
    simulation.settle()
    simulation.exit("first", 1)
    simulation.settle()
    assert [name for name, *_ in simulation.stopped] == ["side"]
    assert simulation.is_at(Stage.GONE)


@pytest.mark.parametrize(
    ("codes", "policy", "ends"),
    [
        ((0, 0), "Never", True),
        ((0, 1), "Never", True),
        ((0, 0), "OnFailure", True),
        ((0, 1), "OnFailure", False),
        ((0, 0), "Always", False),
    ],
)
def test_a_pod_ends_when_all_its_apps_have_ended_for_good(codes: tuple[int, int], policy: str, ends: bool) -> None:
    simulation = life(app("a"), app("b"), restart_policy=policy)
    simulation.settle()
    simulation.exit("a", codes[0])
    simulation.settle()
    assert simulation.is_at(Stage.RUNNING)
    simulation.exit("b", codes[1])
    simulation.settle()
    assert (simulation.is_at(Stage.GONE)) == ends


# --- failed starts ----------------------------------------------------------------------------------------------------


def test_a_failed_pull_is_shown_as_back_off_and_tried_ever_more_rarely() -> None:
    simulation = life(app())
    waits = []
    for _ in range(7):
        simulation.failing["main"] = "image"
        wait = simulation.settle()
        failure = simulation.facts.container("main").failure
        assert failure is not None
        assert failure.shown == "ImagePullBackOff"
        assert wait.until is not None
        waits.append(round(wait.until - failure.at))
        simulation.now = wait.until
    assert waits == [10, 20, 40, 80, 160, 300, 300]


def test_a_failed_config_is_tried_again_at_the_sync_period() -> None:
    simulation = life(app())
    for _ in range(3):
        simulation.failing["main"] = "config"
        wait = simulation.settle()
        assert wait.until == pytest.approx(simulation.now + 10, abs=0.1)
        simulation.now = wait.until or 0.0
    simulation.settle()
    assert simulation.started == [("main", 0)] * 4
    assert simulation.facts.container("main").failure is None


# --- deadline ---------------------------------------------------------------------------------------------------------


def test_the_deadline_counts_from_the_first_sight_and_ends_everything() -> None:
    simulation = life(
        app(), init_containers=[sidecar("side")], restart_policy="Always", active_deadline_seconds=60,
        termination_grace_period_seconds=7,
    )  # fmt: skip
    assert simulation.settle().until == START + 60
    simulation.pass_time(61)
    assert simulation.stopped == [("side", 7.0, "deadline"), ("main", 7.0, "deadline")]
    assert [name for name, _ in simulation.signalled] == ["main", "side"]
    assert simulation.is_at(Stage.GONE)
    status = simulation.status()
    assert (status.phase, status.reason) == ("Failed", "DeadlineExceeded")


def test_the_deadline_passes_in_the_midst_of_a_back_off() -> None:
    simulation = life(app(), restart_policy="Always", active_deadline_seconds=5)
    simulation.settle()
    simulation.exit("main", 1)
    simulation.settle()
    simulation.exit("main", 1)
    assert simulation.settle().until == START + 5
    simulation.pass_time(6)
    assert simulation.is_at(Stage.GONE)


def test_the_deadline_passes_while_volumes_are_missing() -> None:
    simulation = life(app(), active_deadline_seconds=5)
    simulation.failing[""] = "volumes"
    assert simulation.settle().until == START + 5
    simulation.pass_time(6)
    assert simulation.is_at(Stage.GONE)
