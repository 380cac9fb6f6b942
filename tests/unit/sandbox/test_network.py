"""Which pod has which address."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.base.errors import RetryableError
from wasmlet.sandbox.network import Addresses, NodeAddress, loopback


def test_a_pod_keeps_what_it_has_and_addresses_go_round() -> None:
    addresses = Addresses("10.0.0.0/29", reserved=2)
    assert addresses.claim("a") == ("10.0.0.2",)
    assert addresses.claim("a") == ("10.0.0.2",)
    assert addresses.claim("b") == ("10.0.0.3",)
    addresses.release("b")
    addresses.release("b")
    assert [addresses.claim(uid)[0] for uid in "cdef"] == ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.3"]


def test_two_families_give_two_addresses() -> None:
    addresses = Addresses("10.0.0.0/24", "fd00::/64", reserved=2)
    assert addresses.claim("a") == ("10.0.0.2", "fd00::2")
    assert addresses.claim("b") == ("10.0.0.3", "fd00::3")


def test_a_full_range_says_so_and_one_that_goes_makes_room() -> None:
    addresses = Addresses("10.0.0.0/30", "fd00::/64", reserved=2)
    assert addresses.claim("a") == ("10.0.0.2", "fd00::2")
    with pytest.raises(RetryableError, match=r"all 1 addresses of 10\.0\.0\.0/30 are in use") as caught:
        addresses.claim("b")
    assert caught.value.reason == "NoFreeAddress"
    addresses.release("a")
    assert addresses.claim("b") == ("10.0.0.2", "fd00::3")


def test_what_an_earlier_agent_gave_is_taken() -> None:
    addresses = Addresses(reserved=2)
    addresses.adopt("old", ["10.0.0.3", "192.0.2.1"])
    addresses.adopt("older", ["10.0.0.3"])
    addresses.set_ranges(["10.0.0.0/29"])
    assert [addresses.claim(uid)[0] for uid in "abcd"] == ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    assert addresses.claim("old") == ("10.0.0.3", "192.0.2.1")
    addresses.release("old")
    assert "10.0.0.3" in addresses.held
    addresses.release("older")
    assert addresses.claim("e") == ("10.0.0.3",)


def test_a_22_is_enough_for_a_thousand_pods() -> None:
    addresses = Addresses("10.0.0.0/22", reserved=2)
    given_out = {addresses.claim(str(number))[0] for number in range(1021)}
    assert len(given_out) == 1021
    assert not given_out & {"10.0.0.0", "10.0.0.1", "10.0.3.255"}
    with pytest.raises(RetryableError):
        addresses.claim("one more")


def test_every_pod_of_mode_host_has_the_nodes_addresses() -> None:
    node = NodeAddress("192.0.2.7", "2001:db8::7")
    assert node.claim("a") == node.claim("b") == ("192.0.2.7", "2001:db8::7")
    node.release("a")
    assert node.namespace == loopback(Path("/a")).namespace == ""


def test_agents_of_one_machine_begin_at_different_addresses() -> None:
    first = [loopback(Path(f"/state/{number}")).claim("pod") for number in range(20)]
    assert len(set(first)) == 20
    assert loopback(Path("/state/3")).claim("pod") == first[3]
    addresses = Addresses("10.0.0.0/29", reserved=2, begin=3)
    claimed = [addresses.claim(str(number))[0] for number in range(5)]
    assert claimed == ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4"]


STEPS = st.lists(
    st.tuples(st.sampled_from(["claim", "release", "restart", "other range"]), st.integers(0, 12)), max_size=60
)


@given(STEPS)
def test_no_address_is_held_twice(steps: list[tuple[str, int]]) -> None:
    """Whatever comes and goes, agents and ranges too; the held ones come back from the facts alone."""
    ranges = [["10.0.0.0/29", "fd00::/125"], ["10.0.0.0/28"]]
    facts: dict[str, tuple[str, ...]] = {}
    addresses = Addresses(*ranges[0], reserved=2)
    for step, number in steps:
        uid = str(number)
        if step == "claim":
            try:
                facts[uid] = addresses.claim(uid)
            except RetryableError:
                assert uid not in facts
        elif step == "release":
            facts.pop(uid, None)
            addresses.release(uid)
        elif step == "restart":
            addresses = Addresses(reserved=2)
            for old, held in facts.items():
                addresses.adopt(old, held)
            addresses.set_ranges(ranges[number % 2])
        else:
            addresses.set_ranges(ranges[number % 2])
        every = [each for held in facts.values() for each in held]
        assert len(every) == len(set(every))
        assert addresses.held == set(every)
        assert not {ipaddress.ip_address(each) for each in every} & {
            ipaddress.ip_address(each) for each in ("10.0.0.0", "10.0.0.1", "10.0.0.15", "fd00::", "fd00::1")
        }
