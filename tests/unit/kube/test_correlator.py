"""The correlator on a clock of its own, held to client-go's numbers."""

import pytest

from wasmlet.kube.correlator import REMEMBERED, Correlator, Occurrence, Reference, Report

POD = Reference(kind="Pod", namespace="default", name="web", uid="u", field_path="spec.containers{main}")
START = 1_700_000_000.0


class World:
    def __init__(self) -> None:
        self.now = START
        self.correlator = Correlator()

    def happens(
        self, message: str = "m", *, about: Reference = POD, reason: str = "BackOff", after: float = 1.0
    ) -> Report | None:
        self.now += after
        return self.correlator.observe(Occurrence(about, "Warning", reason, message), now=self.now)


@pytest.fixture
def world() -> World:
    return World()


def test_the_same_again_counts(world: World) -> None:
    first, second, other = world.happens(), world.happens(), world.happens("other")
    assert first is not None
    assert second is not None
    assert other is not None
    assert (first.count, second.count, other.count) == (1, 2, 1)
    assert second.name == first.name != other.name
    assert (second.first_at, second.last_at) == (START + 1, START + 2)
    assert first.name == f"web.{int((START + 1) * 1e9):x}"


def test_another_container_reason_or_pod_is_another_event(world: World) -> None:
    changes = ({"field_path": ""}, {"uid": "v"}, {"namespace": "n"}, {"name": "x"})
    names = {world.happens() and ""}
    for change in changes:
        about = Reference(**{**{name: getattr(POD, name) for name in POD.__dataclass_fields__}, **change})
        report = world.happens(about=about)
        assert report is not None
        assert report.count == 1
        names.add(report.name)
    assert len(names) == 5
    versioned = Reference(kind="Pod", namespace="default", name="web", uid="u", resource_version="9",
                          field_path="spec.containers{main}")  # fmt: skip
    again = world.happens(about=versioned)
    assert again is not None
    assert again.count == 2


def test_many_similar_ones_become_one(world: World) -> None:
    reports = [world.happens(f"failed {number}") for number in range(12)]
    assert all(reports)
    counts = [each.count for each in reports if each]
    messages = [each.occurrence.message for each in reports if each]
    assert counts == [1] * 10 + [2, 3]
    assert messages[8] == "failed 8"
    assert messages[9:] == [f"(combined from similar events): failed {number}" for number in (9, 10, 11)]
    assert len({each.name for each in reports if each}) == 10


def test_similar_ones_that_are_rare_stay_apart(world: World) -> None:
    reports = [world.happens(f"failed {number}", after=601) for number in range(15)]
    assert [each.count for each in reports if each] == [1] * 15


def test_a_noisy_object_is_cut_off_and_comes_back(world: World) -> None:
    reports = [world.happens(after=0.1) for _ in range(40)]
    assert [each is not None for each in reports] == [True] * 25 + [False] * 15
    later = world.happens(after=300)
    assert later is not None
    assert later.count == 41
    assert world.happens(after=0.1) is None
    another = world.happens(about=Reference(kind="Pod", namespace="default", name="calm", uid="w"), after=0)
    assert another is not None


def test_a_crash_loop_costs_little(world: World) -> None:
    """Two hours of a container that fails each ten seconds, with a message that differs each time."""
    told = 0
    for number in range(720):
        for reason in ("Started", "BackOff"):
            told += world.happens(f"{number}", reason=reason, after=5) is not None
    assert told <= 25 + 24


def test_names_fit_and_differ() -> None:
    correlator = Correlator()
    about = Reference(kind="Pod", namespace="n", name="x" * 253)
    names = set()
    for number in range(5):
        report = correlator.observe(Occurrence(about, "Normal", "R", str(number)), now=START)
        assert report is not None
        assert len(report.name) <= 253
        names.add(report.name)
    assert len(names) == 5


def test_its_memory_is_bounded() -> None:
    correlator = Correlator()
    for number in range(REMEMBERED + 500):
        correlator.observe(Occurrence(Reference(kind="Pod", name=str(number)), "Normal", "R", "m"), now=START)
    assert len(correlator._reports) == len(correlator._similar) == len(correlator._buckets) == REMEMBERED
