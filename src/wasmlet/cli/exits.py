"""Which exit status stands for what, as shells and container tools have it (bash(1), docker-run(1)).

A container's own status is passed on as it is. Otherwise: 1 a command that could not do what was asked, also since
somebody else refuses it; 2 wrong arguments or an unusable manifest; 125 the pod could not be started, by no fault of
its program; 126 its program cannot be run; 127 its program or image is not there.
"""

from __future__ import annotations

from wasmlet.base.errors import Fault, NotFoundError, WasmletError

FAILED = 1
USAGE = 2
NOT_STARTED = 125
NOT_RUNNABLE = 126
NOT_FOUND = 127
INTERRUPTED = 130


def exit_status(error: WasmletError) -> int:
    """The status of a command that ended with `error`."""
    if error.fault is Fault.GUEST:
        return NOT_RUNNABLE
    if isinstance(error, NotFoundError):
        return FAILED
    return USAGE if error.fault is Fault.USER else FAILED


def start_status(*, fault: str, not_found: bool) -> int:
    """The status of a run whose container could not be started.

    Args:
        fault: The owner of the failure (`Fault` value).
        not_found: The image or file is not there.
    """
    if fault == Fault.GUEST.value:
        return NOT_RUNNABLE
    return NOT_FOUND if not_found else NOT_STARTED


def process_status(code: int) -> int:
    """A container's exit code as a process can give it: the low eight bits, and never 0 for a failure."""
    return code & 0xFF or (1 if code else 0)
