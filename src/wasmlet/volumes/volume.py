"""The room's one noun: a volume as the host sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["HostVolume"]


@dataclass(frozen=True)
class HostVolume:
    """A pod's volume, set up.

    Attributes:
        path: Host directory, or for a hostPath of a file that file; without links.
        read_only: No container may write, whatever its mount says (configMap, secret, projected, downwardAPI).
        foreign: The directory is not the agent's (hostPath): the pod needs an engine of its own, since the rules of a
            shared engine are fixed before the path is known (design section 3).
    """

    path: Path
    read_only: bool
    foreign: bool
