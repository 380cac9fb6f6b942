"""The pods' network in the kernel: one namespace for all pods of a node, joined to the machine by a veth pair.

```
 machine                                                 namespace /run/netns/wasmlet-{mark}
 podCIDR via 169.254.1.2 dev wasm{mark}                  local podCIDR dev lo: every address of it is here
 other nodes, Services         wasm{mark} ═══════════ eth0  default via 169.254.1.1
```

Neither end has an address of the range. The next hops have link-local addresses with fixed neighbours, so there is one
neighbour entry however many pods there are (the kernel's table of them is small), and no ARP to wait for.

`make` and `remove` block; they do the same again without harm. What is made outlives the agent, since engines do.
"""

from __future__ import annotations

import ctypes
import hashlib
import ipaddress
import json
import logging
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from wasmlet.base.errors import ConflictError, RetryableError, WasmletError
from wasmlet.base.files import read_if_present, write_atomically
from wasmlet.sandbox.records import living_processes

logger = logging.getLogger(__name__)

RECORD_NAME: Final = "network.json"
PINS: Final = Path("/run/netns")
"""Where iproute2 names namespaces, so `ip netns` shows ours."""

PROGRAM_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
COMMAND_SECONDS: Final = 20.0
CLONE_NEWNET: Final = 0x40000000
CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
"""Bits of capabilities(7); the second makes and enters namespaces."""

OUTER_MAC: Final = "02:77:6c:00:00:01"
INNER_MAC: Final = "02:77:6c:00:00:02"
"""Locally administered; each pair is a link of its own, so all nodes may use the same."""

HOPS: Final = {4: ("169.254.1.1", "169.254.1.2"), 6: ("fe80::1", "fe80::2")}
"""Next hops by family: the machine's as the namespace sees it, and the other way. Calico's precedent."""

IN_USE: Final = "PodCIDRInUse"
HINT: Final = "or give pods the node's own address: wasmlet node --network host"


class Record(msgspec.Struct, frozen=True, rename="camel"):
    """The fact that outlives the agent: what the network is called here, and what it carries.

    `ranges` are the Node's; `strays` are addresses outside of them that pods still had.
    """

    mark: str
    ranges: list[str] = []
    strays: list[str] = []


