"""What the server asks the API server about its callers: who is this token, and may this user do that?

The rest of the room knows only `Reviews`; `ApiReviews` speaks to the API server by one method of its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec

from wasmlet.base.errors import RetryableError

TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105  # a path
ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
REVIEW_SECONDS: Final = 10.0
"""The kubelet's own limit for its webhooks (apiserver, DefaultAuthWebhookRetryBackoff's request timeout)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller, as RBAC sees one.

    Attributes:
        extra: Further attributes as (name, values), sorted; a tuple, so that an identity can be a key.
    """

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Reviews(Protocol):
    """Both reviews raise `WasmletError` when there is no answer; its message never holds the token."""

    async def token(self, token: str, *, audiences: Sequence[str]) -> Identity | None:
        """Whose token it is; None when it is nobody's, or not for one of `audiences` (empty: the API server's own)."""

    async def access(self, identity: Identity, *, verb: str, subresource: str, node: str) -> bool:
        """Whether the identity may do `verb` on `nodes/{subresource}` of the node."""


class Poster(Protocol):
    """The part of `kube.Client` that is needed."""

    async def raw(self, method: str, path: str, *, body: bytes | None = None, what: str = "") -> bytes:
        """The body of a successful answer. Raises WasmletError."""


class _User(msgspec.Struct):
    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class _TokenStatus(msgspec.Struct):
    authenticated: bool = False
    user: _User = msgspec.field(default_factory=_User)
    audiences: list[str] | None = None


class _TokenReview(msgspec.Struct):
    status: _TokenStatus = msgspec.field(default_factory=_TokenStatus)


class _AccessStatus(msgspec.Struct):
    allowed: bool = False
    denied: bool = False


class _AccessReview(msgspec.Struct):
    status: _AccessStatus = msgspec.field(default_factory=_AccessStatus)


_Review = TypeVar("_Review", _TokenReview, _AccessReview)


class ApiReviews:
    """`Reviews` by the API server.

    Args:
        poster: Give it limits of its own (`Client.sharing`): strangers with made-up tokens cause requests, and those
            must not stand before the node's own.
    """

    def __init__(self, poster: Poster, *, timeout_seconds: float = REVIEW_SECONDS) -> None:
        self._poster = poster
        self._timeout_seconds = timeout_seconds

    async def token(self, token: str, *, audiences: Sequence[str]) -> Identity | None:
        """See `Reviews`."""
        spec: dict[str, object] = {"token": token}
        if audiences:
            spec["audiences"] = list(audiences)
        document = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        status = (await self._post(TOKEN_REVIEWS, document, _TokenReview, "review a token")).status
        # A server that knows nothing of audiences names none: its answer says nothing about ours.
        if not status.authenticated or (audiences and not set(audiences) & set(status.audiences or ())):
            return None
        user = status.user
        extra = tuple(sorted((name, tuple(values)) for name, values in (user.extra or {}).items()))
        return Identity(user.username, uid=user.uid, groups=tuple(user.groups or ()), extra=extra)

    async def access(self, identity: Identity, *, verb: str, subresource: str, node: str) -> bool:
        """See `Reviews`."""
        attributes = {"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": node}
        spec: dict[str, object] = {"resourceAttributes": attributes, "user": identity.name}
        spec |= {"uid": identity.uid} if identity.uid else {}
        spec |= {"groups": identity.groups} if identity.groups else {}
        spec |= {"extra": dict(identity.extra)} if identity.extra else {}
        document = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        status = (await self._post(ACCESS_REVIEWS, document, _AccessReview, "review access")).status
        return status.allowed and not status.denied

    async def _post(self, path: str, document: object, kind: type[_Review], what: str) -> _Review:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._poster.raw("POST", path, body=msgspec.json.encode(document), what=what)
            return msgspec.json.decode(answer, type=kind)
        except TimeoutError:
            raise RetryableError(f"cannot {what}: the API server is silent") from None
        except msgspec.DecodeError as error:
            # No chaining: the answer repeats the token.
            problem = type(error).__name__
        raise RetryableError(f"cannot {what}: the API server's answer is not understood ({problem})")
