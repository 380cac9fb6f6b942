"""What is said of a pod to people and programs outside: the wire documents of the local API.

Imports little, so that a command that only shows a pod starts fast.
"""

from __future__ import annotations

import msgspec

from wasmlet.kube.types import ConfigMap, Pod, Secret
from wasmlet.pods.facts import Failure
from wasmlet.sandbox.protocol import Engine, ExecSpec


class Document(msgspec.Struct, rename="camel", kw_only=True):
    """Base: camelCase on the wire, unknown fields ignored."""


class News(Document):
    """An event in the sense of `kubectl describe`: something that happened to a pod, for people.

    `kind` is "Normal" or "Warning"; `container` is "" for the pod itself; `moment` is seconds since the epoch.
    """

    moment: float
    kind: str
    reason: str
    message: str
    container: str = ""


class Progress(Document):
    """Long work for a container: `stage` is "pull", "compile" or "done"; sizes are bytes, 0 when unknown."""

    container: str
    stage: str
    subject: str
    done_bytes: int = 0
    total_bytes: int = 0


class Run(Document):
    """One attempt of a container, with what a terminal needs to follow it; `serves` as in its facts."""

    container: str
    attempt: int
    sandbox: str
    log: str
    engine_socket: str
    started: bool
    exit_code: int | None
    serves: list[str] = []


class Account(Document):
    """All there is to say about a pod.

    `stage` is a value of `plan.Stage`; `exit_code` is set once the pod has ended for good; `failures` are steps that
    failed and are tried again, by container ("" is the pod itself). The values of `secrets` are masked.
    """

    pod: Pod
    stage: str
    exit_code: int | None
    runs: list[Run]
    failures: dict[str, Failure]
    config_maps: list[ConfigMap] = []
    secrets: list[Secret] = []
    news: list[News] = []


class ExecRequest(Document):
    """What a terminal wants to run in a container; `command` is argv, `stdin` whether it will send any."""

    container: str
    command: list[str]
    stdin: bool = False
    tty: bool = False


class ExecGrant(Document):
    """Where a terminal gets it: from the engine itself."""

    engine_socket: str
    sandbox: str
    spec: ExecSpec


class AttachRequest(Document):
    """A container that a terminal wants to attach to, and whether it will send to its stdin."""

    container: str
    stdin: bool = False


class AttachGrant(Document):
    """Where a terminal attaches: at the engine itself; `tty`: the container has a terminal."""

    engine_socket: str
    sandbox: str
    tty: bool = False


class EngineAccount(Document):
    """An engine: its pool, its release, what it uses, and the pods (UIDs) that run in it.

    `dedicated` is the pod that it is alone for; `old`: of another release than the agent, so that it takes nothing new.
    """

    id: str
    namespace: str
    dedicated: str
    network: str
    old: bool
    engine: Engine
    memory_bytes: int
    pods: list[str]


class Renewal(Document):
    """What of a pod is restarted in another engine; the rest of it stays until it ends by itself."""

    containers: list[str]


class Frame(Document, omit_defaults=True):
    """One line of a watch: exactly one field is set."""

    account: Account | None = None
    news: News | None = None
    progress: Progress | None = None
