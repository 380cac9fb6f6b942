"""Patterns of image names, as policies write them. Pure.

    registry.example/team/**       every repository below `team`
    *.example.com/tool             that repository in the registries of one domain
    registry.example/team/tool:v*  its tags that begin with v
    file:/srv/modules/**           the files below that directory

`*` stands for any characters within one part: a label of the registry's name, a port, a component of the repository, a
tag. `**` stands for one or more whole components. There are no defaults: a pattern has its registry, as in `docker.io`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from wasmlet.images.reference import FILE_PREFIX, LocalFile, Reference

MAX_PATTERN_LENGTH: Final = 512  # a repository has 255 characters at most
_FILES: Final = "file:"
_REGISTRY: Final = re.compile(r"[a-z0-9*.-]+(?::[0-9*]+)?|\[[0-9a-f:]+\](?::[0-9*]+)?")
_COMPONENT: Final = re.compile(r"[a-z0-9*._-]+")
_TAG: Final = re.compile(r"[A-Za-z0-9_.*-]+")

Rank = tuple[tuple[bool, int], tuple[bool, int], tuple[bool, int]]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern of references; `text` is as it was written.

    Attributes:
        rank: The greater, the more specific: compared are registry, repository and tag in this order; in each of them
            a text without a wildcard beats one with, and of those the one with more other characters.
    """

    text: str
    rank: Rank = field(repr=False)
    _registry: tuple[str, ...] = field(repr=False)
    _components: tuple[str, ...] = field(repr=False)
    _tag: str | None = field(repr=False)

    def fits(self, reference: Reference | LocalFile) -> bool:
        """Whether it stands for this image.

        A pattern with a tag fits references that are resolved by their tag only: beside a digest a tag is any text.
        """
        if isinstance(reference, LocalFile):
            parts = PurePosixPath(reference.path).parts[1:]
            return self._registry == (_FILES,) and _match_components(self._components, parts)
        if self._tag is not None and (reference.digest is not None or not _glob(self._tag, reference.tag or "")):
            return False
        labels = _labels(reference.registry)
        return (
            len(labels) == len(self._registry)
            and all(_glob(pattern, label) for pattern, label in zip(self._registry, labels, strict=True))
            and _match_components(self._components, reference.repository.split("/"))
        )


def parse(text: str) -> Pattern:
    """The pattern in `text`.

    Raises:
        ValueError: It is none; the message says why.
    """
    if len(text) > MAX_PATTERN_LENGTH:
        raise ValueError(f"a pattern has at most {MAX_PATTERN_LENGTH} characters")
    if text.startswith(FILE_PREFIX):
        return _parse_file(text)
    registry, slash, rest = text.partition("/")
    if not slash or not rest:
        raise ValueError(f"pattern {text!r} has no registry and repository, as in docker.io/library/hello")
    if not _REGISTRY.fullmatch(registry):
        raise ValueError(
            f"pattern {text!r} does not begin with a registry in lower case, as in docker.io/library/hello"
        )
    if registry != "localhost" and not any(mark in registry for mark in ".:*"):
        raise ValueError(f"pattern {text!r} does not begin with a registry: write docker.io/{text}")
    repository, colon, tag = rest.partition(":")
    components = tuple(repository.split("/"))
    _check_components(text, components, _COMPONENT)
    if colon and not _TAG.fullmatch(tag):
        raise ValueError(f"pattern {text!r}: a tag has letters, digits, '_', '.', '-' and '*'; digests are no patterns")
    rank = (_rank(registry), _rank(repository), _rank(tag) if colon else (False, -1))
    return Pattern(text, rank, _labels(registry), components, tag if colon else None)


def _parse_file(text: str) -> Pattern:
    path = text.removeprefix(FILE_PREFIX)
    if not path.startswith("/"):
        raise ValueError(f"pattern {text!r}: files have absolute paths, as in file:/srv/modules/**")
    components = tuple(path[1:].split("/"))
    _check_components(text, components, re.compile(r"[^/\0]+"))
    return Pattern(text, ((True, 0), _rank(path), (False, -1)), (_FILES,), components, None)


def _check_components(text: str, components: Sequence[str], allowed: re.Pattern[str]) -> None:
    for component in components:
        if not allowed.fullmatch(component):
            raise ValueError(f"pattern {text!r}: {component!r} can be no part of a name")
        if "**" in component and component != "**":
            raise ValueError(f"pattern {text!r}: ** stands for whole components, as in registry.example/**")


def _rank(text: str) -> tuple[bool, int]:
    return "*" not in text, len(text.replace("*", ""))


def _labels(registry: str) -> tuple[str, ...]:
    """The labels of a host name and, behind a colon, the port: `*` stays within one of them."""
    if registry.startswith("["):
        return (registry,)
    host, colon, port = registry.partition(":")
    return (*host.split("."), f"{colon}{port}")


def _match_components(pattern: Sequence[str], components: Sequence[str]) -> bool:
    items: list[str] = []
    for each in pattern:
        items += ["*", "**"] if each == "**" else [each]
    return _match(items, components, star="**", fits=_glob)


def _glob(pattern: str, text: str) -> bool:
    return _match(pattern, text, star="*", fits=str.__eq__)


def _match(pattern: Sequence[str], items: Sequence[str], *, star: str, fits: Callable[[str, str], bool]) -> bool:
    """Whether `items` are the pattern's in turn, where `star` stands for any number of them.

    Only the last star is ever tried again, so the time is the product of both lengths at most.
    """
    at = after_star = 0
    position = resumed = 0
    starred = False
    while position < len(items):
        if at < len(pattern) and pattern[at] == star:
            at += 1
            starred, after_star, resumed = True, at, position
        elif at < len(pattern) and fits(pattern[at], items[position]):
            at += 1
            position += 1
        elif starred:
            resumed += 1
            at, position = after_star, resumed
        else:
            return False
    return all(each == star for each in pattern[at:])
