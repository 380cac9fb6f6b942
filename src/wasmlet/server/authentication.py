"""Who calls: a verified client certificate, else a bearer token that the API server knows, else nobody.

There is no anonymous caller (kubelet-contract 7.1): whoever is not identified gets 401.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wasmlet.base.clock import Clock, system_clock
from wasmlet.base.errors import WasmletError
from wasmlet.server.caching import Seconds, Verdicts
from wasmlet.server.reviews import Identity, Reviews

logger = logging.getLogger(__name__)

AUTHENTICATED: Final = "system:authenticated"
"""The group of everybody who is identified (apiserver, AuthenticatedGroupAdder)."""

CREDENTIAL_ID: Final = "authentication.kubernetes.io/credential-id"
KNOWN_SECONDS: Final = 120.0
"""authentication.webhook.cacheTTL of a kubelet."""

UNKNOWN_SECONDS: Final = 10.0
"""tokenFailureCacheTTL of kube-apiserver; a kubelet's 2 min would refuse a token long after it became valid."""

KEPT_TOKENS: Final = 4096
PARALLEL_REVIEWS: Final = 16


@dataclass(frozen=True)
class Certificate:
    """A client's certificate that the handshake has verified.

    Attributes:
        fields: As `ssl.SSLSocket.getpeercert` gives them.
        digest: SHA-256 of the DER form, hexadecimal.
    """

    fields: Mapping[str, Any]
    digest: str

    @classmethod
    def of(cls, connection: ssl.SSLObject | ssl.SSLSocket | None) -> Certificate | None:
        """The certificate that was shown and verified on a connection; None when there was none."""
        fields = None if connection is None else connection.getpeercert()
        if connection is None or not fields:
            return None
        content = connection.getpeercert(binary_form=True) or b""
        return cls(fields, hashlib.sha256(content).hexdigest())


class Authenticator:
    """Identifies callers.

    Args:
        audiences: Whom a token must be made for; empty: the API server, as for a kubelet.
        now: For the cache. `clock`: for certificates. Tests pass their own.
    """

    def __init__(
        self,
        reviews: Reviews,
        *,
        audiences: tuple[str, ...] = (),
        now: Seconds = time.monotonic,
        clock: Clock = system_clock,
    ) -> None:
        self._reviews = reviews
        self._audiences = audiences
        self._clock = clock
        self._salt = secrets.token_bytes(32)
        self._tokens: Verdicts[bytes, Identity | None] = Verdicts(
            "token review",
            lifetime=lambda identity: UNKNOWN_SECONDS if identity is None else KNOWN_SECONDS,
            favours=lambda identity: identity is not None,
            size=KEPT_TOKENS,
            parallel=PARALLEL_REVIEWS,
            now=now,
        )

    async def identify(self, certificate: Certificate | None, authorization: str) -> Identity | None:
        """The caller, None when nobody knows it.

        Args:
            certificate: What the handshake verified.
            authorization: The header's value, "" when there is none.
        """
        identity = None if certificate is None else self._of_certificate(certificate)
        if identity is None and (token := bearer_token(authorization)):
            identity = await self._of_token(token)
        return None if identity is None else _among_the_authenticated(identity)

    async def close(self) -> None:
        """Give up the reviews under way."""
        await self._tokens.close()

    def _of_certificate(self, certificate: Certificate) -> Identity | None:
        # A connection may outlive the certificate that opened it.
        if ssl.cert_time_to_seconds(certificate.fields["notAfter"]) <= self._clock():
            return None
        names = list(_subject(certificate.fields))
        common = [value for name, value in names if name == "commonName" and value]
        if not common:
            return None
        groups = tuple(value for name, value in names if name == "organizationName")
        return Identity(common[-1], groups=groups, extra=((CREDENTIAL_ID, (f"X509SHA256={certificate.digest}",)),))

    async def _of_token(self, token: str) -> Identity | None:
        # Salted, so that the memory of this process holds nothing that could be looked up in a table of tokens.
        key = hmac.digest(self._salt, token.encode("utf-8", "surrogateescape"), "sha256")
        try:
            return await self._tokens.ask(
                key, lambda: self._reviews.token(token, audiences=self._audiences), label="a token"
            )
        except WasmletError as error:
            logger.warning("token review failed", extra={"error": str(error)})
            return None


def bearer_token(authorization: str) -> str:
    """The token of an Authorization header; "" when it has none."""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip().partition(" ")[0] if scheme.lower() == "bearer" else ""


def _subject(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for names in fields.get("subject", ()):
        yield from names


def _among_the_authenticated(identity: Identity) -> Identity:
    if AUTHENTICATED in identity.groups:
        return identity
    return Identity(identity.name, identity.uid, (*identity.groups, AUTHENTICATED), identity.extra)
