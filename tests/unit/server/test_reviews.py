"""Reviews as they go to the API server."""

import asyncio
from typing import Any

import msgspec
import pytest

from wasmlet.base.errors import RetryableError, WasmletError
from wasmlet.server.reviews import ApiReviews, Identity


class ApiServer:
    """Gives one answer, and keeps what it was asked."""

    def __init__(self, **status: Any) -> None:
        self.answer = msgspec.json.encode({"kind": "Review", "spec": {"token": "t0k3n"}, "status": status})
        self.error: Exception | None = None
        self.path = ""
        self.document: Any = None

    async def raw(self, method: str, path: str, *, body: bytes | None = None, what: str = "") -> bytes:
        assert method == "POST"
        self.path, self.document = path, msgspec.json.decode(body or b"")
        if self.error is not None:
            raise self.error
        return self.answer


async def token(server: ApiServer, *audiences: str) -> Identity | None:
    return await ApiReviews(server).token("t0k3n", audiences=audiences)


async def test_a_token_that_is_known() -> None:
    user = {"username": "jane", "uid": "1", "groups": ["a", "b"], "extra": {"y": ["2", "1"], "x": []}}
    server = ApiServer(authenticated=True, user=user)
    assert await token(server) == Identity("jane", "1", ("a", "b"), (("x", ()), ("y", ("2", "1"))))
    assert server.path == "/apis/authentication.k8s.io/v1/tokenreviews"
    assert server.document == {
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "t0k3n"},
    }  # fmt: skip


async def test_go_writes_null_for_nothing() -> None:
    server = ApiServer(authenticated=True, audiences=None, user={"username": "jane", "groups": None, "extra": None})
    assert await token(server) == Identity("jane")


async def test_a_token_that_is_not_known() -> None:
    assert await token(ApiServer(error="token has expired", user={})) is None
    assert await token(ApiServer()) is None


async def test_audiences() -> None:
    server = ApiServer(authenticated=True, user={"username": "jane"}, audiences=["api", "vault"])
    assert await token(server, "vault", "x") == Identity("jane")
    assert server.document["spec"]["audiences"] == ["vault", "x"]
    assert await token(server, "other") is None
    assert await token(ApiServer(authenticated=True, user={"username": "jane"}), "other") is None


async def access(server: ApiServer, identity: Identity) -> bool:
    return await ApiReviews(server).access(identity, verb="get", subresource="proxy", node="n1")


async def test_access() -> None:
    server = ApiServer(allowed=True)
    assert await access(server, Identity("jane", "1", ("a",), (("x", ("1",)),)))
    assert server.path == "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert server.document["spec"] == {
        "resourceAttributes": {
            "verb": "get", "version": "v1", "resource": "nodes", "subresource": "proxy", "name": "n1",
        },
        "user": "jane", "uid": "1", "groups": ["a"], "extra": {"x": ["1"]},
    }  # fmt: skip


@pytest.mark.parametrize(
    "status", [{}, {"allowed": False}, {"allowed": False, "denied": True}, {"allowed": True, "denied": True}]
)
async def test_no_access(status: dict[str, bool]) -> None:
    assert not await access(ApiServer(**status), Identity("jane"))


@pytest.mark.parametrize(
    "answer", [b"", b"<html>t0k3n</html>", b'{"status": 5, "t0k3n": 1}', b'{"status":{"user":"t0k3n"}}']
)
async def test_an_answer_that_is_none(answer: bytes) -> None:
    server = ApiServer()
    server.answer = answer
    with pytest.raises(RetryableError) as caught:
        await token(server)
    assert "t0k3n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_an_api_server_that_refuses_or_is_silent() -> None:
    server = ApiServer()
    server.error = WasmletError("cannot review a token: no")
    with pytest.raises(WasmletError, match="no"):
        await token(server)

    class Silent(ApiServer):
        async def raw(self, method: str, path: str, *, body: bytes | None = None, what: str = "") -> bytes:
            await asyncio.sleep(60)
            return b""

    with pytest.raises(RetryableError, match="silent"):
        await ApiReviews(Silent(), timeout_seconds=0.01).token("t0k3n", audiences=())
