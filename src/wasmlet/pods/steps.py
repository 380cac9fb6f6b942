"""The steps that a pod's life is made of: what the plan asks for, and the worker does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Admit:
    """Check the pod against what this node can run; saves either `admitted_at` or a verdict."""


@dataclass(frozen=True)
class Prepare:
    """Make the pod's directories and volumes and give it its address; saves `volumes_at`."""


@dataclass(frozen=True)
class Start:
    """Start a container: image, artifact, environment, root, sandbox; saves an attempt before the engine is asked."""

    container: str
    number: int


@dataclass(frozen=True)
class BackOffFailure:
    """Say that a failed step waits for its next try (ErrImagePull becomes ImagePullBackOff)."""

    container: str


@dataclass(frozen=True)
class Stop:
    """Begin a container's end, or shorten its grace: from now on its preStop hook runs; saves `stopping`."""

    container: str
    grace_seconds: float
    reason: str


@dataclass(frozen=True)
class Signal:
    """Ask a container's sandbox to end within what is left of the grace; saves `signalled_at` before it is asked."""

    container: str
    grace_seconds: float


@dataclass(frozen=True)
class RestartAll:
    """A restart rule asks for a new round of all containers; saves `restart_all_at`."""


@dataclass(frozen=True)
class Expire:
    """activeDeadlineSeconds are over; saves the verdict."""


@dataclass(frozen=True)
class End:
    """Every container has ended for good; saves `ended_at`, after which the phase is final."""


@dataclass(frozen=True)
class TearDown:
    """Unmount volumes and remove what the pod's containers had; saves `torn_down_at`."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do until a moment (None: until something happens)."""

    until: float | None = None


Step = Admit | Prepare | Start | BackOffFailure | Stop | Signal | RestartAll | Expire | End | TearDown | Wait
