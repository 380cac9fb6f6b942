"""Which images go when their disk is full, or when nobody has used them for long (kubelet-contract section 9). Pure.

The kubelet's rules (pkg/kubelet/images/image_gc_manager.go): what is used is counted from the pods; the ages are of
what this process saw, so that a restart of the agent begins them anew.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Disk", "Lives", "Policy"]

_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What an operator may say about unused images; the names are those of KubeletConfiguration.

    Attributes:
        high_percent: imageGCHighThresholdPercent: from this use of the disk on, unused images go. Default 85; with 100
            and no maximum age, none ever goes.
        low_percent: imageGCLowThresholdPercent: they go until the disk's use is this. Default 80.
        minimum_age_seconds: imageMinimumGCAge: images that came later stay. Default 120.
        maximum_age_seconds: imageMaximumGCAge: images that nobody used for longer go, however empty the disk is. 0,
            the default, is for ever.
        pinned: Globs of references that stay whatever happens (those of a node without a network, say). Default none.
    """

    high_percent: int = 85
    low_percent: int = 80
    minimum_age_seconds: float = 120.0
    maximum_age_seconds: float = 0.0
    pinned: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.low_percent < self.high_percent <= 100:
            raise ValueError(
                f"the low threshold of image garbage collection ({self.low_percent} %) must be below the high one "
                f"({self.high_percent} %), and both from 0 to 100"
            )
        if 0 < self.maximum_age_seconds <= self.minimum_age_seconds:
            raise ValueError("the maximum age of unused images must be more than the minimum one")

    @property
    def is_off(self) -> bool:
        """Whether no image ever goes."""
        return self.high_percent == 100 and self.maximum_age_seconds == 0

    def is_pinned(self, name: str) -> bool:
        """Whether an image stays whatever happens."""
        return any(fnmatch.fnmatchcase(name, each) for each in self.pinned)


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the image store, in bytes."""

    capacity_bytes: int
    available_bytes: int

    @property
    def used_percent(self) -> int:
        """As the kubelet counts it: what is not available, rounded up."""
        return 100 - self.available_bytes * 100 // self.capacity_bytes

    def excess_bytes(self, policy: Policy) -> int:
        """How many bytes have to go; 0 while the high threshold is not reached."""
        if self.used_percent < policy.high_percent:
            return 0
        return max(0, self.capacity_bytes * (100 - policy.low_percent) // 100 - self.available_bytes)

    def insufficient(self, freed_bytes: int) -> str:
        """The message of the event FreeDiskSpaceFailed."""
        return (
            f"Insufficient free disk space on the node's image filesystem ({self.used_percent}% of "
            f"{_shown(self.capacity_bytes)} used). Failed to free sufficient space by deleting unused images (freed "
            f"{freed_bytes} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or "
            "other data."
        )


@dataclass(slots=True)
class _Life:
    """When an image was first seen, and last seen in use (None: never)."""

    detected: float
    used: float | None = None


class Lives:
    """What is known of each image in the store. Times are of one monotonic clock."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._lives: dict[str, _Life] = {}

    def look(self, images: Mapping[str, bool], now: float) -> None:
        """These are in the store; the value says whether somebody uses one."""
        self._lives = {name: self._lives.get(name) or _Life(now) for name in images}
        for name, is_used in images.items():
            if is_used:
                self._lives[name].used = now

    def old(self, now: float) -> list[str]:
        """Those that nobody used for longer than the maximum age."""
        limit = self._policy.maximum_age_seconds
        return [name for name in self._unused(now) if limit and now - self._since(name) > limit]

    def removable(self, now: float) -> list[str]:
        """Those that may go for space: whose last use is longest ago first, and never used ones before all others."""
        limit = self._policy.minimum_age_seconds
        return [name for name in self._unused(now) if now - self._lives[name].detected >= limit]

    def _unused(self, now: float) -> list[str]:
        names = [name for name, life in self._lives.items() if life.used != now and not self._policy.is_pinned(name)]
        return sorted(names, key=self._last)

    def _last(self, name: str) -> tuple[float, float]:
        life = self._lives[name]
        return float("-inf") if life.used is None else life.used, life.detected

    def _since(self, name: str) -> float:
        life = self._lives[name]
        return life.detected if life.used is None else life.used


def _shown(count: int) -> str:
    """As Go's formatSize: `40.6 GiB`."""
    size, unit = float(count), 0
    while size >= 1024 and unit < len(_SIZES) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_SIZES[unit]}" if unit else f"{count} B"
