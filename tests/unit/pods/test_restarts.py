"""Whether and when a container runs again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.pods import container, pod
from tests.unit.pods.lives import PROBE, app, life, rule, sidecar
from wasmlet.kube.types import ExitCodes, RestartRule
from wasmlet.pods import plan
from wasmlet.pods.facts import Attempt, ContainerFacts, Facts, Stopping
from wasmlet.pods.plan import Stage
from wasmlet.pods.restarts import (
    BackOff,
    Decision,
    attempt_moment,
    belongs_to_round,
    decide,
    is_sidecar,
    raise_back_off,
    restart_at,
    round_moment,
)

RESTART, STAY, ALL = Decision.RESTART, Decision.STAY, Decision.RESTART_ALL


def ended(code: int, *, stopping: str = "") -> Attempt:
    return Attempt(
        number=0, id="i", engine="e", created_at=1, started_at=1, finished_at=2, exit_code=code,
        stopping=Stopping(at=1, grace_seconds=1, reason=stopping) if stopping else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "own", "init", "code", "decision"),
    [
        ("Always", None, False, 0, RESTART),
        ("Always", None, False, 1, RESTART),
        ("OnFailure", None, False, 0, STAY),
        ("OnFailure", None, False, 1, RESTART),
        ("Never", None, False, 1, STAY),
        ("Never", "Always", False, 0, RESTART),
        ("Always", "Never", False, 1, STAY),
        ("Always", None, True, 0, STAY),
        ("Always", None, True, 1, RESTART),
        ("Never", None, True, 1, STAY),
        ("Never", "Always", True, 0, RESTART),
    ],
)
def test_policies(policy: str, own: str | None, init: bool, code: int, decision: Decision) -> None:
    subject = container("c", restart_policy=own)
    made = pod(container("other"), init_containers=[subject]) if init else pod(subject)
    made.spec.restart_policy = policy
    assert decide(subject, ended(code), spec=made.spec) is decision
    assert is_sidecar(subject, spec=made.spec) == (init and own == "Always")


@pytest.mark.parametrize(
    ("stopping", "decision"),
    [("", ALL), ("unhealthy", STAY), ("finished", STAY), ("deleted", STAY), ("restart-all", RESTART)],
)
def test_rules_are_for_ends_of_ones_own(stopping: str, decision: Decision) -> None:
    rules = [RestartRule(action="RestartAllContainers", exit_codes=ExitCodes(operator="In", values=[137]))]
    subject = container("c", restart_policy="Never", restart_policy_rules=rules)
    assert decide(subject, ended(137, stopping=stopping), spec=pod(subject).spec) is decision


def test_back_off_doubles_to_its_end() -> None:
    waits, back_off = [0.0], BackOff()
    for _ in range(8):
        waits.append(back_off.after(waits[-1]))
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]


@given(st.floats(0.01, 300), st.floats(0.01, 3600), st.integers(0, 20))
def test_back_off_never_falls_and_never_passes_its_end(initial: float, maximum: float, count: int) -> None:
    back_off, wait = BackOff(initial_seconds=initial, maximum_seconds=maximum), 0.0
    for _ in range(count):
        following = back_off.after(wait)
        assert wait <= following <= maximum
        wait = following


def test_back_off_counts_from_the_end_and_is_forgotten() -> None:
    own = ContainerFacts(back_off_seconds=40, back_off_at=1000)
    attempt = ended(1)
    attempt.finished_at = 1100
    assert restart_at(own, attempt, BackOff()) == 1140
    own.attempts.append(attempt)
    raise_back_off(own, 1150, BackOff())
    assert (own.back_off_seconds, own.back_off_at) == (80, 1150)
    raise_back_off(own, 1200, BackOff())
    assert (own.back_off_seconds, own.back_off_at) == (80, 1150), "once for each end"
    attempt.finished_at = 1751
    assert restart_at(own, attempt, BackOff()) == 1751
    raise_back_off(own, 1752, BackOff())
    assert (own.back_off_seconds, own.back_off_at) == (10, 1752)


def test_the_first_start_raises_no_back_off() -> None:
    own = ContainerFacts()
    raise_back_off(own, 100, BackOff())
    assert own == ContainerFacts()


def test_rounds_and_attempts_keep_their_order_when_the_clock_is_set_back() -> None:
    facts = Facts(uid="u", seen_at=0)
    facts.container("c").attempts.append(ended(3))
    facts.restart_all_at = round_moment(facts, -1000)
    assert not belongs_to_round(facts.container("c").last, facts)
    later = ended(0)
    later.created_at = attempt_moment(facts, -2000)
    assert belongs_to_round(later, facts)
    assert attempt_moment(facts, 77) == 77


def test_rounds() -> None:
    facts = Facts(uid="u", seen_at=0)
    assert not belongs_to_round(None, facts)
    assert belongs_to_round(ended(0), facts)
    facts.restart_all_at = 1.5
    assert not belongs_to_round(ended(0), facts)
    later = ended(0)
    later.created_at = 1.6
    assert belongs_to_round(later, facts)


# --- in lives (4.6) ---------------------------------------------------------------------------------------------------


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
