"""Which images go: the kubelet's thresholds and ages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.images.collection import Disk, Lives, Policy

GIB = 1 << 30


@pytest.mark.parametrize(
    ("high", "low"), [(85, 85), (80, 85), (101, 80), (85, -1)], ids=["equal", "turned", "more than all", "negative"]
)
def test_thresholds_that_contradict_each_other_are_refused(high: int, low: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        Policy(high_percent=high, low_percent=low)


def test_ages_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="maximum age"):
        Policy(minimum_age_seconds=100, maximum_age_seconds=100)
    assert not Policy().is_off
    assert Policy(high_percent=100).is_off
    assert not Policy(high_percent=100, maximum_age_seconds=3600).is_off


def test_nothing_has_to_go_below_the_high_threshold_and_then_as_much_as_reaches_the_low_one() -> None:
    policy = Policy()
    assert Disk(100 * GIB, 15 * GIB + 1).excess_bytes(policy) == 0 or Disk(100 * GIB, 15 * GIB + 1).used_percent == 85
    assert Disk(100 * GIB, 16 * GIB).excess_bytes(policy) == 0
    assert Disk(100 * GIB, 15 * GIB).excess_bytes(policy) == 5 * GIB
    assert Disk(100 * GIB, 0).excess_bytes(policy) == 20 * GIB
    assert (
        Disk(200 * GIB, 10 * GIB)
        .insufficient(7)
        .startswith(
            "Insufficient free disk space on the node's image filesystem (95% of 200.0 GiB used). "
            "Failed to free sufficient space by deleting unused images (freed 7 bytes)."
        )
    )


@given(st.integers(1, 1 << 50), st.integers(0, 100), st.integers(1, 100), st.integers(0, 99))
def test_what_must_go_is_what_is_there(capacity: int, available: int, high: int, low: int) -> None:
    if low >= high:
        return
    disk = Disk(capacity, capacity * available // 100)
    excess = disk.excess_bytes(Policy(high_percent=high, low_percent=low))
    assert 0 <= excess <= capacity - disk.available_bytes
    if excess:
        assert disk.used_percent >= high


def test_the_longest_unused_go_first_and_those_in_use_or_young_or_pinned_stay() -> None:
    lives = Lives(Policy(pinned=("*/pinned:*",)))
    images = {"used": True, "early": True, "late": True, "never": False, "r/pinned:v1": False}
    lives.look(images, 0)
    lives.look(images | {"early": False, "young": False}, 100)
    lives.look(images | {"early": False, "late": False, "young": False}, 200)
    assert lives.removable(200) == ["never", "early", "late"]
    lives.look({"late": False, "young": False}, 220)
    assert lives.removable(220) == ["young", "late"]


def test_images_go_by_age_when_they_were_not_used_for_longer() -> None:
    lives = Lives(Policy(maximum_age_seconds=1000))
    lives.look({"used": True, "once": True, "never": False}, 0)
    lives.look({"used": True, "once": True, "never": False}, 600)
    lives.look({"used": True, "once": False, "never": False}, 1001)
    assert lives.old(1001) == ["never"]
    lives.look({"used": True, "once": False}, 1601)
    assert lives.old(1601) == ["once"]
    assert Lives(Policy()).old(1e9) == []