class Namespace:
    """The pods' network of one state directory.

    Args:
        state: The state directory: the record of what was made, and the engines that may be inside.
        node: The node's name: agents in containers may have state directories of one name on one machine.
    """

    def __init__(self, state: Path, *, node: str) -> None:
        self._state = state
        own = hashlib.sha256(f"{node}\0{state}".encode()).hexdigest()[:8]
        self.record = _read_record(state) or Record(mark=own)
        self.name = f"wasmlet-{self.record.mark}"
        self.device = f"wasm{self.record.mark}"
        self.path = PINS / self.name

    def __repr__(self) -> str:
        return f"<Namespace {self.name} {', '.join(self.record.ranges)}>"

    # --- making -------------------------------------------------------------------------------------------------------

    def make(self, ranges: Sequence[str], *, strays: Iterable[str] = ()) -> None:
        """Have the network carry `ranges`: what is there stays, what is missing or too much is mended.

        Args:
            ranges: One of each family at most.
            strays: Addresses outside of them that pods still have.

        Raises:
            RetryableError: It cannot be made now; the message says what to do.
        """
        _require_rights()
        kept = sorted(str(ipaddress.ip_network(each)) for each in strays)
        carried = [*ranges, *kept]
        self._refuse_taken(carried)
        self._pin()
        self._link()
        families = {_family(each) for each in carried}
        in_namespace(self.path, lambda: _set_inside(families))
        self._batch(inner_lines(carried), inside=True)
        self._batch(outer_lines(self.device, carried))
        self._drop_routes(carried)
        _run("nft", "-f", "-", text=ruleset(self.name, self.device, carried))
        _forward(families)
        self._save(Record(mark=self.record.mark, ranges=list(ranges), strays=kept))

    def _refuse_taken(self, carried: Sequence[str]) -> None:
        """A range that leads elsewhere already belongs to somebody: replacing that route would cut them off."""
        for each in carried:
            shown = _run("ip", f"-{_family(each)}", "-json", "route", "show", "exact", each)
            others = [row.get("dev", row.get("type", "?")) for row in _rows(shown) if row.get("dev") != self.device]
            if others:
                raise _taken(each, others[0])

    def _pin(self) -> None:
        """Name the namespace: the one in which engines live, if somebody has removed its name; else a new one."""
        if self.path.exists():
            if os.stat(self.path).st_dev != os.stat(PINS).st_dev:
                return
            self.path.unlink()  # left behind by an `ip netns add` that was killed
        engines = living_processes(self._state / "engines", network=str(self.path))
        if engines:
            logger.warning("network namespace had lost its name", extra={"namespace": self.name, "engine": engines[0]})
            _run("ip", "netns", "attach", self.name, str(engines[0]))
        else:
            _run("ip", "netns", "add", self.name)

    def _link(self) -> None:
        outer = _succeeds("ip", "link", "show", "dev", self.device)
        if outer and _succeeds("ip", "-n", self.name, "link", "show", "dev", "eth0"):
            return
        self._delete_device()
        _run(
            "ip", "link", "add", self.device, "address", OUTER_MAC, "type", "veth",
            "peer", "name", "eth0", "address", INNER_MAC, "netns", self.name,
        )  # fmt: skip

    def _delete_device(self) -> None:
        """No matter who is first: a namespace that has just gone takes its devices with it a moment later."""
        shown = ("ip", "link", "show", "dev", self.device)
        if _succeeds(*shown):
            try:
                _run("ip", "link", "delete", "dev", self.device)
            except RetryableError:
                if _succeeds(*shown):
                    raise

    def _drop_routes(self, carried: Sequence[str]) -> None:
        """Routes of ours to ranges that are no longer carried; the others are left in place."""
        wanted = {ipaddress.ip_network(each) for each in carried}
        inner, outer = ["table", "local", "dev", "lo", "proto", "static"], ["dev", self.device, "proto", "static"]
        for family in ("-4", "-6"):
            for inside, words in ((True, inner), (False, outer)):
                shown = _run("ip", *self._within(inside), family, "-json", "route", "show", *words)
                for row in _rows(shown):
                    if ipaddress.ip_network(row["dst"]) not in wanted:
                        kind = ["local"] if inside else []
                        _run("ip", *self._within(inside), family, "route", "delete", *kind, row["dst"], *words)

    def _within(self, inside: bool) -> list[str]:
        return ["-n", self.name] if inside else []

    def _batch(self, lines: Sequence[str], *, inside: bool = False) -> None:
        _run("ip", *self._within(inside), "-batch", "-", text="\n".join(lines) + "\n")

    def _save(self, record: Record) -> None:
        if record != self.record or not (self._state / RECORD_NAME).exists():
            write_atomically(self._state / RECORD_NAME, msgspec.json.encode(record), mode=0o640)
            self.record = record

    # --- removing -----------------------------------------------------------------------------------------------------

    def remove(self) -> bool:
        """Take everything down; False when there was nothing.

        Forwarding stays on: nobody knows who else relies on it by now.

        Raises:
            ConflictError: Engines live in it.
            RetryableError: It could not be removed.
        """
        if engines := living_processes(self._state / "engines", network=str(self.path)):
            raise ConflictError(
                f"the network {self.name} is in use by pods (engine process {engines[0]})", hint="remove them first"
            )
        if not (self._state / RECORD_NAME).exists():
            return False
        _require_rights()
        _run("nft", "-f", "-", text=f"table inet {self.name}\ndelete table inet {self.name}\n")
        self._delete_device()
        if self.path.exists():
            _run("ip", "netns", "delete", self.name)
        (self._state / RECORD_NAME).unlink()
        return True


# --- what is made, as text --------------------------------------------------------------------------------------------


def _taken(pod_range: str, device: str) -> RetryableError:
    """Somebody else has the range; another wasmlet of this machine is known by its device."""
    if found := re.fullmatch(r"wasm([0-9a-f]{8})", device):
        name = f"wasmlet-{found[1]}"
        return RetryableError(
            f"the pod range {pod_range} belongs to another wasmlet of this machine already (device {device})",
            hint="if it is of no use any more: wasmlet leave, with its --state; where that directory is lost: "
            f"ip netns delete {name}; nft delete table inet {name}",
            reason=IN_USE,
        )
    return RetryableError(
        f"the pod range {pod_range} has a route to {device} on this machine already",
        hint=f"remove that route, {HINT}",
        reason=IN_USE,
    )


def outer_lines(device: str, ranges: Sequence[str]) -> list[str]:
    """For `ip -batch`, on the machine: the way to every pod."""
    lines = [f"link set dev {device} up"]
    for each in ranges:
        hop = HOPS[_family(each)][1]
        lines.append(f"neighbour replace {hop} lladdr {INNER_MAC} dev {device} nud permanent")
        lines.append(f"route replace {each} via {hop} dev {device} onlink proto static")
    return lines


def inner_lines(ranges: Sequence[str]) -> list[str]:
    """For `ip -batch`, in the namespace: every address of the ranges is its own, all else is the machine's matter."""
    lines = ["link set dev lo up", "link set dev eth0 up"]
    for each in ranges:
        hop, family = HOPS[_family(each)][0], _family(each)
        default = "default" if family == 4 else "::/0"
        lines.append(f"neighbour replace {hop} lladdr {OUTER_MAC} dev eth0 nud permanent")
        lines.append(f"route replace {default} via {hop} dev eth0 onlink")
        lines.append(f"route replace local {each} dev lo proto static")
    return lines


