"""Statuses → errors, and what may be shown of a registry's own words."""

import json
from datetime import UTC, datetime

import pytest

from wasmlet.base.errors import NotFoundError, RetryableError, WasmletError
from wasmlet.images.credentials import Credential
from wasmlet.images.failures import RefusedError, detail_of, failure, retry_after
from wasmlet.images.transport import PassingError, RegistryError

ALICE = Credential("host", "alice", "s3cret")
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "login", "kind", "words"),
    [
        (401, None, RefusedError, ["host wants a login", "imagePullSecrets"]),
        (401, ALICE, RefusedError, ["refused the credentials of alice", "password"]),
        (403, None, RefusedError, ["denies anonymous users", "right"]),
        (403, ALICE, RefusedError, ["denies alice"]),
        (404, ALICE, NotFoundError, ["is not in host", "name and tag"]),
        (429, ALICE, PassingError, ["limits the rate", "log in"]),
        (500, ALICE, PassingError, ["status 500"]),
        (503, ALICE, PassingError, ["status 503"]),
        (501, ALICE, RetryableError, ["status 501"]),
        (400, ALICE, RegistryError, ["status 400"]),
        (302, ALICE, RegistryError, ["status 302"]),
    ],
)
def test_each_status_says_what_on_which_image_and_what_to_do(
    status: int, login: Credential | None, kind: type[WasmletError], words: list[str]
) -> None:
    error = failure(status, what="image host/x:1", registry="host", login=login, detail="DENIED: no")
    assert type(error) is kind
    for word in [*words, "image host/x:1", "(DENIED: no)"]:
        assert word in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ({"errors": [{"code": "DENIED", "message": "no access"}]}, "DENIED: no access"),
        ({"errors": [{"code": "DENIED"}]}, "DENIED"),
        ({"errors": [{"message": "you sent s3cret"}]}, "you sent ***"),
        (
            {"errors": [{"message": "header was Basic YWxpY2U6czNjcmV0 and bearer abc.def"}]},
            "header was Basic *** and bearer ***",
        ),
        ({"errors": [{"message": "\x1b[31mred\n"}]}, "?[31mred?"),
        ({"errors": []}, ""),
        ({"errors": [7]}, ""),
        ([], ""),
    ],
)
def test_a_registry_s_words_are_shown_without_secrets(content: object, shown: str) -> None:
    assert detail_of(json.dumps(content).encode(), ("s3cret", "")) == shown


def test_a_body_that_is_no_error_document_is_not_shown() -> None:
    assert detail_of(b"<html>Bad gateway</html>", ()) == ""
    assert len(detail_of(json.dumps({"errors": [{"message": "x" * 9999}]}).encode(), ())) == 257


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds
