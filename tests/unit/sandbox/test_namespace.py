"""The pods' network, made for real on machines that are network namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.networks import Lab, Machine, ask, inside, laboratory, listening, needs_root, run
from tests.unit.sandbox.conftest import Sandboxes
from wasmlet.base.errors import ConflictError, RetryableError, WasmletError
from wasmlet.sandbox import namespace
from wasmlet.sandbox.namespace import Namespace, inner_lines, outer_lines, ruleset
from wasmlet.sandbox.records import PoolKey

RANGES = ["10.77.0.0/22", "fd77::/64"]
POD = {4: "10.77.1.9", 6: "fd77::1:9"}
NEIGHBOUR = {4: "10.77.3.200", 6: "fd77::beef"}
NODE = {4: "172.30.0.1", 6: "fd30::1"}
OTHER = {4: "172.30.0.2", 6: "fd30::2"}
SERVICE = {4: "10.96.0.10", 6: "fd96::10"}
FAMILIES = pytest.mark.parametrize("family", [4, 6])

pytestmark = needs_root


@pytest.fixture
def lab(state_directory: Path) -> Iterator[Lab]:
    with laboratory(state_directory) as made:
        yield made


@pytest.fixture
def pods(lab: Lab, state_directory: Path) -> Namespace:
    """The pods' network of `lab.node`, carrying RANGES."""
    made = Namespace(state_directory, node="node")
    lab.node.do(lambda: made.make(RANGES))
    for each in RANGES:
        lab.route(each)
    return made


def routes(machine: Machine | Namespace, *words: str) -> set[str]:
    """Where packets of both families go there, by prefix."""
    shown = [run("ip", "-n", machine.name, each, "-json", "route", "show", *words) for each in ("-4", "-6")]
    return {row["dst"] for each in shown for row in json.loads(each or "[]")}


# --- reachability -----------------------------------------------------------------------------------------------------


@FAMILIES
def test_the_node_and_others_reach_a_pod(lab: Lab, pods: Namespace, family: int) -> None:
    with listening(pods.path, POD[family], 80) as heard:
        assert ask(lab.node.path, POD[family], 80) == NODE[family]
        assert ask(lab.other.path, POD[family], 80) == OTHER[family]
        assert ask(pods.path, POD[family], 80, source=NEIGHBOUR[family]) == NEIGHBOUR[family]
    assert heard == [NODE[family], OTHER[family], NEIGHBOUR[family]]


@FAMILIES
def test_others_see_which_pod_asks(lab: Lab, pods: Namespace, family: int) -> None:
    with listening(lab.other.path, OTHER[family], 80), listening(lab.node.path, NODE[family], 80):
        assert ask(pods.path, OTHER[family], 80, source=POD[family]) == POD[family]
        assert ask(pods.path, NODE[family], 80, source=POD[family]) == POD[family]


@FAMILIES
def test_a_service_leads_to_a_pod_of_the_same_node(lab: Lab, pods: Namespace, family: int) -> None:
    kind, destination = ("ip6", f"[{POD[6]}]:8080") if family == 6 else ("ip", f"{POD[4]}:8080")
    rule = f"{kind} daddr {SERVICE[family]} tcp dport 80 dnat {kind} to {destination}"
    chain = "inet proxy prerouting { type nat hook prerouting priority dstnat; }"
    add = f"add table inet proxy; add chain {chain}; add rule inet proxy prerouting {rule}"
    lab.node.do(lambda: run("nft", add))
    with listening(pods.path, POD[family], 8080):
        assert ask(lab.other.path, POD[family], 8080) == OTHER[family]
        assert ask(pods.path, SERVICE[family], 80, source=NEIGHBOUR[family]) == NODE[family]
        lab.node.do(lambda: run("nft", "delete", "table", "inet", pods.name))
        with pytest.raises(TimeoutError):  # the rule is what makes it work
            ask(pods.path, SERVICE[family], 80, source=NEIGHBOUR[family], seconds=0.3)


def test_a_thousand_pods_are_one_neighbour(lab: Lab, pods: Namespace) -> None:
    for last in range(1, 40):
        with contextlib.suppress(ConnectionRefusedError):
            ask(lab.node.path, f"10.77.1.{last}", 81)
    shown = json.loads(lab.node.ip("-json", "neighbour", "show", "dev", pods.device))
    assert {row["dst"] for row in shown if not row["dst"].startswith("fe80")} == {"169.254.1.2"}


