"""What an engine's refusals and silence mean to its callers."""

from __future__ import annotations

from wasmlet.base.errors import ConflictError, GuestError, NotFoundError, RetryableError, WasmletError
from wasmlet.sandbox import protocol

SOCKET_NAME = "engine.sock"


class EngineGoneError(RetryableError):
    """Nobody listens at the engine's socket: its process has ended, and its sandboxes with it."""


class EngineBusyError(RetryableError):
    """The engine is over a budget or ending: another engine has to take the sandbox."""


_GUEST_REASONS = {"NotWasm", "Malformed", "NoEntryPoint", "MissingImport", "CompileMemory", "CompileTime", "Start"}


def error_from(document: protocol.Error, *, what: str) -> WasmletError:
    """The exception for an engine's refusal; one place, so that a reason means one thing everywhere."""
    if document.reason in _GUEST_REASONS:
        return GuestError(document.message, reason=document.reason)
    message = f"{what}: {document.message}"
    if document.reason == "NotFound":
        return NotFoundError(message, reason=document.reason)
    if document.reason == "Conflict":
        return ConflictError(message, reason=document.reason)
    if document.reason == "Busy":
        return EngineBusyError(message, reason=document.reason)
    return WasmletError(message, reason=document.reason)
