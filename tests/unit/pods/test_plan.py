"""The plan, rule by rule (kubelet-contract section 4), and every life it may lead to."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pods import container, pod
from tests.support.simulation import START, Simulation, named
from wasmlet.kube.types import (
    Container,
    ExitCodes,
    HTTPGetAction,
    Lifecycle,
    LifecycleHandler,
    Pod,
    Probe,
    RestartRule,
    SleepAction,
)
from wasmlet.pods import plan, stops
from wasmlet.pods.facts import Verdict
from wasmlet.pods.plan import Stage
from wasmlet.pods.restarts import BackOff

PROBE = Probe(http_get=HTTPGetAction(port=80))


def app(name: str = "main", **fields: Any) -> Container:
    return container(name, "exit", **fields)


def sidecar(name: str, **fields: Any) -> Container:
    return container(name, "exit", restart_policy="Always", **fields)


def rule(action: str, *codes: int, operator: str = "In") -> RestartRule:
    return RestartRule(action=action, exit_codes=ExitCodes(operator=operator, values=list(codes)))


def life(*containers: Container, **spec: Any) -> Simulation:
    return Simulation(pod(*containers, **spec))


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


# --- restarts (4.6) ---------------------------------------------------------------------------------------------------


def test_crashes_back_off_and_the_wait_is_forgotten_after_ten_minutes() -> None:
    simulation = life(app(), restart_policy="Always")
    simulation.settle()
    waits = []
    for number in range(1, 10):
        simulation.exit("main", 1)
        ended = simulation.now
        simulation.pass_time(301)
        assert simulation.started[-1] == ("main", number)
        waits.append(round(simulation.log[-1][0] - ended))
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]
    simulation.pass_time(601)
    simulation.exit("main", 1)
    ended = simulation.now
    simulation.settle()
    assert simulation.log[-1][1] == plan.Start("main", 10)
    assert simulation.log[-1][0] == pytest.approx(ended, abs=0.1)


def test_back_off_is_per_container() -> None:
    simulation = life(app("a"), app("b"), restart_policy="Always")
    simulation.settle()
    for _ in range(3):
        simulation.exit("a", 1)
        simulation.pass_time(100)
    simulation.exit("b", 1)
    simulation.settle()
    assert simulation.started[-1] == ("b", 1)


@pytest.mark.parametrize(
    ("rules", "own", "code", "restarts"),
    [
        ([rule("Restart", 3)], "Never", 3, True),
        ([rule("Restart", 3)], "Never", 4, False),
        ([rule("Restart", 3, operator="NotIn")], "Never", 4, True),
        ([rule("Restart", 3, operator="NotIn")], "Never", 3, False),
        ([rule("Restart", 3)], "OnFailure", 4, True),
        ([rule("Restart", 0)], "Never", 0, True),
        ([rule("Restart", 3)], None, 3, False),
    ],
)
def test_restart_rules_come_before_policies(
    rules: list[RestartRule], own: str | None, code: int, restarts: bool
) -> None:
    simulation = life(app(restart_policy=own, restart_policy_rules=rules))
    simulation.settle()
    simulation.exit("main", code)
    simulation.settle()
    assert (("main", 1) in simulation.started) == restarts


def test_the_first_rule_that_matches_decides() -> None:
    rules = [rule("Restart", 3), rule("RestartAllContainers", 3, 4)]
    simulation = life(app(restart_policy="Never", restart_policy_rules=rules), app("other"))
    simulation.settle()
    simulation.exit("main", 3)
    simulation.settle()
    assert simulation.facts.restart_all_at is None
    simulation.exit("main", 4)
    simulation.settle()
    assert simulation.facts.restart_all_at is not None


def test_restart_all_kills_the_rest_and_begins_with_the_first_init_container() -> None:
    main = app(restart_policy="Never", restart_policy_rules=[rule("RestartAllContainers", 3)])
    simulation = life(main, app("other"), app("done"), init_containers=[sidecar("side"), app("first")])
    simulation.stop_seconds = 5
    simulation.settle()
    simulation.exit("first")
    simulation.settle()
    simulation.exit("done")
    simulation.exit("main", 3)
    simulation.settle()
    assert sorted(simulation.stopped) == [("other", 0.0, "restart-all"), ("side", 0.0, "restart-all")]
    assert simulation.started[5:] == [("side", 1), ("first", 1)]
    simulation.exit("first")
    simulation.settle()
    assert simulation.started[7:] == [("main", 1), ("other", 1), ("done", 1)]


def test_a_probe_kill_consults_only_the_policy() -> None:
    main = app(restart_policy="Never", restart_policy_rules=[rule("Restart", 143, 137)], liveness_probe=PROBE)
    simulation = life(main)
    simulation.settle()
    simulation.fail_probe("main")
    simulation.settle()
    assert simulation.is_at(Stage.GONE)


@pytest.mark.parametrize(("own", "grace"), [(None, 12.0), (3, 3.0)])
def test_an_unhealthy_container_is_stopped_with_its_grace_and_restarted(own: int | None, grace: float) -> None:
    simulation = life(app(liveness_probe=PROBE), restart_policy="Always", termination_grace_period_seconds=12)
    simulation.settle()
    simulation.fail_probe("main", grace_seconds=own)
    simulation.settle()
    assert simulation.stopped == [("main", grace, "unhealthy")]
    assert simulation.started == [("main", 0), ("main", 1)]


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


# --- deletion (4.7) ---------------------------------------------------------------------------------------------------


def test_a_deleted_pod_stops_apps_together_then_sidecars_inside_one_grace() -> None:
    simulation = life(app("a"), app("b"), init_containers=[sidecar("one"), sidecar("two")])
    simulation.stop_seconds = 4
    simulation.settle()
    simulation.delete(10)
    simulation.settle()
    assert sorted(name for name, *_ in simulation.stopped) == ["a", "b", "one", "two"]
    assert [name for name, _ in simulation.signalled] == ["a", "b"]
    simulation.pass_time(4.1)
    simulation.pass_time(4.1)
    simulation.pass_time(2.1)
    assert [(name, round(grace)) for name, grace in simulation.signalled[2:]] == [("two", 6), ("one", 2)]
    assert simulation.is_at(Stage.GONE)


@pytest.mark.parametrize(("asked", "given"), [(0, 1.0), (0.2, 1.0), (1, 1.0), (45, 45.0)])
def test_the_grace_is_never_below_a_second(asked: float, given: float) -> None:
    simulation = life(app(), termination_grace_period_seconds=30)
    simulation.settle()
    simulation.delete(asked)
    simulation.settle()
    assert simulation.stopped[0][1] == pytest.approx(given, abs=0.01)


def test_a_second_deletion_shortens_the_grace_once_and_never_lengthens_it() -> None:
    simulation = life(app())
    simulation.stop_seconds = 100
    simulation.settle()
    simulation.delete(30)
    simulation.settle()
    simulation.delete(60)
    simulation.settle()
    assert len(simulation.stopped) == 1
    simulation.delete(5)
    simulation.settle()
    assert [grace for _, grace, _ in simulation.stopped] == [pytest.approx(30, abs=0.1), 5.0]
    assert simulation.signalled[-1] == ("main", pytest.approx(5, abs=0.1))
    simulation.pass_time(5.1)
    assert simulation.is_at(Stage.GONE)
    assert simulation.facts.container("main").attempts[-1].exit_code == 137


def test_deletion_ends_an_init_container_at_work_and_starts_no_other() -> None:
    simulation = life(app(), init_containers=[app("first"), app("second")])
    simulation.settle()
    simulation.delete(5)
    simulation.settle()
    assert simulation.started == [("first", 0)]
    assert [name for name, *_ in simulation.stopped] == ["first"]
    assert simulation.is_at(Stage.GONE)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_deletion_before_the_first_start(before: int) -> None:
    simulation = life(app())
    for _ in zip(range(before), simulation.steps(), strict=False):
        pass
    simulation.delete(5)
    simulation.settle()
    assert simulation.started == []
    assert simulation.is_at(Stage.GONE)


def test_deletion_shortens_the_longer_grace_of_a_probe() -> None:
    simulation = life(app(liveness_probe=PROBE))
    simulation.stop_seconds = 1000
    simulation.settle()
    simulation.fail_probe("main", grace_seconds=500)
    simulation.settle()
    simulation.delete(5)
    simulation.settle()
    assert simulation.stopped == [("main", 500, "unhealthy"), ("main", 5.0, "deleted")]


# --- hooks (4.8) ------------------------------------------------------------------------------------------------------

HOOK = LifecycleHandler(sleep=SleepAction(seconds=1))
BOTH = Lifecycle(post_start=HOOK, pre_stop=HOOK)
PRE_STOP = Lifecycle(pre_stop=HOOK)
POST_START = Lifecycle(post_start=HOOK)


def test_a_post_start_hook_delays_the_next_container_and_what_started_means() -> None:
    simulation = life(app("a", lifecycle=POST_START, readiness_probe=PROBE), app("b"))
    simulation.settle()
    assert simulation.started == [("a", 0)]
    shown = simulation.status().container_statuses[0]
    assert shown.state.running is not None
    assert (shown.started, shown.ready) == (False, False)
    simulation.end_hook("a")
    simulation.settle()
    assert simulation.started == [("a", 0), ("b", 0)]
    assert simulation.status().container_statuses[0].started


def test_the_next_step_waits_for_the_post_start_hook_of_a_sidecar() -> None:
    simulation = life(app(), init_containers=[sidecar("side", lifecycle=POST_START)])
    simulation.settle()
    assert simulation.started == [("side", 0)]
    simulation.end_hook("side")
    simulation.settle()
    assert simulation.started == [("side", 0), ("main", 0)]


@pytest.mark.parametrize(("policy", "starts"), [("Always", 2), ("OnFailure", 2), ("Never", 1)])
def test_a_failed_post_start_hook_kills_and_the_policy_applies(policy: str, starts: int) -> None:
    simulation = life(app(lifecycle=BOTH), restart_policy=policy, termination_grace_period_seconds=8)
    simulation.settle()
    simulation.end_hook("main", well=False)
    simulation.settle()
    assert simulation.stopped == [("main", 8.0, "unhealthy")]
    assert simulation.signalled == []
    simulation.end_hook("main")
    simulation.settle()
    assert len(simulation.started) == starts


def test_a_pre_stop_hook_eats_of_the_grace() -> None:
    simulation = life(app(lifecycle=PRE_STOP))
    simulation.stop_seconds = 100
    simulation.settle()
    simulation.delete(10)
    simulation.pass_time(4)
    assert simulation.signalled == []
    simulation.end_hook("main")
    simulation.settle()
    assert simulation.signalled == [("main", pytest.approx(6, abs=0.1))]


@pytest.mark.parametrize("hook_ends", [9.0, None])
def test_two_seconds_are_left_however_long_a_hook_takes(hook_ends: float | None) -> None:
    simulation = life(app(lifecycle=PRE_STOP))
    simulation.stop_seconds = 100
    simulation.settle()
    simulation.delete(10)
    if hook_ends is not None:
        simulation.pass_time(hook_ends)
        simulation.end_hook("main")
    simulation.pass_time(10.1)
    assert simulation.signalled == [("main", pytest.approx(2, abs=0.01))]
    assert simulation.running("main") is None or simulation.now < simulation.facts.seen_at + 12.1
    simulation.pass_time(2)
    assert simulation.is_at(Stage.GONE)


def test_a_shorter_grace_cuts_a_hook_off() -> None:
    simulation = life(app(lifecycle=PRE_STOP))
    simulation.settle()
    simulation.delete(100)
    simulation.pass_time(10)
    simulation.delete(3)
    simulation.pass_time(2)
    assert simulation.signalled == []
    simulation.pass_time(1.1)
    assert [name for name, _ in simulation.signalled] == ["main"]


def test_hooks_of_sidecars_run_at_the_start_and_their_signals_come_in_turn() -> None:
    sides = [sidecar("one", lifecycle=PRE_STOP), sidecar("two", lifecycle=PRE_STOP)]
    simulation = life(app(lifecycle=PRE_STOP), init_containers=sides)
    simulation.settle()
    simulation.delete(20)
    simulation.settle()
    for name in ("one", "two", "main"):
        assert simulation.end_hook(name), "all of them are under way at once"
        simulation.settle()
        if name != "main":
            assert simulation.signalled == []
    assert [name for name, _ in simulation.signalled] == ["main", "two", "one"]


def test_whatever_is_left_when_the_grace_is_over_is_signalled_out_of_turn() -> None:
    simulation = life(app(), init_containers=[sidecar("one"), sidecar("two")])
    simulation.stop_seconds = 1000
    simulation.settle()
    simulation.delete(10)
    simulation.pass_time(9)
    assert [name for name, _ in simulation.signalled] == ["main"]
    simulation.pass_time(1.1)
    assert sorted(simulation.signalled[1:]) == [("one", 2.0), ("two", 2.0)]
    simulation.pass_time(2)
    assert simulation.is_at(Stage.GONE)


def test_a_container_that_ended_by_itself_has_no_pre_stop() -> None:
    simulation = life(app(lifecycle=PRE_STOP))
    simulation.settle()
    simulation.exit("main")
    simulation.settle()
    assert simulation.stopped == []
    assert simulation.is_at(Stage.GONE)


def test_restart_all_runs_no_hook() -> None:
    main = app(restart_policy="Never", restart_policy_rules=[rule("RestartAllContainers", 3)])
    simulation = life(main, app("other", lifecycle=PRE_STOP))
    simulation.settle()
    simulation.exit("main", 3)
    simulation.settle()
    assert simulation.signalled == [("other", 0.0)]
    assert simulation.started[2:] == [("main", 1), ("other", 1)]


# --- every life -------------------------------------------------------------------------------------------------------

POLICIES = st.sampled_from(["Always", "OnFailure", "Never"])
RULES = st.lists(
    st.builds(
        rule,
        st.sampled_from(["Restart", "RestartAllContainers"]),
        st.sampled_from([0, 1, 3, 137, 143]),
        operator=st.sampled_from(["In", "NotIn"]),
    ),
    max_size=2,
)


def containers(name: str) -> st.SearchStrategy[Container]:
    return st.builds(
        lambda own, rules, started, hooks: container(
            name, restart_policy=own, restart_policy_rules=rules if own else [], startup_probe=started, lifecycle=hooks
        ),
        st.none() | POLICIES,
        RULES,
        st.sampled_from([None, None, PROBE]),
        st.sampled_from([None, None, PRE_STOP, POST_START, BOTH]),
    )


PODS = st.builds(
    lambda apps, inits, policy, deadline: pod(
        *apps, init_containers=inits, restart_policy=policy, active_deadline_seconds=deadline
    ),
    st.integers(1, 2).flatmap(lambda count: st.tuples(*[containers(f"app{number}") for number in range(count)])),
    st.integers(0, 3).flatmap(
        lambda count: st.tuples(*[containers(f"init{number}") for number in range(count)]).map(list)
    ),
    POLICIES,
    st.sampled_from([None, None, None, 0, 30, 1000]),
)
NAMES = st.sampled_from(["app0", "app1", "init0", "init1", "init2"])
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("exit"), NAMES, st.sampled_from([0, 0, 1, 3])),
        st.tuples(st.just("unhealthy"), NAMES, st.sampled_from([0, 5, 100])),
        st.tuples(st.just("startup"), NAMES, st.just(0)),
        st.tuples(st.just("hook"), NAMES, st.sampled_from([0, 1])),
        st.tuples(st.just("fail"), NAMES, st.sampled_from([0, 1])),
        st.tuples(st.just("stop takes"), NAMES, st.sampled_from([0, 3, 1000])),
        st.tuples(st.just("time"), NAMES, st.sampled_from([1, 12, 400, 1000])),
        st.tuples(st.just("delete"), NAMES, st.sampled_from([0, 2, 30])),
    ),
    max_size=25,
)


class Checked(Simulation):
    """Looks at every step whether it may be."""

    def __init__(self, pod: Pod) -> None:
        super().__init__(pod, back_off=BackOff())
        self.counts: dict[str, int] = {}
        self.phase = ""
        self.previous = self.status()

    def _apply(self, step: plan.Step) -> None:
        if isinstance(step, plan.Start):
            assert self.is_at(Stage.RUNNING)
            assert self.running(step.container) is None, "it runs already"
            last = self.facts.container(step.container).last
            assert step.number == (0 if last is None else last.number + 1)
            assert step.number == self.counts.get(step.container, -1) + 1
        if isinstance(step, plan.Signal):
            self._look_at_signal(step)
        if isinstance(step, plan.End):
            assert not [each.name for each in plan.all_containers(self.pod) if self.running(each.name)]
        super()._apply(step)
        for each in plan.all_containers(self.pod):
            if (last := self.facts.container(each.name).last) is not None:
                self.counts[each.name] = last.number

    def _look_at_signal(self, step: plan.Signal) -> None:
        attempt, container = self.running(step.container), named(self.pod, step.container)
        assert attempt is not None
        assert attempt.stopping is not None
        assert attempt.stopping.signalled_at is None, "it was asked before"
        is_over = self.now >= attempt.stopping.at + attempt.stopping.grace_seconds
        assert is_over or not stops.is_pre_stopping(container, attempt)
        assert step.grace_seconds >= 2 or attempt.stopping.reason == "restart-all"

    def settle(self) -> plan.Wait:
        wait = super().settle()
        for moment in self.moments():
            if self.now < moment < (wait.until or float("inf")):
                step = plan.next_step(self.view(at=moment))
                assert isinstance(step, plan.Wait), f"{step} is due at {moment}, but the plan waits until {wait.until}"
        self._look_at_status()
        return wait

    def _look_at_status(self) -> None:
        status = self.status(self.previous)
        if self.phase in ("Succeeded", "Failed"):
            assert status.phase == self.phase
        if status.phase in ("Succeeded", "Failed"):
            assert self.facts.ended_at is not None
        for each in [*status.init_container_statuses, *status.container_statuses]:
            states = [each.state.waiting, each.state.running, each.state.terminated]
            assert sum(state is not None for state in states) == 1
            assert not (each.ready and each.state.waiting)
        self.phase, self.previous = status.phase, status
        msgspec.json.encode(status)

    def act(self, action: str, name: str, value: int) -> None:
        if action == "delete":
            self.delete(value)
        elif action == "time":
            self.pass_time(value)
        elif action == "stop takes":
            self.stop_seconds = value
        elif name not in {each.name for each in plan.all_containers(self.pod)}:
            return
        elif action == "exit":
            self.exit(name, value)
        elif action == "unhealthy":
            self.fail_probe(name, grace_seconds=value or None)
        elif action == "startup":
            self.pass_startup(name)
        elif action == "hook":
            self.end_hook(name, well=bool(value))
        elif action == "fail":
            self.failing[name] = "config" if value else "image"


@settings(max_examples=300, deadline=None)
@given(PODS, ACTIONS)
def test_every_life_is_orderly(made: Pod, actions: list[tuple[str, str, int]]) -> None:
    simulation = Checked(made)
    simulation.settle()
    for action in actions:
        simulation.act(*action)
        simulation.settle()
    simulation.delete(30)
    simulation.pass_time(31 + 4)  # the grace, and the two seconds that every kill has
    assert simulation.is_at(Stage.GONE)
    starts = len(simulation.started)
    simulation.pass_time(5000)
    assert len(simulation.started) == starts
