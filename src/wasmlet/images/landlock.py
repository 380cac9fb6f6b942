"""What a helper of the images room gives up before it reads what strangers made: every file but a few, and TCP.

The kernel's Landlock, by three system calls without a binding in Python (linux/landlock.h). What holds the process now
can never be widened. Where the kernel has none, the user's rights are all that hold it; engines tell that of a machine
(docs/reference/confinement.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["confine", "interpreter"]

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_ASKS_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38

_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_RIGHTS: Final = (0, 13, 14, 15, 15, 16)
"""How many rights over files each version knows, from 0; later ones know no more of what matters here."""

_WRITING: Final = sum(1 << bit for bit in (1, 2, 3, 4, 5, 7, 8, 12, 13, 14))
"""Regular files, directories and links: to read, write, remove, make, move and truncate."""

_NETWORK_VERSION: Final = 4
_SCOPE_VERSION: Final = 6
_TCP: Final = 0b11  # bind and connect
_SCOPES: Final = 0b11  # abstract sockets and signals


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def interpreter() -> list[Path]:
    """Where modules that Python has not imported yet, and the libraries of these, may lie."""
    places = [*sys.path, sys.prefix, sys.base_prefix, "/usr/lib", "/lib", "/lib64", "/etc/ld.so.cache"]
    return [Path(each) for each in places if each and os.path.exists(each)]


def confine(*, read: Iterable[Path], write: Path) -> bool:
    """Hold this process to those files and directories, with all that is below; False where the kernel cannot.

    Args:
        read: What is not there is passed over.

    Raises:
        OSError: `write` is not there, or the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASKS_VERSION)
    if version <= 0:
        return False
    handled = (1 << _RIGHTS[min(version, len(_RIGHTS) - 1)]) - 1
    network, scopes = _TCP * (version >= _NETWORK_VERSION), _SCOPES * (version >= _SCOPE_VERSION)
    asked = _Ruleset(handled, network, scopes)
    size = 8 * (1 + bool(network) + bool(scopes))
    rules = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(asked), ctypes.c_size_t(size), 0))
    try:
        for path in filter(os.path.exists, read):
            _allow(libc, rules, path, _READ_FILE | (_READ_DIR if path.is_dir() else 0))
        _allow(libc, rules, write, _WRITING & handled)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)
    return True


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(rights, descriptor)
        _checked(libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(descriptor)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot apply Landlock: {os.strerror(number)}")
    return result
