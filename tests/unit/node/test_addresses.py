"""The node's addresses: the order of discovery, and the addresses that cannot be."""

import socket
from pathlib import Path
from typing import Any

import pytest

from wasmlet.base.errors import RetryableError, UserError
from wasmlet.node import addresses

OWN = {"192.0.2.7", "192.0.2.8", "fd00::7", "127.0.0.1", "169.254.1.1"}


def choose(**changes: Any) -> tuple[str, ...]:
    values: dict[str, Any] = {"configured": (), "name": "n", "resolved": (), "routed": (), "is_own": OWN.__contains__}
    return addresses.choose(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"configured": ["192.0.2.8"], "routed": ["192.0.2.7"]}, ("192.0.2.8",)),
        ({"configured": ["192.0.2.7", "fd00::7"]}, ("192.0.2.7", "fd00::7")),
        ({"name": "192.0.2.8", "routed": ["192.0.2.7"]}, ("192.0.2.8",)),
        ({"resolved": ["192.0.2.8"], "routed": ["192.0.2.7"]}, ("192.0.2.8",)),
        ({"resolved": ["fd00::7", "192.0.2.8"]}, ("192.0.2.8",)),
        ({"resolved": ["127.0.0.1", "203.0.113.9"], "routed": ["192.0.2.7"]}, ("192.0.2.7",)),
        ({"routed": ["169.254.1.1", "fd00::7"]}, ("fd00::7",)),
    ],
)
def test_the_order(changes: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert choose(**changes) == expected


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "224.0.0.1", "169.254.1.1", "fe80::1", "0.0.0.0", "::", "x"])
def test_addresses_that_nobody_could_reach(text: str) -> None:
    with pytest.raises(UserError, match="node IP"):
        choose(configured=[text])


def test_configured_addresses_must_be_here_and_of_different_families() -> None:
    with pytest.raises(UserError, match="on no interface"):
        choose(configured=["203.0.113.9"])
    with pytest.raises(UserError, match="one family"):
        choose(configured=["192.0.2.7", "192.0.2.8"])


def test_none_may_come_later() -> None:
    with pytest.raises(RetryableError, match="no address"):
        choose(resolved=["127.0.0.1"])


def test_default_routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = tmp_path / "net"
    net.mkdir()
    (net / "route").write_text(
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        "wlan0 00000000 010200C0 0003 0 0 600 00000000 0 0 0\n"
        "eth0 00000000 010200C0 0003 0 0 100 00000000 0 0 0\n"
        "eth1 00000000 010200C0 0000 0 0 1 00000000 0 0 0\n"
        "eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"
    )
    zero = "0" * 32
    (net / "ipv6_route").write_text(
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n"
        f"{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"
    )
    (net / "if_inet6").write_text(
        "fe800000000000000000000000000007 04 40 20 80 eth0\nfd000000000000000000000000000007 04 40 00 80 eth0\n"
    )
    monkeypatch.setattr(addresses, "_address_v4", {"eth0": ["192.0.2.7"]}.__getitem__)
    assert addresses.default_route_addresses(tmp_path) == ["192.0.2.7", "fd00::7"]
    assert addresses.default_route_addresses(tmp_path / "none") == []


async def test_this_machine() -> None:
    assert addresses.is_local("127.0.0.1")
    assert not addresses.is_local("203.0.113.77")
    for each in addresses.default_route_addresses():
        assert socket.inet_pton(socket.AF_INET6 if ":" in each else socket.AF_INET, each)
        assert addresses.is_local(each)
        assert await addresses.find(configured=[each], name="n") == (each,)
