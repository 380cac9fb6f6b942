"""Docker's credential helpers: `credHelpers` and `credsStore` of a config.json name programs that keep the logins.

The protocol (docker-credential-helpers): `docker-credential-NAME get` reads a server's name, and writes JSON.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from wasmlet.base import programs
from wasmlet.base.errors import UserError
from wasmlet.images.credentials import Credential, config_paths, matches, read_config
from wasmlet.images.reference import DEFAULT_REGISTRY, Reference
from wasmlet.images.sources import Account

__all__ = ["DockerHelpers", "helper_of"]

HELPER_SECONDS: Final = 30.0  # some ask a cloud; docker itself waits for ever
MAX_ANSWER_BYTES: Final = 1 << 20
HUB_SERVER: Final = "https://index.docker.io/v1/"
"""What docker calls its own registry in helpers."""
_TOKEN_USER: Final = "<token>"  # noqa: S105 - docker's placeholder for an identity token
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_log = logging.getLogger(__name__)


class DockerHelpers:
    """Reads the files each time, since they are small and `docker login` changes them."""

    def __init__(self, environment: Mapping[str, str], home: Path) -> None:
        self._environment = environment
        self._paths = config_paths(environment, home)

    async def logins(self, reference: Reference, _: Account | None = None) -> tuple[Credential, ...]:
        """What the helper of the image's registry knows; nothing when there is none, or it knows nothing."""
        found = list[Credential]()
        for path in self._paths:
            try:
                document = read_config(path)
                named = None if document is None else helper_of(document, reference, source=str(path))
            except UserError as error:
                _log.warning("credential helpers passed over", extra={"error": error.message})
                continue
            if named is not None and (login := await self._ask(*named, reference)) is not None:
                found.append(login)
        return tuple(found)

    async def _ask(self, helper: str, server: str, reference: Reference) -> Credential | None:
        program = f"docker-credential-{helper}"
        try:
            answer = await programs.ask(
                [program, "get"], seconds=HELPER_SECONDS, most_bytes=MAX_ANSWER_BYTES, question=server.encode(),
                environment=dict(self._environment),
            )  # fmt: skip
        except (OSError, TimeoutError) as error:
            _log.warning("credential helper failed", extra={"helper": program, "error": type(error).__name__})
            return None
        if answer.status != 0:
            _log.info("credential helper knows no login", extra={"helper": program, "server": server})
            return None
        return _login(answer.output, reference.registry, program)


def helper_of(document: Mapping[str, Any], reference: Reference, *, source: str) -> tuple[str, str] | None:
    """The helper that a config.json names for an image's registry, and what the registry is called there.

    Raises:
        UserError: The file says something that no docker would.
    """
    helpers, store = document.get("credHelpers") or {}, document.get("credsStore") or ""
    if not isinstance(helpers, dict) or not isinstance(store, str):
        raise UserError(f"{source}: credHelpers must be a JSON object, and credsStore a string")
    server = HUB_SERVER if reference.registry == DEFAULT_REGISTRY else reference.registry
    fitting = [(pattern, name) for pattern, name in helpers.items() if matches(pattern, reference)]
    pattern, name = max(fitting, key=lambda pair: len(pair[0]), default=(server, store))
    if not name:
        return None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{source}: the credential helper of {pattern!r} is no program's name")
    return name, pattern


def _login(output: bytes, registry: str, program: str) -> Credential | None:
    try:
        document: Any = json.loads(output)
        username, secret = document["Username"], document["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        username = secret = None
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        _log.warning("credential helper answered with something else", extra={"helper": program})
        return None
    if username == _TOKEN_USER:
        return Credential(registry, identity_token=secret)
    return Credential(registry, username, secret)