def ruleset(table: str, device: str, ranges: Sequence[str]) -> str:
    """For `nft -f`: the one kind of traffic that must not keep its source, replaced in one transaction.

    A pod that asks a Service sends to the machine, whose kube-proxy may choose a pod of this same node: the packet
    goes back with a source that is local in the namespace, which would drop it as a martian, and the answer would not
    pass the machine, which has to translate it back. So what comes from the ranges and goes back into the device gets
    the machine's address. Nothing else does: pods of one node reach each other inside, other nodes see who asks.
    """
    rules = [
        f'    oifname "{device}" {"ip" if family == 4 else "ip6"} saddr {{ {", ".join(own)} }} masquerade\n'
        for family in (4, 6)
        if (own := [each for each in ranges if _family(each) == family])
    ]
    return (
        f"table inet {table}\n"  # made first, so that there is one to delete
        f"delete table inet {table}\n"
        f"table inet {table} {{\n"
        "  chain postrouting {\n"
        "    type nat hook postrouting priority srcnat; policy accept;\n"
        f"{''.join(rules)}"
        "  }\n"
        "}\n"
    )


def _family(cidr: str) -> int:
    return ipaddress.ip_network(cidr).version


# --- the kernel's settings --------------------------------------------------------------------------------------------

_SYSTEM: Final = Path("/proc/sys/net")


def in_namespace(path: Path, work: Callable[[], None]) -> None:
    """Do `work` inside the namespace, on a thread that is thrown away.

    Raises:
        RetryableError: The namespace cannot be entered, or the work met an error of the system.
    """
    errors: list[OSError] = []

    def enter() -> None:
        try:
            with path.open("rb") as pin:  # os.setns is there from Python 3.12 on
                if ctypes.CDLL(None, use_errno=True).setns(pin.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
            work()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=enter, name=f"in {path.name}")
    thread.start()
    thread.join()
    if errors:
        raise RetryableError(f"cannot set up {path}: {errors[0].strerror}: {errors[0].filename}", hint=HINT)


def _set_inside(families: set[int]) -> None:
    (_SYSTEM / "ipv4/ip_unprivileged_port_start").write_text("0")  # for IPv6 too
    if 6 in families:
        # IPv4 lets a socket bind to any address with a local route; IPv6 wants it on an interface, unless told so.
        (_SYSTEM / "ipv6/ip_nonlocal_bind").write_text("1")


def _forward(families: set[int]) -> None:
    """Have the machine pass packets on, as every node of a cluster does."""
    switches = {4: _SYSTEM / "ipv4/ip_forward", 6: _SYSTEM / "ipv6/conf/all/forwarding"}
    try:
        for family in sorted(families):
            if switches[family].read_text().strip() != "0":
                continue
            if family == 6:
                # A router ignores advertisements unless told so, and would lose its own default route.
                for each in (_SYSTEM / "ipv6/conf").glob("*/accept_ra"):
                    if each.read_text().strip() == "1":
                        each.write_text("2")
            switches[family].write_text("1")
    except OSError as error:
        raise RetryableError(f"cannot turn forwarding on: {error.strerror}: {error.filename}", hint=HINT) from error


# --- programs ---------------------------------------------------------------------------------------------------------


def _require_rights() -> None:
    status = Path("/proc/self/status").read_text()
    effective = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    missing = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        raise RetryableError(
            f"making the pod network needs {' and '.join(missing)}", hint=f"run the node as root, {HINT}"
        )


def _run(*command: str, text: str = "") -> str:
    """The output of a program.

    Raises:
        RetryableError: It is not there, or it failed.
    """
    program = shutil.which(command[0], path=PROGRAM_PATH)
    if program is None:
        package = {"nft": "nftables", "ip": "iproute2"}[command[0]]
        raise RetryableError(f"the program {command[0]} is not there", hint=f"install the package {package}, {HINT}")
    try:
        result = subprocess.run(
            [program, *command[1:]], input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RetryableError(f"{' '.join(command)}: {error}", hint=HINT) from error
    if result.returncode != 0:
        said = " ".join(result.stderr.split()) or f"exit status {result.returncode}"
        raise RetryableError(f"{' '.join(command)}: {said[:300]}", hint=HINT)
    return result.stdout


def _succeeds(*command: str) -> bool:
    try:
        _run(*command)
    except WasmletError:
        return False
    return True


def _rows(shown: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(shown or "[]")
    return rows


def _read_record(state: Path) -> Record | None:
    content = read_if_present(state / RECORD_NAME)
    try:
        return None if content is None else msgspec.json.decode(content, type=Record)
    except msgspec.DecodeError:
        return None
