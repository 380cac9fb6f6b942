"""The documents of `protocol/engine.openapi.yaml`, name for name.

The golden examples in `protocol/examples` are parsed and re-emitted by the tests here and in the engine. Times stay
RFC 3339 text; sizes are bytes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PROTOCOL = 1
"""The number of the protocol this agent speaks; what an engine of another number may be used for says `handle`."""


class Document(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """Base: camelCase on the wire, unknown fields ignored, every field written."""


class Budget(Document, frozen=True, kw_only=True):
    """How much of one of the kernel's limits the engine uses."""

    used: int
    limit: int


class Confinement(Document, frozen=True, kw_only=True):
    """What holds an engine's process, should a guest break out into it.

    `landlock` is the version that holds its files, 0 none; `missing` says in words what the kernel could not do.
    """

    user: int
    group: int
    landlock: int
    seccomp: bool
    missing: list[str] = []


class Engine(Document, frozen=True, kw_only=True):
    """Who an engine is, and how much of its budgets is used."""

    version: str
    protocol: int
    incarnation: str
    pid: int
    started_at: str
    compatibility: str
    sandboxes: int
    running: int
    descriptors: Budget
    maps: Budget
    connections: Budget | None = None
    memory: Budget | None = None
    confinement: Confinement | None = None


class Artifact(Document, frozen=True, kw_only=True):
    """A compiled module; the engine maps it only when the SHA-256 (hex) is right.

    `function` is the export that a command is, where it is not the usual one.
    """

    path: str
    sha256: str
    function: str | None = None


class EnvVar(Document, frozen=True, kw_only=True):
    """A variable; a `secret` one is never logged or shown."""

    name: str
    value: str
    secret: bool = False

    def __repr__(self) -> str:
        return f"EnvVar({self.name}={'***' if self.secret else self.value!r})"


class Mount(Document, frozen=True, kw_only=True):
    """A host directory made visible to the guest at an absolute guest path."""

    host_path: str
    guest_path: str
    read_only: bool = False


class Log(Document, frozen=True, kw_only=True):
    """Where the engine appends CRI lines, and when it rotates.

    With `lossless` no file is deleted but by its reader, and the guest waits while `max_files` are there.
    """

    path: str
    max_bytes: int = 10 * 1024 * 1024
    max_files: int = 5
    lossless: bool = False


class Component(Document, frozen=True, kw_only=True):
    """A part of an application: a guest of kind http, and what of the application's paths is its.

    A route's segments are literal or `:name`; one at the end may be `...`, which is all that follows.
    """

    name: str
    routes: list[str]
    artifact: Artifact
    env: list[EnvVar] = []
    mounts: list[Mount] = []


class Http(Document, frozen=True, kw_only=True):
    """Where and how a guest of kind http serves; the engine's defaults stand where a field is left out.

    Without `components` every request is for the sandbox's own artifact.
    """

    addresses: list[str]
    ports: list[int]
    reuse: int | None = None
    max_instances: int = 100
    max_queued: int = 1000
    request_timeout_seconds: float = 30.0
    lame_duck_seconds: float = 1.0
    components: list[Component] = []


class Network(Document, frozen=True, kw_only=True):
    """How a guest is in the network; with `host` its localhost is the machine's.

    `hosts` and `resolv_conf` are the contents of the pod's two files, by which the engine looks names up.
    """

    addresses: list[str]
    host: bool = False
    hosts: str = ""
    resolv_conf: str = ""


class SandboxSpec(Document, frozen=True, kw_only=True):
    """All an engine needs to start one container."""

    pod_uid: str
    pod_namespace: str
    pod_name: str
    container: str
    attempt: int
    artifact: Artifact
    kind: str = "command"
    http: Http | None = None
    network: Network | None = None
    args: list[str]
    env: list[EnvVar] = []
    working_dir: str = "/"
    mounts: list[Mount] = []
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    log: Log
    exit_file: str
    memory_limit_bytes: int | None = None
    memory_request_bytes: int = 0
    cpu_quota_millicores: int | None = None


class Exit(Document, frozen=True, kw_only=True):
    """How a sandbox ended; also the content of exit.json."""

    id: str
    exit_code: int
    reason: str
    fault: Literal["guest", "wasmlet"] | None
    message: str = ""
    started_at: str
    finished_at: str
    incarnation: str


class Usage(Document, frozen=True, kw_only=True):
    """What a sandbox has used since it started."""

    cpu_nanoseconds: int
    requests: int
    failures: int


class Sandbox(Document, frozen=True, kw_only=True):
    """A sandbox as the engine sees it."""

    id: str
    state: Literal["starting", "running", "exited"]
    pod_uid: str
    pod_namespace: str
    pod_name: str
    container: str
    attempt: int
    started_at: str | None = None
    exit: Exit | None = None
    usage: Usage | None = None


class SandboxList(Document, frozen=True, kw_only=True):
    """Every sandbox an engine knows."""

    items: list[Sandbox]


class Stop(Document, frozen=True, kw_only=True):
    """How long a guest has until it is interrupted."""

    grace_seconds: float


class ExecSpec(Document, frozen=True, kw_only=True):
    """A further instance in a running container; without an artifact, of what the container runs itself."""

    args: list[str]
    artifact: Artifact | None = None
    stdin: bool = False
    tty: bool = False


class AttachSpec(Document, frozen=True, kw_only=True):
    """A client at a running container's own streams: whether it writes to stdin, and what it hears."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True


class ExecExit(Document, frozen=True, kw_only=True):
    """How an exec, or an attached client's container, ended; `message` was written to its stderr before."""

    exit_code: int
    reason: str
    fault: Literal["guest", "wasmlet"] | None
    message: str = ""


class TerminalSize(Document, frozen=True, kw_only=True):
    """A client's terminal, in characters."""

    width: int
    height: int


class Event(Document, frozen=True, kw_only=True):
    """Something that happened, numbered within an incarnation; `type` may be one this agent does not know."""

    incarnation: str
    sequence: int
    time: str
    type: str
    sandbox: Sandbox | None = None


class Compiled(Document, frozen=True, kw_only=True):
    """What the compile helper prints when it has written an artifact."""

    kind: str
    format: str
    wasi: str
    input_sha256: str
    sha256: str
    bytes: int
    compatibility: str
    milliseconds: int


class Inspected(Document, frozen=True, kw_only=True):
    """What a file is, without compiling it; `problem` is why it would not run, "" when it would.

    `functions` are those of its exports that can be called as programs.
    """

    kind: str | None
    format: str
    wasi: str
    wasi_version: str
    experimental: bool = False
    bytes: int
    imports: list[str]
    exports: list[str]
    functions: list[str] = []
    missing: list[str]
    problem: str


class Error(Document, frozen=True, kw_only=True):
    """A refusal: one word for programs, a sentence for people."""

    reason: str
    message: str
