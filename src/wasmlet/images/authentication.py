"""Logging in at registries: a 401's challenge → an Authorization header (RFC 7617 basic, distribution's token spec)."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from wasmlet.base.errors import RetryableError
from wasmlet.images.credentials import Credential
from wasmlet.images.failures import failure_of, login_refused
from wasmlet.images.hosts import Endpoint
from wasmlet.images.transport import Progress, RegistryError, Request, Transport

MAX_TOKEN_BYTES: Final = 1 << 20
DEFAULT_TOKEN_SECONDS: Final = 60  # distribution's token spec: when expires_in is not given
_TOKEN_MARGIN_SECONDS: Final = 10
_MAX_TOKENS: Final = 1024
_PARAMETER: Final = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')
_SCHEME: Final = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in that a registry offers; scheme and parameter names are in lower case."""

    scheme: str
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a login is for.

    Attributes:
        registry: As the reference names it.
        actions: `pull` or `pull,push`.
    """

    registry: str
    repository: str
    actions: str

    def __str__(self) -> str:
        return f"repository:{self.repository}:{self.actions}"


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    expires_at: float


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of `WWW-Authenticate` headers (RFC 9110 11.6.1); what cannot be read is left out."""
    challenges: list[Challenge] = []
    for header in headers:
        position = 0
        while match := _SCHEME.match(header, position):
            position = match.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(header, position):
                quoted, plain = parameter[2], parameter[3]
                parameters[parameter[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
                position = parameter.end()
            challenges.append(Challenge(match[1].lower(), parameters))
    return challenges


class Authenticator:
    """Turns challenges into headers and remembers them until they expire."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._tokens: dict[tuple[Scope, Credential | None], _Token] = {}

    def remembered(self, scope: Scope, login: Credential | None) -> str | None:
        """The Authorization header that worked lately."""
        token = self._tokens.get((scope, login))
        return token.header if token is not None and time.monotonic() < token.expires_at else None

    async def answer(
        self, challenges: list[Challenge], scope: Scope, login: Credential | None, *, endpoint: Endpoint, what: str
    ) -> str:
        """The Authorization header that a registry's 401 asks for.

        Args:
            login: None goes anonymously.
            endpoint: Who asks: it decides whether a token server may speak plain HTTP, and whom it is to trust.
            what: The image, for errors.

        Raises:
            RegistryError: The registry offers nothing that works with this login, or the token server refused it.
            RetryableError: The token server is not well.
        """
        self._tokens.pop((scope, login), None)
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                token = await self._fetch(challenge, scope, login, endpoint=endpoint, what=what)
                return self._remember(scope, login, token)
        for challenge in challenges:
            if challenge.scheme == "basic" and login is not None and login.username:
                return self._remember(scope, login, _Token(_basic(login), float("inf")))
        raise login_refused(what, scope.registry, login=login)

    def _remember(self, scope: Scope, login: Credential | None, token: _Token) -> str:
        if len(self._tokens) >= _MAX_TOKENS:
            self._tokens.clear()
        self._tokens[scope, login] = token
        return token.header

    async def _fetch(
        self, challenge: Challenge, scope: Scope, login: Credential | None, *, endpoint: Endpoint, what: str
    ) -> _Token:
        request = _token_request(challenge, scope, login, endpoint=endpoint)
        server = f"the token server {urlsplit(request.url).netloc} of {scope.registry}"

        async def act() -> bytes:
            async with self._transport.exchange(request) as response:
                if response.status != 200:
                    raise await failure_of(response, self._transport, what=what, registry=server, login=login)
                return await self._transport.read_small(response, MAX_TOKEN_BYTES, what=f"the answer of {server}")

        content = await self._transport.attempts(act)
        try:
            document: Any = msgspec.json.decode(content)
            token = document.get("token") or document["access_token"]
            seconds = float(document.get("expires_in") or DEFAULT_TOKEN_SECONDS)
        except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError, ValueError):
            raise RetryableError(f"{server} sent no token for {what}") from None
        if not isinstance(token, str) or not token.isprintable() or not token.isascii():
            raise RetryableError(f"{server} sent a token for {what} that is none")
        return _Token(f"Bearer {token}", time.monotonic() + seconds - _TOKEN_MARGIN_SECONDS)


def _token_request(challenge: Challenge, scope: Scope, login: Credential | None, *, endpoint: Endpoint) -> Request:
    realm = challenge.parameters["realm"]
    parts = urlsplit(realm)
    plain = parts.scheme == "http" and endpoint.base.startswith("http://")
    if not parts.netloc or "@" in parts.netloc or not (parts.scheme == "https" or plain):
        raise RegistryError(
            f"{scope.registry} names a token server that is not used: {parts.scheme or 'no'}://{parts.netloc}",
            hint="token servers must speak https",
        )
    # containerd shows the client certificate here too where it is the same host; elsewhere only the authorities count.
    tls = endpoint.tls if parts.netloc == endpoint.host else endpoint.tls.for_others()
    # The server's own scope is answered first: it may be more than ours (a mount from another repository).
    fields = {
        "service": challenge.parameters.get("service", ""),
        "scope": challenge.parameters.get("scope", str(scope)),
    }
    fields = {name: value for name, value in fields.items() if value}
    if login is not None and login.identity_token:
        fields |= {"grant_type": "refresh_token", "client_id": "wasmlet", "refresh_token": login.identity_token}
        form = urlencode(fields).encode()

        async def upload(progress: Progress) -> AsyncIterator[bytes]:
            progress.made()
            yield form

        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return Request("POST", realm, headers, upload=upload, size_bytes=len(form), follow=False, tls=tls)
    separator = "&" if parts.query else "?"
    authorization = _basic(login) if login is not None else None
    return Request("GET", f"{realm}{separator}{urlencode(fields)}", authorization=authorization, tls=tls)


def _basic(login: Credential) -> str:
    pair = f"{login.username}:{login.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
