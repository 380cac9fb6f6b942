"""Which HTTP status stands for an error, in both APIs."""

from __future__ import annotations

from wasmlet.base.errors import ConflictError, NotFoundError, RetryableError, UserError, WasmletError

__all__ = ["http_status"]

_STATUS: tuple[tuple[type[WasmletError], int], ...] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (UserError, 400),
    (RetryableError, 503),
    (WasmletError, 500),
)


def http_status(error: WasmletError) -> int:
    """The status that stands for an error; the one place that says so."""
    return next(code for kind, code in _STATUS if isinstance(error, kind))
