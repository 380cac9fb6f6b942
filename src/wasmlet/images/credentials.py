"""Docker's configuration format → credentials → those that fit an image (kubelet-contract section 9).

The matching rules are the kubelet's (pkg/credentialprovider/keyring.go): host names are globbed label by label, ports
are equal, the path is a prefix, the longest path comes first, and every match is tried.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from wasmlet.base.errors import UserError
from wasmlet.base.files import read_if_present
from wasmlet.images.reference import DEFAULT_REGISTRY, Reference

_DOCKER_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_VERSIONS: Final = ("/v1", "/v2")  # API versions that old docker clients wrote into the key
_TOKEN_USER: Final = "<token>"  # noqa: S105 - docker's placeholder for "use the identity token"


@dataclass(frozen=True, slots=True)
class Origin:
    """The object of a cluster that gave a login to a pod.

    Attributes:
        kind: Secret or ServiceAccount.
    """

    kind: Literal["Secret", "ServiceAccount"]
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Credential:
    """A way to log in, and where it is good for. The representation shows no password and no token.

    Attributes:
        pattern: `host[:port][/path]`, labels of the host may be globs (`*.example.com`).
        username: Empty when only a token is there.
        password: With `username`, for basic authentication and for token servers.
        identity_token: A refresh token for token servers; used instead of the password when it is not empty.
        origin: Whose it is; None: the node's, and so any pod's here.
    """

    pattern: str
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    origin: Origin | None = None


def parse_docker_config(content: bytes | str, *, source: str) -> tuple[Credential, ...]:
    """The credentials of a docker `config.json`, or of a `kubernetes.io/dockerconfigjson` secret.

    Entries without any credential (as docker writes beside a credential helper) are left out.

    Args:
        source: What to call the content in an error, such as its path.

    Raises:
        UserError: Not such a file; the message names the source and the registry, never a credential.
    """
    return _credentials(_parse_object(content, source=source), source=source)


def _credentials(document: dict[str, Any], *, source: str) -> tuple[Credential, ...]:
    auths = document.get("auths") or {}
    if not isinstance(auths, dict):
        raise UserError(f'{source}: "auths" is not a JSON object')
    return _parse_entries(auths, source=source)


def parse_legacy_docker_config(content: bytes | str, *, source: str) -> tuple[Credential, ...]:
    """The credentials of a `.dockercfg`, or of a `kubernetes.io/dockercfg` secret: the registries at the top level.

    Raises:
        UserError: As `parse_docker_config`.
    """
    return _parse_entries(_parse_object(content, source=source), source=source)


def load_default(environment: Mapping[str, str], home: Path) -> tuple[Credential, ...]:
    """The credentials of the person at the keyboard: docker's file, then podman's.

    Reads `$DOCKER_CONFIG/config.json` (default `~/.docker/config.json`) and `$XDG_RUNTIME_DIR/containers/auth.json`;
    a file that is absent holds none.

    Raises:
        UserError: A file is there but cannot be read or understood; the message names it.
    """
    found: list[Credential] = []
    for path in config_paths(environment, home):
        document = read_config(path)
        if document is not None:
            found.extend(_credentials(document, source=str(path)))
    return tuple(found)


def config_paths(environment: Mapping[str, str], home: Path) -> list[Path]:
    """Where docker and podman keep the logins of a person."""
    paths = [Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"]
    if runtime_directory := environment.get("XDG_RUNTIME_DIR"):
        paths.append(Path(runtime_directory) / "containers" / "auth.json")
    return paths


def read_config(path: Path) -> dict[str, Any] | None:
    """The document of a config.json; None when there is none.

    Raises:
        UserError: It is there but cannot be read or understood; the message names it.
    """
    try:
        content = read_if_present(path)
    except OSError as error:
        raise UserError(f"cannot read the credentials in {path}: {error.strerror}") from error
    return _parse_object(content, source=str(path)) if content else None


def matching(credentials: Iterable[Credential], reference: Reference) -> tuple[Credential, ...]:
    """Those credentials that fit, longest path first, otherwise in the order given; none means: go anonymously."""
    fitting = [
        (len(path), credential)
        for credential in credentials
        if (path := _matched_path(credential.pattern, reference)) is not None
    ]
    fitting.sort(key=lambda pair: pair[0], reverse=True)
    return tuple(dict.fromkeys(credential for _, credential in fitting))


def matches(pattern: str, reference: Reference) -> bool:
    """Whether `[scheme://]host[:port][/path]`, with globs in the host's labels, fits an image."""
    return _matched_path(pattern, reference) is not None