def test_two_nodes_on_one_machine(lab: Lab, pods: Namespace, state_directory: Path) -> None:
    (state_directory / "second").mkdir()
    second = Namespace(state_directory / "second", node="node")
    assert second.name != pods.name
    assert Namespace(state_directory, node="another").name == pods.name  # what is made keeps its name
    lab.node.do(lambda: second.make(["10.78.0.0/24", "fd78::/64"]))
    with listening(second.path, "10.78.0.2", 80), listening(second.path, "fd78::2", 80):
        assert ask(pods.path, "10.78.0.2", 80, source=POD[4]) == POD[4]
        assert ask(pods.path, "fd78::2", 80, source=POD[6]) == POD[6]
    lab.node.do(second.remove)
    with listening(pods.path, POD[4], 80):
        assert ask(lab.node.path, POD[4], 80) == NODE[4]


# --- doing it again ---------------------------------------------------------------------------------------------------


def test_making_it_again_disturbs_nothing(lab: Lab, pods: Namespace, state_directory: Path) -> None:
    before = (pods.path.stat().st_ino, lab.node.ip("-json", "link", "show", pods.device))
    with listening(pods.path, POD[4], 80), lab.other.socket() as client:
        client.connect((POD[4], 80))
        again = Namespace(state_directory, node="node")
        lab.node.do(lambda: again.make(RANGES))
        assert client.recv(100).decode() == OTHER[4]
    assert (again.path.stat().st_ino, lab.node.ip("-json", "link", "show", pods.device)) == before


@pytest.mark.parametrize(
    "harm",
    [
        ("ip", "route", "delete", "10.77.0.0/22"),
        ("ip", "link", "delete", "DEVICE"),
        ("ip", "link", "set", "DEVICE", "down"),
        ("ip", "neighbour", "flush", "dev", "DEVICE", "nud", "permanent"),
        ("ip", "netns", "delete", "NAME"),
        ("ip", "-n", "NAME", "route", "flush", "table", "local", "proto", "static"),
        ("ip", "-n", "NAME", "link", "set", "lo", "down"),
        ("ip", "netns", "exec", "NAME", "sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=1024"),
        ("nft", "delete", "table", "inet", "NAME"),
        ("sysctl", "-qw", "net.ipv4.ip_forward=0"),
    ],
    ids=" ".join,
)
def test_what_is_missing_is_mended(lab: Lab, pods: Namespace, harm: tuple[str, ...]) -> None:
    command = [each.replace("DEVICE", pods.device).replace("NAME", pods.name) for each in harm]
    lab.node.do(lambda: run(*command))
    with contextlib.suppress(WasmletError):  # a namespace that has just ended may keep its device for a moment
        lab.node.do(lambda: pods.make(RANGES))
    lab.node.do(lambda: pods.make(RANGES))
    with listening(pods.path, POD[4], 80):
        assert ask(lab.other.path, POD[4], 80) == OTHER[4]
    assert inside(pods.path, lambda: Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) == "0\n"
    assert pods.name in lab.node.do(lambda: run("nft", "list", "tables"))


def test_other_ranges_take_over_and_pods_keep_their_addresses(lab: Lab, pods: Namespace) -> None:
    lab.node.do(lambda: pods.make(["10.79.0.0/24"], strays=["10.77.1.9", "fd77::1:9"]))
    assert routes(lab.node, "dev", pods.device, "proto", "static") == {"10.79.0.0/24", "10.77.1.9", "fd77::1:9"}
    assert routes(pods, "table", "local", "dev", "lo", "proto", "static") == {"10.79.0.0/24", "10.77.1.9", "fd77::1:9"}
    with listening(pods.path, "10.77.1.9", 80), listening(pods.path, "10.79.0.2", 80):
        assert ask(lab.other.path, "10.77.1.9", 80) == OTHER[4]
        assert ask(lab.node.path, "10.79.0.2", 80) == NODE[4]
    lab.node.do(lambda: pods.make(["10.79.0.0/24"]))
    assert routes(lab.node, "dev", pods.device, "proto", "static") == {"10.79.0.0/24"}


