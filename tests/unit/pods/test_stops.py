"""How containers end: deletion (kubelet-contract 4.7) and hooks (4.8), by the plan's rules."""

import pytest

from tests.unit.pods.lives import BOTH, POST_START, PRE_STOP, PROBE, app, life, rule, sidecar
from wasmlet.pods.plan import Stage

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
