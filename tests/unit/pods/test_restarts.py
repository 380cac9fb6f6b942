"""Whether and when a container runs again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.pods import container, pod
from wasmlet.kube.types import ExitCodes, RestartRule
from wasmlet.pods.facts import Attempt, ContainerFacts, Facts, Stopping
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