def _matched_path(pattern: str, reference: Reference) -> str | None:
    """The pattern's path when it fits the reference, else None."""
    host, port, path = _split(pattern)
    if host in _DOCKER_HUB and not port:
        host = DEFAULT_REGISTRY
    registry_host, registry_port, _ = _split(reference.registry)
    labels, registry_labels = host.split("."), registry_host.split(".")
    if port != registry_port or len(labels) != len(registry_labels):
        return None
    pairs = zip(registry_labels, labels, strict=True)
    # Equality first: an IPv6 address in brackets would be read as a set of characters.
    if not all(label == glob or fnmatch.fnmatchcase(label, glob) for label, glob in pairs):
        return None
    return path if f"/{reference.repository}".startswith(path) else None


def _split(pattern: str) -> tuple[str, str, str]:
    """Host, port and path of `[scheme://]host[:port][/path]`, in lower case but for the path; "" where absent."""
    _, scheme, rest = pattern.partition("://")
    rest = rest if scheme else pattern
    location, slash, path = rest.partition("/")
    path = slash + path
    for version in _VERSIONS:
        if path == version or path.startswith(f"{version}/"):
            path = path.removeprefix(version)
    host, colon, port = location.lower().rpartition(":")
    if not colon or port.endswith("]"):  # an IPv6 address without a port
        host, port = location.lower(), ""
    return host, port, "" if path == "/" else path


def _parse_object(content: bytes | str, *, source: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        # The parser's text may quote the content, so it is not chained.
        raise UserError(f"{source} is not JSON", hint="it must be a docker config.json") from None
    if not isinstance(document, dict):
        raise UserError(f"{source} is not a JSON object", hint="it must be a docker config.json")
    return document


def _parse_entries(entries: dict[str, Any], *, source: str) -> tuple[Credential, ...]:
    found = (_parse_entry(pattern, entry, source=source) for pattern, entry in entries.items())
    return tuple(credential for credential in found if credential is not None)


def _parse_entry(pattern: str, entry: object, *, source: str) -> Credential | None:
    if not isinstance(entry, dict):
        raise UserError(f"{source}: the entry of {pattern!r} is not a JSON object")
    values = {name: entry.get(name) or "" for name in ("username", "password", "auth", "identitytoken")}
    if not all(isinstance(value, str) for value in values.values()):
        raise UserError(f"{source}: the entry of {pattern!r} has a value that is not a string")
    username, password = values["username"], values["password"]
    if values["auth"]:
        username, password = _decode_pair(values["auth"], pattern=pattern, source=source)
    if username == _TOKEN_USER and not values["identitytoken"]:
        username, values["identitytoken"] = "", password
    if not (username or password or values["identitytoken"]):
        return None
    return Credential(pattern, username, password, values["identitytoken"])


def _decode_pair(encoded: str, *, pattern: str, source: str) -> tuple[str, str]:
    """`auth` is base64 of `username:password`; only the password may hold a colon."""
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode().rstrip("\0")
    except (binascii.Error, UnicodeDecodeError):
        raise UserError(f"{source}: auth of {pattern!r} is not base64 of user:password") from None
    username, colon, password = text.partition(":")
    if not colon:
        raise UserError(f"{source}: auth of {pattern!r} has no colon between user and password")
    return username, password
