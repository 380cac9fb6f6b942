"""Image references: docker's grammar with docker's defaults, and `file:/path` for modules on this machine.

The grammar is distribution/reference's (`reference/regexp.go`, `normalize.go`): no registry means `docker.io`, a
one-word repository there gets `library/`, neither tag nor digest means `latest`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wasmlet.base.errors import UserError

DEFAULT_REGISTRY: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
FILE_PREFIX: Final = "file:"
MAX_REPOSITORY_LENGTH: Final = 255  # distribution/reference: RepositoryNameTotalLengthMax
MAX_SHOWN_LENGTH: Final = 300  # of a wrong name in an error

_ALIASES: Final = frozenset({"index.docker.io", "registry-1.docker.io"})
_LABEL: Final = r"(?:[a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9])"
_REGISTRY: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:]+\])(?::(?P<port>[0-9]{{1,5}}))?")
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://")
_BARE_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry; `str()` is the canonical form, which parses to the same value.

    Attributes:
        registry: Host, lower case, with `:port` when one was given; never empty.
        repository: Path below the registry.
        tag: None only when `digest` is set.
        digest: `sha256:` and 64 hex digits; it decides when a tag is there too.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def selector(self) -> str:
        """What a registry is asked for: the digest, or else the tag."""
        return self.digest or self.tag or DEFAULT_TAG


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A module on this machine, by its absolute path."""

    path: Path

    def __str__(self) -> str:
        return f"{FILE_PREFIX}{self.path}"


def parse(text: str) -> Reference | LocalFile:
    """The reference that `text` names.

    `file:` begins a path on this machine, so an image of that name is written `library/file:tag`.

    Raises:
        UserError: Not a reference (reason `InvalidImageName`); the message says which part is wrong.
    """
    if text.startswith(FILE_PREFIX):
        return _parse_file(text)
    return parse_remote(text)


def parse_remote(text: str) -> Reference:
    """As `parse`, for places that take images in registries only.

    Raises:
        UserError: Not such a reference (reason `InvalidImageName`).
    """
    if not text:
        raise _invalid(text, "it is empty")
    if text.startswith(FILE_PREFIX + "/"):
        raise _invalid(text, "a local file is not an image in a registry")
    if scheme := _SCHEME.match(text):
        raise _invalid(text, f"it has no scheme; write {text[scheme.end() :][:MAX_SHOWN_LENGTH]!r}")
    if _BARE_DIGEST.fullmatch(text):
        raise _invalid(text, "64 hex digits alone are an image id, not a name")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _invalid(text, "the part after @ must be sha256: and 64 lower-case hex digits")
    registry, rest = _split_registry(rest)
    repository, colon, tag = rest.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, "a tag has letters, digits, '_', '.' and '-', at most 128")
    _check_registry(text, registry)
    repository = _check_repository(text, registry, repository)
    return Reference(
        registry=registry,
        repository=repository,
        tag=tag if colon else (None if at else DEFAULT_TAG),
        digest=digest if at else None,
    )


def is_digest(text: str) -> bool:
    """Whether `text` is a digest that this room takes: sha256 only."""
    return _DIGEST.fullmatch(text) is not None


def _split_registry(text: str) -> tuple[str, str]:
    """The registry and the rest; the first part is a registry when it looks like a host (splitDockerDomain)."""
    first, slash, rest = text.partition("/")
    if not slash or not (first == "localhost" or any(mark in first for mark in ".:") or first != first.lower()):
        return DEFAULT_REGISTRY, text
    registry = first.lower()
    return (DEFAULT_REGISTRY if registry in _ALIASES else registry), rest


def _check_registry(text: str, registry: str) -> None:
    match = _REGISTRY.fullmatch(registry)
    if match is None:
        raise _invalid(text, "the registry is not a host name with an optional :port")
    port = match["port"]
    if port is not None and not 1 <= int(port) <= 65535:
        raise _invalid(text, "the registry's port is not between 1 and 65535")


def _check_repository(text: str, registry: str, repository: str) -> str:
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    if repository != repository.lower():
        raise _invalid(text, "the repository must be lower case")
    if not _REPOSITORY.fullmatch(repository):
        raise _invalid(
            text, "the repository has lower-case letters and digits, with '.', '_', '-' and '/' between them"
        )
    if len(repository) > MAX_REPOSITORY_LENGTH:
        raise _invalid(text, f"the repository is longer than {MAX_REPOSITORY_LENGTH} characters")
    return repository


def _parse_file(text: str) -> LocalFile:
    path = text.removeprefix(FILE_PREFIX)
    if path.startswith("//"):
        if not path.startswith("///"):
            raise _invalid(text, "file:// takes no host; write file:/path")
        path = path[2:]
    if not path.startswith("/") or "\0" in path:
        raise _invalid(
            text, "file: needs an absolute path, as in file:/srv/hello.wasm; a cluster's images are in registries"
        )
    return LocalFile(Path("/" + path.lstrip("/")))


def _invalid(text: str, why: str) -> UserError:
    shown = text if len(text) <= MAX_SHOWN_LENGTH else text[:MAX_SHOWN_LENGTH] + "…"
    return UserError(f"{shown!r} is not an image reference: {why}", reason="InvalidImageName")
