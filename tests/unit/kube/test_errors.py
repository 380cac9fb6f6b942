"""The one table from answers to errors."""

import pytest

from wasmlet.base.errors import ConflictError, Fault, NotFoundError, RetryableError, UserError, WasmletError
from wasmlet.kube.errors import (
    AlreadyExistsError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    OutdatedError,
    Status,
    StatusCause,
    StatusDetails,
    TooManyRequestsError,
    UnauthorizedError,
    failure,
    parse_status,
)


@pytest.mark.parametrize(
    ("code", "reason", "expected", "fault"),
    [
        (400, "BadRequest", InvalidError, Fault.WASMLET),
        (401, "Unauthorized", UnauthorizedError, Fault.CLUSTER),
        (403, "Forbidden", ForbiddenError, Fault.CLUSTER),
        (404, "NotFound", NotFoundError, Fault.USER),
        (405, "MethodNotAllowed", InvalidError, Fault.WASMLET),
        (408, "Timeout", RetryableError, Fault.CLUSTER),
        (409, "Conflict", OutdatedError, Fault.USER),
        (409, "AlreadyExists", AlreadyExistsError, Fault.USER),
        (410, "Gone", ExpiredError, Fault.CLUSTER),
        (410, "Expired", ExpiredError, Fault.CLUSTER),
        (413, "RequestEntityTooLarge", InvalidError, Fault.WASMLET),
        (415, "UnsupportedMediaType", InvalidError, Fault.WASMLET),
        (422, "Invalid", InvalidError, Fault.WASMLET),
        (429, "TooManyRequests", TooManyRequestsError, Fault.CLUSTER),
        (500, "InternalError", RetryableError, Fault.CLUSTER),
        (502, "", RetryableError, Fault.CLUSTER),
        (503, "ServiceUnavailable", RetryableError, Fault.CLUSTER),
        (504, "Timeout", RetryableError, Fault.CLUSTER),
    ],
)
def test_every_answer_has_its_error(code: int, reason: str, expected: type[WasmletError], fault: Fault) -> None:
    for status in (None, Status(reason=reason, message="it said so", code=code)):
        if status is None and reason == "AlreadyExists":
            continue  # without a word it can only be a conflict
        error = failure(code, status, what="get pods default/web")
        assert type(error) is expected
        assert error.fault is fault
        assert error.message.startswith("cannot get pods default/web: ")
        assert ("it said so" if status else str(code)) in error.message
        if status and reason:
            assert error.reason == reason


def test_both_conflicts_are_conflicts() -> None:
    assert issubclass(OutdatedError, ConflictError)
    assert issubclass(AlreadyExistsError, ConflictError)
    assert not issubclass(AlreadyExistsError, OutdatedError)
    assert not issubclass(ExpiredError, UserError)


def test_the_moment_to_come_again_is_kept() -> None:
    told = Status(reason="TooManyRequests", details=StatusDetails(retry_after_seconds=7))
    by_status, by_header = failure(429, told, what="x"), failure(429, told, what="x", retry_after_seconds=3.0)
    assert isinstance(by_status, RetryableError)
    assert isinstance(by_header, RetryableError)
    assert (by_status.retry_after_seconds, by_header.retry_after_seconds) == (7, 3.0)


def test_a_version_from_the_future_is_told_by_its_cause() -> None:
    details = StatusDetails(causes=[StatusCause(reason="ResourceVersionTooLarge")])
    assert failure(504, Status(reason="Timeout", details=details), what="x").reason == "ResourceVersionTooLarge"


def test_a_patch_of_another_object_is_outdated() -> None:
    details = StatusDetails(causes=[StatusCause(field="metadata.uid", message="field is immutable")])
    error = failure(422, Status(reason="Invalid", details=details), what="x")
    assert type(error) is OutdatedError
    assert error.reason == "Conflict"


def test_long_words_are_cut_and_have_one_line() -> None:
    message = failure(422, Status(message="a\nb " * 5000), what="x").message
    assert len(message) < 1100
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"code":"no number"}', b"\xff"])
def test_what_is_no_status_is_none(content: bytes) -> None:
    assert parse_status(content) is None


def test_a_status_is_read_as_far_as_it_is_known() -> None:
    status = parse_status(b'{"kind":"Status","status":"Failure","code":403,"details":{"name":"x","group":"g"},"new":1}')
    assert status is not None
    assert (status.code, status.details and status.details.name) == (403, "x")
