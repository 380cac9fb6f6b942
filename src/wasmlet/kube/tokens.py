"""Service-account tokens for pods: asked for, kept, renewed before their end (contract section 6.3)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from wasmlet.base import clock
from wasmlet.base.clock import Clock
from wasmlet.base.errors import RetryableError, WasmletError
from wasmlet.kube.client import Client
from wasmlet.kube.patience import GRACE_SECONDS, while_forbidden
from wasmlet.kube.resources import Resource
from wasmlet.kube.types import Leaf, Node, ObjectMeta

__all__ = ["SERVICE_ACCOUNTS", "Token", "TokenRequest", "TokenSource"]

logger = logging.getLogger(__name__)

RENEWAL_SHARE: Final = 0.8
MAX_AGE_SECONDS: Final = 24 * 3600.0
JITTER_SECONDS: Final = 10.0
"""All three as in the kubelet's token manager."""

RETRY_SECONDS: Final = 10.0
"""How soon a failed renewal is tried again; the old token is given meanwhile."""


class BoundObjectReference(Leaf):
    """The pod that a token dies with."""

    kind: str = ""
    api_version: str = ""
    name: str = ""
    uid: str = ""


class TokenRequestSpec(Node):
    """What is asked for; without audiences the API server's own."""

    audiences: list[str] = []
    expiration_seconds: int | None = None
    bound_object_ref: BoundObjectReference | None = None


class TokenRequestStatus(Leaf):
    """What was given."""

    token: str = ""
    expiration_timestamp: str = ""

    def __repr__(self) -> str:
        return f"TokenRequestStatus(expiration_timestamp={self.expiration_timestamp!r})"


class TokenRequest(Node):
    """authentication.k8s.io/v1 TokenRequest."""

    api_version: str = "authentication.k8s.io/v1"
    kind: str = "TokenRequest"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: TokenRequestSpec = msgspec.field(default_factory=TokenRequestSpec)
    status: TokenRequestStatus = msgspec.field(default_factory=TokenRequestStatus)


class ServiceAccount(Node):
    """v1 ServiceAccount, as much as a node needs."""

    api_version: str = "v1"
    kind: str = "ServiceAccount"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


SERVICE_ACCOUNTS: Final = Resource(ServiceAccount, "v1", "serviceaccounts")


@dataclass(frozen=True, slots=True)
class Token:
    """A token and its end, seconds since the epoch."""

    value: str = field(repr=False)
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which token: of which account, for which pod and audience.

    Attributes:
        audience: Empty: the API server's.
        expiration_seconds: The life asked for; the server may give another. 3607 is what admission puts in.
    """

    namespace: str
    pod: str
    pod_uid: str
    service_account: str
    audience: str = ""
    expiration_seconds: int = 3607

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What it is kept under."""
        return self.pod_uid, self.service_account, self.audience, self.expiration_seconds


@dataclass(slots=True)
class _Kept:
    token: Token | None = None
    renew_at: float = 0.0
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class TokenSource:
    """The tokens of this node's pods.

    Args:
        forbidden_seconds: How long a 403 is taken for the authorizer's lag. Default 5.
    """

    def __init__(
        self,
        client: Client,
        *,
        now: Clock = clock.system_clock,
        jitter: Callable[[], float] = random.random,
        forbidden_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._client = client
        self._now = now
        self._jitter = jitter
        self._forbidden_seconds = forbidden_seconds
        self._kept: dict[tuple[str, str, str, int], _Kept] = {}

    def __repr__(self) -> str:
        return f"<TokenSource of {len(self._kept)} tokens>"

    async def token(self, wanted: Wanted) -> Token:
        """A token that is good now; callers ask again at each sync of the pod and write what is new.

        Raises:
            NotFoundError: The service account or the pod does not exist.
            RetryableError: The API server is away or refuses, and no earlier token is good.
        """
        kept = self._kept.setdefault(wanted.key, _Kept())
        async with kept.asking:
            now = self._now()
            if kept.token is None or now >= kept.renew_at:
                try:
                    kept.token, kept.renew_at = await self._ask(wanted)
                except WasmletError as error:
                    if kept.token is None or now >= kept.token.expires_at:
                        raise
                    kept.renew_at = now + RETRY_SECONDS
                    logger.warning("token not renewed, the old one is still good: %s", error.message)
            return kept.token

    def release(self, pod_uid: str) -> None:
        """Forget a pod's tokens."""
        for key in [key for key in self._kept if key[0] == pod_uid]:
            del self._kept[key]

    async def _ask(self, wanted: Wanted) -> tuple[Token, float]:
        """A new token, and when to renew it."""
        spec = TokenRequestSpec(
            audiences=[wanted.audience] if wanted.audience else [],
            expiration_seconds=wanted.expiration_seconds,
            bound_object_ref=BoundObjectReference(kind="Pod", api_version="v1", name=wanted.pod, uid=wanted.pod_uid),
        )
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await while_forbidden(
            lambda: self._post(wanted, request),
            seconds=self._forbidden_seconds,
        )
        try:
            expires_at = clock.from_text(answer.status.expiration_timestamp)
        except ValueError:
            expires_at = 0.0
        if not answer.status.token or not expires_at:
            raise RetryableError(f"the API server gave no token for service account {wanted.service_account}")
        life = float(answer.spec.expiration_seconds or wanted.expiration_seconds)
        jitter = self._jitter() * JITTER_SECONDS
        issued_at = expires_at - life
        renew_at = min(issued_at + RENEWAL_SHARE * life, issued_at + MAX_AGE_SECONDS) - jitter
        return Token(answer.status.token, expires_at), renew_at

    async def _post(self, wanted: Wanted, request: dict[str, Any]) -> TokenRequest:
        return await self._client.post_subresource(
            SERVICE_ACCOUNTS,
            wanted.service_account,
            "token",
            request,
            namespace=wanted.namespace,
            answer=TokenRequest,
        )
