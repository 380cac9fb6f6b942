"""The node's conditions: what is so, as the API tells it, and what flipped. Pure (kubelet-contract 1.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wasmlet.node.machine import Amounts
from wasmlet.node.objects import NodeCondition
from wasmlet.node.settings import Settings

__all__ = ["Health", "Network", "NodeEvent", "Pressures", "abandoned", "assess", "pressed", "sustained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvent:
    """An Event about the Node, to be recorded in the namespace `default`.

    Attributes:
        type: Normal or Warning.
    """

    reason: str
    message: str
    type: str = "Normal"


NETWORK_REASONS: Final = ("NoPodCIDR", "NoPodNetwork", "PodCIDRInUse")


@dataclass(frozen=True, slots=True)
class Network:
    """The pod network, when this agent is the one who answers for it. `problem` is empty when it works.

    `reason` is one of NETWORK_REASONS, by which a later agent knows that the condition was ours.
    """

    problem: str = ""
    reason: str = "NoPodNetwork"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressures:
    """Of what there is too little."""

    memory: bool = False
    disk: bool = False
    pids: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the conditions are made of.

    Attributes:
        problems: Reasons against Ready, one sentence each; none: Ready.
        network: None: the condition NetworkUnavailable is somebody else's (a cloud's route controller, a CNI agent).
    """

    pressures: Pressures = Pressures()
    problems: tuple[str, ...] = ()
    network: Network | None = None


@dataclass(frozen=True, slots=True)
class _Pressure:
    """One row of the table in contract 1.4: reason (also the event's) and message, by whether it presses."""

    type: str
    name: str
    fine: tuple[str, str]
    pressing: tuple[str, str]


_PRESSURES: Final = (
    _Pressure(
        "MemoryPressure", "memory",
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    ),
    _Pressure(
        "DiskPressure", "disk",
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ),
    _Pressure(
        "PIDPressure", "pids",
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    ),
)  # fmt: skip
READY: Final = "Ready"
NETWORK_UNAVAILABLE: Final = "NetworkUnavailable"
NETWORK_IS_UP: Final = "WasmletNetworkIsUp"
SHUTTING_DOWN: Final = "node is shutting down"


def pressed(amounts: Amounts, settings: Settings) -> Pressures:
    """What presses at this moment, by the thresholds of hard eviction."""
    return Pressures(
        memory=amounts.memory_available < settings.eviction_memory_bytes,
        disk=amounts.disk_available < amounts.disk * settings.eviction_disk_share
        # File systems without a fixed number of inodes (btrfs) say 0.
        or amounts.inodes_available < amounts.inodes * settings.eviction_inodes_share,
        pids=amounts.pids_available < amounts.pids * settings.eviction_pids_share,
    )


def sustained(seen_at: dict[str, float], now: Pressures, *, moment: float, seconds: float) -> Pressures:
    """Pressures that are, or were within the last `seconds`: a condition must not flap (eviction's transition period).

    Args:
        seen_at: When each was last seen; kept up to date here.
    """
    for each in _PRESSURES:
        if getattr(now, each.name):
            seen_at[each.name] = moment
    return Pressures(
        **{
            each.name: (each.name in seen_at and moment - seen_at[each.name] < seconds) or getattr(now, each.name)
            for each in _PRESSURES
        }
    )


def assess(
    health: Health, *, previous: Sequence[NodeCondition], node: str, now: str
) -> tuple[list[NodeCondition], list[NodeEvent]]:
    """The conditions, Ready last, and an event for each that flipped.

    Args:
        previous: What the Node says until now; times of transition are taken over from there.
        node: The Node's name.
        now: RFC 3339.
    """
    before = {each.type: each for each in previous}
    conditions, events = [], []
    for row in _PRESSURES:
        is_pressing = bool(getattr(health.pressures, row.name))
        reason, message = row.pressing if is_pressing else row.fine
        conditions.append(NodeCondition(type=row.type, status=_status(is_pressing), reason=reason, message=message))
    if health.network is not None:
        conditions.append(_network(health.network))
    conditions.append(_ready(health.problems))
    for each in conditions:
        old = before.get(each.type)
        has_flipped = old is None or old.status != each.status
        each.last_heartbeat_time = now
        each.last_transition_time = now if old is None or has_flipped else old.last_transition_time
        # A first Ready=False is no news; the pressures tell even their first state, as the kubelet does.
        is_start = old is None and each.type == READY and each.status == "False"
        if has_flipped and not is_start and each.type != NETWORK_UNAVAILABLE:
            reason = _event_reason(each)
            events.append(NodeEvent(reason=reason, message=f"Node {node} status is now: {reason}"))
    return conditions, events


def abandoned(health: Health, previous: Sequence[NodeCondition]) -> list[str]:
    """Types of conditions that an earlier agent of this node wrote, in another mode, and that nobody would change."""
    if health.network is not None:
        return []
    ours = (NETWORK_IS_UP, *NETWORK_REASONS)
    return [each.type for each in previous if each.type == NETWORK_UNAVAILABLE and each.reason in ours]


def _ready(problems: tuple[str, ...]) -> NodeCondition:
    if problems:
        message = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"  # as Go joins errors
        return NodeCondition(type=READY, status="False", reason="KubeletNotReady", message=message)
    message = "kubelet is posting ready status"
    return NodeCondition(type=READY, status="True", reason="KubeletReady", message=message)


def _network(network: Network) -> NodeCondition:
    if network.problem:
        return NodeCondition(type=NETWORK_UNAVAILABLE, status="True", reason=network.reason, message=network.problem)
    message = "the pod network of wasmlet is up"
    return NodeCondition(type=NETWORK_UNAVAILABLE, status="False", reason=NETWORK_IS_UP, message=message)


def _event_reason(condition: NodeCondition) -> str:
    if condition.type == READY:
        return "NodeReady" if condition.status == "True" else "NodeNotReady"
    return condition.reason.replace("Kubelet", "Node", 1)


def _status(is_so: bool) -> str:
    return "True" if is_so else "False"
