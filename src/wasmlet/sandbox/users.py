"""A range of the machine's users that is wasmlet's: each pool of engines has one of them, and the group of its number.

The numbers need no names and no entries in /etc/passwd. The default lies above what systemd, useradd and the usual
ranges of subordinate users take, and below what a signed number holds.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from wasmlet.base.errors import RetryableError, UserError

__all__ = ["DEFAULT", "HIGHEST", "Range", "parse", "problem"]

HIGHEST = 2**31 - 1
"""Kubernetes knows no higher ids."""

NONE = "none"
CAPABILITIES = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_SETGID": 6, "CAP_SETUID": 7}
"""What an agent needs of them: linux/capability.h."""

PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Range:
    """`count` numbers from `first` on, of users and of groups."""

    first: int
    count: int

    def __str__(self) -> str:
        return f"{self.first}:{self.count}"

    def __contains__(self, number: int) -> bool:
        return self.first <= number < self.first + self.count

    def free(self, taken: Container[int], *, after: int) -> int:
        """A number that is not taken, the first one after `after`: what was given back rests as long as possible.

        Raises:
            RetryableError: There is none.
        """
        end = self.first + self.count
        start = after + 1 if after in self else self.first
        numbers = itertools.chain(range(start, end), range(self.first, start))
        found = next((number for number in numbers if number not in taken), None)
        if found is None:
            raise RetryableError(
                f"all {self.count} users of {self} are given to pools of engines",
                hint="remove pods, or set uid-range to a larger range",
            )
        return found


DEFAULT = Range(1_880_000_000, 65_536)


def parse(text: str) -> Range | None:
    """The range that `uid-range` says; None: engines have no users of their own.

    Raises:
        UserError: It is neither FIRST:COUNT nor none.
    """
    if text in ("", NONE):
        return None if text else DEFAULT
    found = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text)
    made = Range(int(found[1]), int(found[2])) if found else None
    if made is None or made.first < 1 or made.count < 1 or made.first + made.count - 1 > HIGHEST:
        raise UserError(f"uid-range {text!r} is no range", hint="say FIRST:COUNT, such as 1880000000:65536, or none")
    return made


def problem(users: Range, state: Path, *, process: Path = PROCESS) -> str:
    """Why engines of the state directory cannot have these users here; "" when they can."""
    if os.geteuid() != 0:
        return "the agent is not root"
    for name in ("uid_map", "gid_map"):
        if not _is_mapped(users, (process / name).read_text()):
            return f"the agent's user namespace does not have {users} ({name})"
    missing = [name for name, bit in CAPABILITIES.items() if not _effective(process) >> bit & 1]
    if missing:
        return f"the agent lacks {', '.join(missing)}"
    closed = next((each for each in state.parents if each.is_dir() and not each.stat().st_mode & 0o001), None)
    if closed is not None:
        return f"{closed}, above the state directory, is closed to other users"
    return _refusal(users, state)


def _is_mapped(users: Range, table: str) -> bool:
    lines = ([int(word) for word in line.split()] for line in table.splitlines())
    return any(first <= users.first and users.first + users.count <= first + count for first, _, count in lines)


def _effective(process: Path) -> int:
    lines = (process / "status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("CapEff")), 16)


def _refusal(users: Range, state: Path) -> str:
    """What the file system says to a file of another group."""
    probe = state / f".group-{os.getpid()}"
    try:
        probe.touch(mode=0o600)
        os.chown(probe, -1, users.first)
    except OSError as error:
        return f"{state} cannot hold files of other groups: {error.strerror}"
    finally:
        probe.unlink(missing_ok=True)
    return ""
