"""HTTP statuses of registries → errors: what failed, on which image, what to do (one table, pure but for reading)."""

from __future__ import annotations

import email.utils
import re
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from wasmlet.base.errors import NotFoundError, RetryableError, WasmletError
from wasmlet.base.http import aiohttp
from wasmlet.images.credentials import Credential
from wasmlet.images.manifest import shown
from wasmlet.images.transport import PassingError, RegistryError, Transport

MAX_FAILURE_BYTES: Final = 1 << 16
_HEADER_VALUE: Final = re.compile(r"(?i)\b(basic|bearer)\s+\S+")
_PASSING: Final = (408, 425, 429, 500, 502, 503, 504)


class RefusedError(RegistryError):
    """The registry does not let this login in: the next one may fit."""


def login_refused(what: str, registry: str, *, login: Credential | None, detail: str = "") -> RefusedError:
    """The error of a 401."""
    if login is None:
        return RefusedError(
            f"{registry} wants a login for {what}{detail}",
            hint="give credentials (a pod's imagePullSecrets, or the docker config of `wasmlet run`); "
            "many registries answer so for images that do not exist",
        )
    return RefusedError(
        f"{registry} refused the credentials of {login.username or 'the token'} for {what}{detail}",
        hint="check user name and password",
    )


def failure(
    status: int,
    *,
    what: str,
    registry: str,
    login: Credential | None = None,
    detail: str = "",
    retry_after_seconds: float | None = None,
) -> WasmletError:
    """The error for an HTTP status that is not a success.

    Args:
        detail: What the registry says, already safe to show.
    """
    detail = f" ({detail})" if detail else ""
    if status == 401:
        return login_refused(what, registry, login=login, detail=detail)
    if status == 403:
        who = f"{login.username or 'the token'}" if login is not None else "anonymous users"
        return RefusedError(
            f"{registry} denies {who} access to {what}{detail}", hint="ask for the right to it, or use another login"
        )
    if status == 404:
        return NotFoundError(f"{what} is not in {registry}{detail}", hint="check its name and tag")
    if status == 429:
        return PassingError(
            f"{registry} limits the rate of requests, {what} has to wait{detail}",
            hint="log in for a higher limit, or use a mirror",
            retry_after_seconds=retry_after_seconds,
        )
    if status in _PASSING:
        return PassingError(
            f"{registry} failed with status {status} for {what}{detail}", retry_after_seconds=retry_after_seconds
        )
    if status >= 500:
        return RetryableError(f"{registry} failed with status {status} for {what}{detail}")
    return RegistryError(f"{registry} answered with status {status} for {what}{detail}")


async def failure_of(
    response: aiohttp.ClientResponse, transport: Transport, *, what: str, registry: str, login: Credential | None
) -> WasmletError:
    """As `failure`, with what the answer says."""
    try:
        content = await transport.read_small(response, MAX_FAILURE_BYTES, what="the failure's text")
    except WasmletError:
        content = b""
    secrets = (login.password, login.identity_token) if login is not None else ()
    return failure(
        response.status,
        what=what,
        registry=registry,
        login=login,
        detail=detail_of(content, secrets),
        retry_after_seconds=retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC)),
    )


def detail_of(content: bytes, secrets: tuple[str, ...]) -> str:
    """Code and message of the first error in the distribution API's error document; "" for anything else.

    Args:
        secrets: Texts that a registry might echo and nobody may see.
    """
    try:
        document: Any = msgspec.json.decode(content)
        first = document["errors"][0]
        words = [first.get("code"), first.get("message")]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError, KeyError, IndexError, TypeError):
        return ""
    text = ": ".join(word for word in words if isinstance(word, str) and word)
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return shown(_HEADER_VALUE.sub(r"\1 ***", text))


def retry_after(value: str, now: datetime) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110 10.2.3: seconds or a date), None without one."""
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
