"""The few error classes, one per decision a caller takes.

A message says what failed, on what, and ends (or goes on in `hint`) with the next step. `fault` names the owner:
the guest's program, the user's input, the cluster (API server, registry, network), or wasmlet itself.
"""

from __future__ import annotations

import enum
from typing import TypeVar

E = TypeVar("E", bound=Exception)


class Fault(enum.Enum):
    """Who has to act so that it works next time."""

    GUEST = "guest"
    USER = "user"
    CLUSTER = "cluster"
    WASMLET = "wasmlet"


class WasmletError(Exception):
    """Base of every error that wasmlet raises on purpose.

    Args:
        message: One sentence: what failed, and on what. Never holds a secret.
        hint: The next step, a line of its own; None when the message says it.
        reason: One CamelCase word for programs, a standard Kubernetes reason where one exists.
    """

    fault = Fault.WASMLET

    def __init__(self, message: str, *, hint: str | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reason = reason or type(self).__name__

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}; {self.hint}"


class UserError(WasmletError):
    """What the user gave cannot be used as it is: do not retry, show it."""

    fault = Fault.USER


class NotFoundError(UserError):
    """The named thing does not exist (a file, a pod, an image, a key): callers may treat it as absence."""


class ConflictError(UserError):
    """Somebody else holds it, or it exists already with other content."""


class RetryableError(WasmletError):
    """It may work later without anybody changing anything (registry away, disk full, engine busy).

    Args:
        retry_after_seconds: The earliest useful moment, when the peer named one; None leaves it to the caller.
    """

    fault = Fault.CLUSTER

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        reason: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, reason=reason)
        self.retry_after_seconds = retry_after_seconds


class GuestError(WasmletError):
    """The guest's program cannot be run (not Wasm, a missing import, a start that traps)."""

    fault = Fault.GUEST


def first_of(errors: BaseExceptionGroup[E]) -> E:
    """The first error of a group of tasks: the others are its siblings' ends."""
    for each in errors.exceptions:
        return first_of(each) if isinstance(each, BaseExceptionGroup) else each
    raise AssertionError("a group is never empty")
