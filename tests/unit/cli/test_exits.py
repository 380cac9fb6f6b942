"""Exit statuses."""

import pytest

from wasmlet.base.errors import ConflictError, GuestError, NotFoundError, RetryableError, UserError, WasmletError
from wasmlet.cli.exits import exit_status, process_status, start_status
from wasmlet.images.failures import failure


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GuestError("m"), 126),
        (NotFoundError("m"), 1),
        (UserError("m"), 2),
        (ConflictError("m"), 2),
        (RetryableError("m"), 1),
        (WasmletError("m"), 1),
        (failure(401, what="i", registry="r"), 1),
        (failure(403, what="i", registry="r"), 1),
        (failure(400, what="i", registry="r"), 1),
    ],
)
def test_errors(error: WasmletError, status: int) -> None:
    assert exit_status(error) == status


@pytest.mark.parametrize(
    ("fault", "not_found", "status"),
    [
        ("guest", False, 126),
        ("guest", True, 126),
        ("user", True, 127),
        ("user", False, 125),
        ("cluster", False, 125),
        ("wasmlet", False, 125),
    ],
)
def test_starts(fault: str, not_found: bool, status: int) -> None:
    assert start_status(fault=fault, not_found=not_found) == status


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (255, 255), (256, 1), (257, 1), (-1, 255), (512, 1)])
def test_processes(code: int, status: int) -> None:
    assert process_status(code) == status
