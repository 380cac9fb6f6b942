"""What happened to a pod, saved; everything else about it is derived (plan, status).

Facts only grow, but for the attempts of a container: the last and the one before it are kept. They are written by
rename after each step and read back when the agent starts, so a killed agent goes on where it was.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from wasmlet.base.files import read_if_present, write_atomically

FILE_NAME = "facts.json"
LOST_MESSAGE = "The engine that ran this container ended with it"


class Fact(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Base; moments are seconds since the epoch, None means it has not happened."""


class Stopping(Fact):
    """A container's end has begun.

    `reason` is "deleted", "deadline", "disrupted", "unhealthy", "changed" (another image is wanted), "restart-all" or
    "finished" (a sidecar whose pod has ended).
    `pre_stopped_at`: its preStop hook is done, well or not; `signalled_at`: the engine is asked to end the sandbox.
    """

    at: float
    grace_seconds: float
    reason: str
    pre_stopped_at: float | None = None
    signalled_at: float | None = None


class Unhealthy(Fact):
    """A liveness or startup probe has failed for good: the container is to be killed and its policy applies.

    `probe` is "liveness" or "startup"; "postStart" when that hook has failed.
    """

    probe: str
    at: float
    grace_seconds: float | None = None


class Directory(Fact):
    """What an engine opened for a guest at `guest_path`: `relative` below `root`, which no guest can put a link for."""

    guest_path: str
    root: str
    relative: str = ""


class Attempt(Fact):
    """One start of a container. Saved before the engine is asked, so that no start is ever forgotten.

    `number` is the restart count it stands for; `id` the sandbox's id; `engine` the engine's. `probed_started` and
    `probed_ready` are the last verdicts of the startup and readiness probes, so that they outlive the agent.
    `post_started_at`: the postStart hook is done, well or not. `is_outdated`: the pod wants another image by now.
    `leaves_engine`: the operator wants it in an engine of the agent's release.
    The termination message is read from `termination_path` below `termination_root` ("" when there is no file).
    `serves` has the URL of each port on which it serves, or means to. `directories` are those that its guest sees,
    for `exec` (none of an attempt that an earlier release made).
    `working_dir` is where it begins, and `search` its PATH where the image is one of files ("" else), also for `exec`.
    """

    number: int
    id: str
    engine: str
    created_at: float
    image: str = ""
    image_id: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    termination_root: str = ""
    termination_path: str = ""
    serves: list[str] = []
    directories: list[Directory] = []
    working_dir: str = ""
    search: str = ""
    stopping: Stopping | None = None
    post_started_at: float | None = None
    is_outdated: bool = False
    leaves_engine: bool = False
    probed_started: bool = False
    probed_ready: bool = False
    unhealthy: Unhealthy | None = None


class Failure(Fact):
    """A step that failed and is tried again: why, how often in a row, and when next.

    `stage` is "image", "config", "create", "network" or "volumes"; `shown` and `message` are the waiting reason and
    message that the status gives; `error` is what went wrong, whatever the status makes of it later; `cause`
    is the error's own reason (`MissingImport`) and `fault` its owner. `not_found`: an image or object is not there.
    `image`: the one that a volume is of, "" when it is the container's own.
    """

    stage: str
    shown: str
    message: str
    cause: str
    fault: str
    at: float
    count: int
    retry_at: float
    error: str = ""
    not_found: bool = False
    image: str = ""


class ContainerFacts(Fact):
    """A container's last two attempts, its latest failure to start, and its crash back-off (contract 4.6)."""

    attempts: list[Attempt] = []
    failure: Failure | None = None
    back_off_seconds: float = 0.0
    back_off_at: float = 0.0

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def has_started(self) -> bool:
        """Whether a guest of it has ever run."""
        return any(attempt.started_at is not None for attempt in self.attempts)


class Deletion(Fact):
    """Somebody wants the pod to end; the smallest grace seen counts (contract 4.7).

    With `remove`, nothing of the pod is kept once it has ended.
    """

    at: float
    grace_seconds: float
    remove: bool = True


class Verdict(Fact):
    """A pod-level end with its reason: a refusal at admission, a deadline, or the node's own need.

    `grace_seconds` is the longest that the containers have from `at` on; None leaves them the pod's own. `disrupts`:
    the node ends a pod that could have gone on (condition DisruptionTarget, contract 1.5).
    """

    phase: str
    reason: str
    message: str
    at: float
    grace_seconds: float | None = None
    disrupts: bool = False


class Facts(Fact):
    """Everything saved about one pod.

    `runtime_handler` is its RuntimeClass's, looked up when the pod was prepared: the class may be gone since. `pool` is
    what its directories and those of its engines' other pods lie in (`PoolKey.pool`); "" before it was prepared.
    """

    uid: str
    seen_at: float
    pod_ips: list[str] = []
    runtime_handler: str = ""
    pool: str = ""
    admitted_at: float | None = None
    verdict: Verdict | None = None
    volumes_at: float | None = None
    volume_failure: Failure | None = None
    containers: dict[str, ContainerFacts] = {}
    restart_all_at: float | None = None
    deletion: Deletion | None = None
    ended_at: float | None = None
    torn_down_at: float | None = None

    @property
    def pod_ip(self) -> str:
        """The main address, the first of `pod_ips`; "" before there is one."""
        return next(iter(self.pod_ips), "")

    def container(self, name: str) -> ContainerFacts:
        """The facts of a container, made when they are missing."""
        return self.containers.setdefault(name, ContainerFacts())


def sandbox_id(uid: str, container: str, number: int) -> str:
    """The id of an attempt's sandbox, known before the act: hash(pod UID, container name, attempt)."""
    return hashlib.sha256(f"{uid}/{container}/{number}".encode()).hexdigest()[:40]


def save(directory: Path, facts: Facts) -> None:
    """Write the facts of the pod whose directory is `directory`. Raises OSError when the disk is full."""
    write_atomically(directory / FILE_NAME, msgspec.json.encode(facts), mode=0o640)


def load(directory: Path) -> Facts | None:
    """The saved facts; None when there are none, or none that can be read (torn by a power cut)."""
    content = read_if_present(directory / FILE_NAME)
    try:
        return None if content is None else msgspec.json.decode(content, type=Facts)
    except msgspec.DecodeError:
        return None
