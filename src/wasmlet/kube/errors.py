"""Answers of the API server that are no success → errors, one class per decision a caller takes.

`NotFoundError` is the one of `base.errors`: absence is the same for files, images and objects.
"""

from __future__ import annotations

from typing import Final

import msgspec

from wasmlet.base.errors import ConflictError, Fault, NotFoundError, RetryableError, WasmletError

__all__ = [
    "RESOURCE_VERSION_TOO_LARGE",
    "AlreadyExistsError",
    "ExpiredError",
    "ForbiddenError",
    "InvalidError",
    "OutdatedError",
    "Status",
    "StatusDetails",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnreachableError",
    "failure",
    "parse_status",
]

MAX_MESSAGE_CHARACTERS: Final = 1024
"""As much as an event's note may have; an admission webhook can write what it likes."""

RESOURCE_VERSION_TOO_LARGE: Final = "ResourceVersionTooLarge"
"""Cause of a 504 when the version asked for is newer than what this API server has seen (apimachinery meta/v1)."""


class StatusCause(msgspec.Struct, gc=False):
    """metav1.StatusCause."""

    reason: str = ""
    message: str = ""
    field: str = ""


class StatusDetails(msgspec.Struct, rename="camel"):
    """metav1.StatusDetails: what it was about."""

    name: str = ""
    kind: str = ""
    retry_after_seconds: int = 0
    causes: list[StatusCause] = []


class Status(msgspec.Struct, rename="camel"):
    """metav1.Status: what the API server says about a request; `status` is Success or Failure."""

    status: str = "Failure"
    message: str = ""
    reason: str = ""
    code: int = 0
    details: StatusDetails | None = None


class AlreadyExistsError(ConflictError):
    """An object of that name exists (409): read it, do not create."""


class OutdatedError(ConflictError):
    """The object changed since it was read, or is not the one that was meant: read it again, decide again (409)."""


class ExpiredError(WasmletError):
    """The resourceVersion or the `continue` token is too old for the server (410): list from the beginning."""

    fault = Fault.CLUSTER


class ForbiddenError(RetryableError):
    """Our identity may not (403). Just after a pod was bound it often may a moment later (contract section 13)."""


class UnauthorizedError(RetryableError):
    """The API server does not know us (401): the credentials must change before it can work."""


class UnreachableError(RetryableError):
    """The API server is not there: its name, the connection or TLS failed, or it hung up without an answer."""


class TooManyRequestsError(RetryableError):
    """The server has no capacity for it just now (429), or a disruption budget refuses an eviction."""


class InvalidError(WasmletError):
    """The server does not accept what we sent (400, 405, 406, 413, 415, 422): the same again fails again."""


_DECODER: Final = msgspec.json.Decoder(Status)

_BY_REASON: Final[dict[str, type[WasmletError]]] = {
    "AlreadyExists": AlreadyExistsError,
    "Expired": ExpiredError,
    "Gone": ExpiredError,
}
_BY_CODE: Final[dict[int, type[WasmletError]]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    408: RetryableError,
    409: OutdatedError,
    410: ExpiredError,
    429: TooManyRequestsError,
}
_HINTS: Final[dict[type[WasmletError], str]] = {
    UnauthorizedError: "check the credentials of the kubeconfig; an expired certificate or token looks like this",
    ForbiddenError: "a node's rights come from the Node authorizer (user system:node:{name}) and from RBAC",
}


def parse_status(content: bytes | msgspec.Raw) -> Status | None:
    """The Status document in `content`; None when it is something else (a proxy's page, say)."""
    try:
        return _DECODER.decode(content)
    except msgspec.DecodeError:
        return None


def failure(code: int, status: Status | None, *, what: str, retry_after_seconds: float | None = None) -> WasmletError:
    """The error for an answer that is not a success.

    Args:
        code: The HTTP status, or the `code` of a Status that came in a watch.
        status: What the server said about it; None when it said nothing that can be read.
        what: Verb and object, as in `get pods default/web`.
        retry_after_seconds: The Retry-After header; the Status' own is taken when there is none.
    """
    reason = status.reason if status is not None else ""
    said = _shortened(status.message) if status is not None else ""
    message = f"cannot {what}: {said or f'the API server answered with status {code}'}"
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code) or (RetryableError if code >= 500 else InvalidError)
    name = _reason(status) or kind.__name__.removesuffix("Error")
    if kind is InvalidError and _is_another_object(status):
        kind, name = OutdatedError, "Conflict"
    hint = _HINTS.get(kind)
    if not issubclass(kind, RetryableError):
        return kind(message, hint=hint, reason=name)
    if retry_after_seconds is None and status is not None and status.details is not None:
        retry_after_seconds = status.details.retry_after_seconds or None
    return kind(message, hint=hint, reason=name, retry_after_seconds=retry_after_seconds)


def _reason(status: Status | None) -> str:
    """The server's word for it; the cause where that decides more than the reason."""
    if status is None:
        return ""
    causes = status.details.causes if status.details is not None else []
    too_large = any(cause.reason == RESOURCE_VERSION_TOO_LARGE for cause in causes)
    return RESOURCE_VERSION_TOO_LARGE if too_large else status.reason


def _is_another_object(status: Status | None) -> bool:
    """Whether a patch named a uid that the object does not have; unlike PUT and DELETE that is a 422, not a 409."""
    causes = status.details.causes if status is not None and status.details is not None else []
    return any(cause.field == "metadata.uid" for cause in causes)


def _shortened(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= MAX_MESSAGE_CHARACTERS else line[: MAX_MESSAGE_CHARACTERS - 1] + "…"
