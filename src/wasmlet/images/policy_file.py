"""The file of a policy. YAML in, rules out.

    version: 1
    default: never
    rules:
      - images: registry.example/team/**
        allow:
          keys: [team.pub]
      - images: docker.io/library/hello
        allow:
          digests: ["sha256:…"]
      - images: [localhost:5000/**, file:/srv/modules/**]
        allow: always

Every scalar is read as text, no key may come twice, and there are no anchors and aliases: a policy has one reading.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml

from wasmlet.base.errors import UserError
from wasmlet.images import keys as public_keys
from wasmlet.images import patterns
from wasmlet.images.keys import Key
from wasmlet.images.policy import REASON, Allowance, Identity, Policy, Rule, Vouchers
from wasmlet.images.reference import is_digest

MAX_POLICY_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 16
_HINT: Final = "docs/reference/image-policy.md has its format"
_PEM: Final = "-----BEGIN "


class _Identity(msgspec.Struct, forbid_unknown_fields=True):
    issuer: Annotated[str, msgspec.Meta(min_length=1)]
    subject: Annotated[str, msgspec.Meta(min_length=1)]


class _Vouchers(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[str] = []
    identities: list[_Identity] = []
    digests: list[str] = []


_Allowance = Literal["always", "never"] | _Vouchers


class _Rule(msgspec.Struct, forbid_unknown_fields=True):
    images: str | list[str]
    allow: _Allowance


class _Document(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    version: Literal["1"]
    default: _Allowance
    rules: list[_Rule] = []
    trusted_root: str | None = None


def load(path: Path) -> Policy:
    """The policy in a file.

    Raises:
        UserError: It, or the file of a key in it, cannot be read, or says something that cannot be (reason `REASON`).
    """
    try:
        return parse(_read_file(path, MAX_POLICY_BYTES, name="it"), path)
    except OSError as error:
        named = error.filename if error.filename not in (None, str(path), path) else "it"
        why = f"{named} cannot be read: {error.strerror}"
        raise UserError(f"cannot use the image policy {path}: {why}", hint=_HINT, reason=REASON) from error
    except ValueError as error:
        raise UserError(f"cannot use the image policy {path}: {error}", hint=_HINT, reason=REASON) from error


def parse(content: bytes, path: Path) -> Policy:
    """The policy in `content`; files of keys are named from `path`'s directory.

    Raises:
        ValueError: It is none; the message says where.
        OSError: The file of a key cannot be read.
    """
    try:
        document = msgspec.convert(_read_yaml(content), type=_Document)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {' '.join(str(error).split())}") from error
    except (RecursionError, UnicodeDecodeError) as error:
        raise ValueError("it is not YAML") from error
    reader = _Reader(path, None if document.trusted_root is None else path.parent / document.trusted_root)
    rules: list[Rule] = []
    seen: set[str] = set()
    for number, each in enumerate(document.rules):
        allowance = reader.allowance(each.allow, where=f"rules[{number}].allow")
        images = [each.images] if isinstance(each.images, str) else each.images
        if not images:
            raise ValueError(f"rules[{number}].images is empty")
        for text in images:
            if text in seen:
                raise ValueError(f"rules[{number}].images: pattern {text!r} comes twice")
            seen.add(text)
            try:
                rules.append(Rule(patterns.parse(text), allowance))
            except ValueError as error:
                raise ValueError(f"rules[{number}].images: {error}") from error
    default = reader.allowance(document.default, where="default")
    return Policy(path, default, tuple(rules), tuple(dict.fromkeys(reader.files)))


class _Reader:
    """Reads what stands behind `allow`, and the files that are named there."""

    def __init__(self, path: Path, trusted_root: Path | None) -> None:
        self._directory = path.parent
        self._trusted_root = trusted_root
        self.files = [path] if trusted_root is None else [path, trusted_root]

    def allowance(self, written: _Allowance, *, where: str) -> Allowance:
        if not isinstance(written, _Vouchers):
            return written
        for digest in written.digests:
            if not is_digest(digest):
                raise ValueError(f"{where}.digests: {digest!r} is not sha256: and 64 lower-case hex digits")
        found: list[Key] = []
        for number, text in enumerate(written.keys):
            try:
                found.append(self._key(text))
            except ValueError as error:
                raise ValueError(f"{where}.keys[{number}]: {error}") from error
        identities = tuple(Identity(each.issuer, each.subject) for each in written.identities)
        vouchers = Vouchers(tuple(dict.fromkeys(found)), identities, frozenset(written.digests), self._trusted_root)
        if not (vouchers.wants_signature or vouchers.digests):
            raise ValueError(f"{where} lists nothing that could vouch for an image; write never to let none run")
        return vouchers

    def _key(self, text: str) -> Key:
        """The key in a file of that name, or in the text itself."""
        if text.lstrip().startswith(_PEM):
            return public_keys.load(text.encode(), name="the key in the policy")
        path = self._directory / text
        self.files.append(path)
        return public_keys.load(_read_file(path, public_keys.MAX_PEM_BYTES, name=str(path)), name=str(path))


def _read_file(path: Path, limit: int, *, name: str) -> bytes:
    """A small regular file; anything else could hold the agent for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{name} is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            content = stream.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise ValueError(f"{name} is longer than {limit} bytes")
    return content


class _Loader(yaml.CBaseLoader):
    """Every scalar is text; a key that comes twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is a text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} comes twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def _read_yaml(content: bytes) -> Any:
    depth = 0
    for event in yaml.parse(content, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if (name := getattr(event, "anchor", None)) is not None:
            raise yaml.YAMLError(f"anchors and aliases are not taken: {name}")
    return yaml.load(content, Loader=_Loader)  # noqa: S506  # it makes texts, lists and mappings only
