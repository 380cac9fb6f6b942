"""What the pods room is given by the composition root: the other rooms, its settings, and where its news goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from wasmlet.base.clock import Clock, system_clock
from wasmlet.base.turns import Turns
from wasmlet.images.credentials import Credential
from wasmlet.images.library import Library
from wasmlet.images.sources import Account
from wasmlet.kube.objects import Objects
from wasmlet.kube.types import Pod
from wasmlet.pods import handlers
from wasmlet.pods.accounts import News, Progress
from wasmlet.pods.admission import NodeFacts, Refusal
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.directories import Directories
from wasmlet.pods.restarts import BackOff
from wasmlet.sandbox.artifacts import Artifacts
from wasmlet.sandbox.engines import Engines
from wasmlet.sandbox.network import NodeAddress, PodAddresses
from wasmlet.volumes.projected import Tokens


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How pods are run.

    Attributes:
        node_name: What `spec.nodeName` says to a guest.
        host_ips: The node's addresses.
        back_off: Of crashes and image pulls.
        sync_seconds: After how long a step that failed for other reasons is tried again (kubelet: 10 s).
        probe_scale: Tests shorten the periods of probes by it; 1 is real time.
        unwatched_seconds: How long an ended pod whose terminal is gone is kept for a terminal that comes back.
        refresh_seconds: How often the files of configMap, secret, projected and downwardAPI volumes are brought up to
            date, beside the moments when an object is known to have changed (kubelet: 60 to 90 s).
        isolation: Which pods share an engine: those of a `namespace`, all of the `node`, or none (`pod`).
        allocatable: Node allocatable by resource, for resourceFieldRef without a limit; quantities.
    """

    node_name: str
    host_ips: tuple[str, ...] = ()
    back_off: BackOff = field(default_factory=BackOff)
    sync_seconds: float = 10.0
    probe_scale: float = 1.0
    unwatched_seconds: float = 2.0
    refresh_seconds: float = 75.0
    isolation: Literal["namespace", "node", "pod"] = "namespace"
    allocatable: dict[str, str] = field(default_factory=dict)


class Listener(Protocol):
    """Where a pod's news goes: watchers on the local socket and, of its own pods, the API server."""

    def changed(self, uid: str) -> None:
        """The pod's status may be another."""

    def removed(self, uid: str) -> None:
        """The pod and all its files are gone."""

    def is_watched(self, uid: str) -> bool:
        """Whether somebody follows the pod now."""

    def news(self, pod: Pod, news: News) -> None:
        """Something happened."""

    def progress(self, uid: str, progress: Progress) -> None:
        """Long work goes on."""


class NodeSource(Protocol):
    """The own Node as the cluster has it."""

    async def facts(self, *, live: bool = False) -> NodeFacts:
        """What admission looks at, once it is known; `live` reads it from the API server now."""

    def allocatable(self) -> Mapping[str, str]:
        """Quantities by resource."""


def _refuse_nothing(_pod: Pod) -> Refusal | None:
    """There is no node that could want no more pods."""
    return None


def _no_account(_pod: Pod) -> Account | None:
    """Only a cluster has service accounts."""
    return None


def _no_variables(_pod: Pod) -> Mapping[str, str]:
    """There are no Services without a cluster."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Rooms:
    """The rooms below, built by `agent`.

    Attributes:
        directories: Where pods' files are.
        credentials: Logins of the node, beside a pod's imagePullSecrets.
        objects: Where a pod's ConfigMaps and Secrets come from.
        tokens: Where service account tokens come from; None without a cluster.
        account: The service account of a pod of the cluster, for credential providers; None for other pods.
        service_variables: What the Services of a pod's namespace add to its environment (contract 6.1).
        node: Whom pods of a cluster have to fit; None without a cluster.
        refuse: Why the node takes no pod now (it shuts down), asked after everything else.
        runtime_handler: The handler of a pod's RuntimeClass.
        addresses: Where addresses come from; none unless told otherwise.
    """

    settings: Settings
    library: Library
    artifacts: Artifacts
    engines: Engines
    directories: Directories
    listener: Listener
    credentials: Callable[[], tuple[Credential, ...]] = tuple
    objects: Callable[[Bundle], Objects] = Bundle.documents
    tokens: Tokens | None = None
    account: Callable[[Pod], Account | None] = _no_account
    service_variables: Callable[[Pod], Mapping[str, str]] = _no_variables
    node: NodeSource | None = None
    refuse: Callable[[Pod], Refusal | None] = _refuse_nothing
    runtime_handler: Callable[[Pod], Awaitable[str]] = handlers.of_manifest
    clock: Clock = system_clock
    addresses: PodAddresses = field(default_factory=NodeAddress)
    turns: Turns = field(default_factory=Turns)
