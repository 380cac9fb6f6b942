"""Conditions: the table of contract 1.4, what flips, what lasts."""

import pytest

from tests.unit.node.samples import GIB, amounts, settings
from wasmlet.node.conditions import Health, Network, Pressures, abandoned, assess, pressed, sustained
from wasmlet.node.objects import NodeCondition

T1, T2 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z"


def told(health: Health) -> dict[str, tuple[str, str, str]]:
    conditions, _ = assess(health, previous=(), node="n", now=T1)
    return {each.type: (each.status, each.reason, each.message) for each in conditions}


def test_a_healthy_node_says_what_a_kubelet_says() -> None:
    conditions, events = assess(Health(), previous=(), node="n", now=T1)
    assert [(each.type, each.status, each.reason, each.message) for each in conditions] == [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
    assert [each.reason for each in events] == [
        "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady",
    ]  # fmt: skip
    assert events[0].message == "Node n status is now: NodeHasSufficientMemory"


@pytest.mark.parametrize(
    ("pressures", "condition", "reason"),
    [
        (Pressures(memory=True), "MemoryPressure", "KubeletHasInsufficientMemory"),
        (Pressures(disk=True), "DiskPressure", "KubeletHasDiskPressure"),
        (Pressures(pids=True), "PIDPressure", "KubeletHasInsufficientPID"),
    ],
)
def test_a_pressure_is_told_and_leaves_ready_alone(pressures: Pressures, condition: str, reason: str) -> None:
    found = told(Health(pressures=pressures))
    assert found[condition][:2] == ("True", reason)
    assert found["Ready"][0] == "True"
    assert [each for each, (status, _, _) in found.items() if status == "True"] == [condition, "Ready"]


def test_reasons_against_ready_are_joined() -> None:
    assert told(Health(problems=("a is missing",)))["Ready"] == ("False", "KubeletNotReady", "a is missing")
    assert told(Health(problems=("a", "b")))["Ready"][2] == "[a, b]"


def test_a_transition_time_moves_only_with_a_flip_and_heartbeats_always() -> None:
    before, _ = assess(Health(problems=("starting",)), previous=(), node="n", now=T1)
    after, events = assess(Health(), previous=before, node="n", now=T2)
    assert {each.type: each.last_transition_time for each in after} == {
        "MemoryPressure": T1, "DiskPressure": T1, "PIDPressure": T1, "Ready": T2,
    }  # fmt: skip
    assert {each.last_heartbeat_time for each in after} == {T2}
    assert [each.reason for each in events] == ["NodeReady"]
    _, events = assess(Health(problems=("gone",)), previous=after, node="n", now=T2)
    assert [each.reason for each in events] == ["NodeNotReady"]


def test_what_the_controller_manager_wrote_over_us_flips_back() -> None:
    unknown = [NodeCondition(type="Ready", status="Unknown", reason="NodeStatusUnknown", last_transition_time=T1)]
    after, events = assess(Health(), previous=unknown, node="n", now=T2)
    assert after[-1].last_transition_time == T2
    assert events[-1].reason == "NodeReady"


def test_the_network_is_told_only_by_whoever_answers_for_it() -> None:
    assert "NetworkUnavailable" not in told(Health())
    assert told(Health(network=Network()))["NetworkUnavailable"][0] == "False"
    wanting = told(Health(network=Network("the Node has no podCIDR", "NoPodCIDR")))
    assert wanting["NetworkUnavailable"] == ("True", "NoPodCIDR", "the Node has no podCIDR")
    assert list(wanting)[-1] == "Ready"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Pressures()),
        ({"memory_available": (100 << 20) - 1}, Pressures(memory=True)),
        ({"disk_available": 10 * GIB - 1}, Pressures(disk=True)),
        ({"inodes_available": 49}, Pressures(disk=True)),
        ({"inodes": 0, "inodes_available": 0}, Pressures()),
        ({"pids_available": 19}, Pressures(pids=True)),
    ],
)
def test_thresholds(changes: dict[str, int], expected: Pressures) -> None:
    assert pressed(amounts(**changes), settings()) == expected


def test_a_pressure_stays_for_its_time() -> None:
    seen: dict[str, float] = {}
    pressing, fine = Pressures(memory=True), Pressures()
    assert sustained(seen, fine, moment=0.0, seconds=300) == fine
    assert sustained(seen, pressing, moment=10.0, seconds=300) == pressing
    assert sustained(seen, fine, moment=309.0, seconds=300) == pressing
    assert sustained(seen, fine, moment=310.0, seconds=300) == fine


def test_what_another_mode_has_left_is_abandoned() -> None:
    """A route controller's condition is its own; nobody but us would ever take back ours."""
    problem = Health(network=Network("the Node has no podCIDR", "NoPodCIDR"))
    for left in (problem, Health(network=Network())):
        conditions, _ = assess(left, previous=(), node="n", now="t")
        assert abandoned(Health(), conditions) == ["NetworkUnavailable"]
        assert abandoned(Health(network=Network()), conditions) == []
    foreign = NodeCondition(type="NetworkUnavailable", status="False", reason="RouteCreated")
    assert abandoned(Health(), [foreign]) == []
