"""What a .wasm file is: asked of a short-lived process of the engine, which reads it and compiles nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from wasmlet.base.errors import NotFoundError, RetryableError, UserError
from wasmlet.sandbox import protocol
from wasmlet.sandbox.refusals import error_from

TIMEOUT_SECONDS = 60.0
"""Validating a component of 70 MB takes a second."""


def inspect(module: Path, *, program: Path) -> protocol.Inspected:
    """Kind, imports, exports, WASI and size of `module`; `program` is the engine's.

    Raises:
        NotFoundError: There is no such file.
        UserError: It cannot be read.
        GuestError: It is no WebAssembly, or broken.
        RetryableError: The engine's process ended without an answer.
    """
    try:
        source = module.open("rb")
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {module}") from None
    except OSError as error:
        raise UserError(f"cannot read {module}: {error.strerror or error}") from error
    with source:
        try:
            ended = subprocess.run(
                [program, "inspect"], stdin=source, capture_output=True, timeout=TIMEOUT_SECONDS, env={}, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RetryableError(f"cannot inspect {module}: {error}") from error
    try:
        if ended.returncode == 0:
            return msgspec.json.decode(ended.stdout, type=protocol.Inspected)
        refusal = error_from(msgspec.json.decode(ended.stdout, type=protocol.Error), what=f"inspection of {module}")
    except msgspec.DecodeError:
        raise RetryableError(f"the engine's process ended with {ended.returncode} on {module}") from None
    raise refusal