async def test_engines_live_inside_and_keep_it_when_its_name_is_lost(
    lab: Lab, pods: Namespace, sandboxes: Sandboxes
) -> None:
    within = await sandboxes.engines.acquire(PoolKey("a", network=str(pods.path)))
    outside = await sandboxes.engines.acquire(PoolKey("a"))
    assert within is not outside
    inode = pods.path.stat().st_ino
    assert os.stat(f"/proc/{within.engine.pid}/ns/net").st_ino == inode
    assert os.stat(f"/proc/{outside.engine.pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
    threads = list(Path(f"/proc/{within.engine.pid}/task").iterdir())
    assert {(each / "ns/net").stat().st_ino for each in threads} == {inode}
    with pytest.raises(ConflictError, match="in use by pods"):
        lab.node.do(pods.remove)
    run("ip", "netns", "delete", pods.name)
    lab.node.do(lambda: pods.make(RANGES))
    assert pods.path.stat().st_ino == inode
    await sandboxes.restart()
    again = await sandboxes.engines.acquire(PoolKey("a", network=str(pods.path)))
    assert again.engine.pid == within.engine.pid


# --- what cannot be made ----------------------------------------------------------------------------------------------


def test_a_range_that_leads_elsewhere_is_left_alone(lab: Lab, state_directory: Path) -> None:
    lab.node.ip("route", "add", "10.77.0.0/22", "via", OTHER[4])
    with pytest.raises(RetryableError, match=r"10\.77\.0\.0/22 has a route to cable") as caught:
        lab.node.do(lambda: Namespace(state_directory, node="node").make(RANGES))
    assert caught.value.reason == "PodCIDRInUse"
    assert "10.77.0.0/22" in routes(lab.node, "dev", "cable")
    assert not (state_directory / namespace.RECORD_NAME).exists()


def test_a_range_of_another_wasmlet_says_how_it_goes(lab: Lab, state_directory: Path) -> None:
    lab.node.ip("link", "add", "wasm629734a1", "type", "veth", "peer", "name", "far")
    lab.node.ip("link", "set", "wasm629734a1", "up")
    lab.node.ip("route", "add", "10.77.0.0/22", "dev", "wasm629734a1")
    with pytest.raises(RetryableError, match=r"belongs to another wasmlet of this machine") as caught:
        lab.node.do(lambda: Namespace(state_directory, node="node").make(RANGES))
    assert caught.value.reason == "PodCIDRInUse"
    assert "ip netns delete wasmlet-629734a1; nft delete table inet wasmlet-629734a1" in str(caught.value)


@pytest.mark.parametrize(("program", "package"), [("ip", "iproute2"), ("nft", "nftables")])
def test_a_program_that_is_not_there_is_named(
    lab: Lab, state_directory: Path, monkeypatch: pytest.MonkeyPatch, program: str, package: str
) -> None:
    programs = state_directory / "programs"
    programs.mkdir()
    (programs / "ip").symlink_to("/usr/sbin/ip")
    (programs / "nft").symlink_to("/usr/sbin/nft")
    (programs / program).unlink()
    monkeypatch.setattr(namespace, "PROGRAM_PATH", str(programs))
    pods = Namespace(state_directory, node="node")
    try:
        with pytest.raises(RetryableError, match=f"{program} is not there; install the package {package}.*--network h"):
            lab.node.do(lambda: pods.make(RANGES))
    finally:
        subprocess.run(["ip", "netns", "delete", pods.name], capture_output=True, check=False)


def test_without_rights_the_way_out_is_named(state_directory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from wasmlet.sandbox.namespace import Namespace;"
        "Namespace(Path(sys.argv[1]), node='n').make(['10.77.0.0/22'])"
    )
    result = subprocess.run(
        ["setpriv", "--bounding-set=-net_admin,-sys_admin", sys.executable, "-c", code, state_directory],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "making the pod network needs CAP_NET_ADMIN and CAP_SYS_ADMIN" in result.stderr
    assert "wasmlet node --network host" in result.stderr
    assert not (state_directory / namespace.RECORD_NAME).exists()


# --- the end ----------------------------------------------------------------------------------------------------------


def test_removing_leaves_nothing(lab: Lab, pods: Namespace) -> None:
    assert lab.node.do(pods.remove)
    assert not pods.path.exists()
    assert pods.device not in lab.node.ip("link", "show")
    assert lab.node.do(lambda: run("nft", "list", "tables")) == ""
    assert not lab.node.do(pods.remove)


def test_removing_what_is_half_gone(lab: Lab, pods: Namespace) -> None:
    run("ip", "netns", "delete", pods.name)
    lab.node.do(lambda: run("nft", "delete", "table", "inet", pods.name))
    assert lab.node.do(pods.remove)


# --- texts ------------------------------------------------------------------------------------------------------------


def test_one_family_needs_nothing_of_the_other() -> None:
    four = "\n".join([*outer_lines("wl0", RANGES[:1]), *inner_lines(RANGES[:1]), ruleset("t", "wl0", RANGES[:1])])
    assert "fe80" not in four
    assert "ip6" not in four
    six = "\n".join([*outer_lines("wl0", RANGES[1:]), *inner_lines(RANGES[1:]), ruleset("t", "wl0", RANGES[1:])])
    assert "169.254" not in six
    assert "ip saddr" not in six


def test_a_router_goes_on_hearing_advertisements(lab: Lab, state_directory: Path) -> None:
    accept = Path("/proc/sys/net/ipv6/conf/cable/accept_ra")
    lab.node.do(lambda: accept.write_text("1"))
    lab.node.do(lambda: Namespace(state_directory, node="node").make(RANGES))
    assert lab.node.do(accept.read_text) == "2\n"
    assert lab.node.do(Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text) == "1\n"


def test_the_machine_itself_is_untouched(pods: Namespace) -> None:
    assert pods.device not in [name for _, name in socket.if_nameindex()]
