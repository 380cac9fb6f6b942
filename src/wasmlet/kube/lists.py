"""JSON of the API server → structs: lists and the lines of watches. Pure; one broken object never hides the others.

Go writes null for empty lists where a field has no omitempty, and a newer server may send other types; msgspec is
strict. So the fast way is tried first, then the same without nulls, and then only the metadata are read.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from wasmlet.base.errors import RetryableError
from wasmlet.kube.errors import failure, parse_status
from wasmlet.kube.resources import Resource
from wasmlet.kube.types import ObjectMeta

__all__ = ["BrokenError", "Lines", "Page", "decode_line", "decode_object", "decode_page", "decoder_for", "type_of_line"]

T = TypeVar("T", bound=msgspec.Struct)

ITEMS_AT_ONCE: Final = 50
"""Between two looks at the event loop; about 2.5 ms of pods."""


class BrokenError(Exception):
    """An object cannot be understood. `metadata` is what could be read; the text names field and type, no value."""

    def __init__(self, problem: str, metadata: ObjectMeta) -> None:
        super().__init__(problem)
        self.metadata = metadata


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    next: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[msgspec.Raw] | None = None


_LIST: Final = msgspec.json.Decoder(_List)


@dataclass(slots=True)
class Page(Generic[T]):
    """A part of a list. `next` is the token for the one after it, empty when this is the last."""

    resource_version: str
    next: str
    items: list[T] = field(default_factory=list)
    broken: list[T] = field(default_factory=list)


def decoder_for(kind: type[T]) -> msgspec.json.Decoder[T]:
    """The decoder of a struct, made once: for a Pod that takes a millisecond."""
    return cast("msgspec.json.Decoder[T]", _cached_decoder(kind))


@functools.cache
def _cached_decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


async def decode_page(content: bytes, resource: Resource[T]) -> Page[T]:
    """A list's answer. Gives way to others while it decodes.

    Raises:
        RetryableError: It is no list.
    """
    try:
        document = _LIST.decode(content)
    except msgspec.DecodeError as error:
        raise RetryableError(f"the list of {resource.plural} is not understood: {error}") from None
    if not document.metadata.resource_version:
        # Every list has one. What has none was not said by an API server, and must not count as an empty list.
        raise RetryableError(f"the list of {resource.plural} is not understood: it has no resourceVersion")
    page: Page[T] = Page(document.metadata.resource_version, document.metadata.next)
    for position, item in enumerate(document.items or []):
        if position % ITEMS_AT_ONCE == ITEMS_AT_ONCE - 1:
            await asyncio.sleep(0)
        try:
            page.items.append(decode_object(item, resource.type))
        except BrokenError as error:
            page.broken.append(resource.type(metadata=error.metadata))
    return page


def decode_object(content: bytes | msgspec.Raw, kind: type[T]) -> T:
    """One object.

    Raises:
        BrokenError: It does not fit the struct.
    """
    try:
        return decoder_for(kind).decode(content)
    except msgspec.ValidationError:
        pass
    except msgspec.DecodeError as error:
        raise BrokenError(str(error), ObjectMeta()) from None
    document = msgspec.json.decode(content)
    try:
        return msgspec.convert(_without_nulls(document), kind)
    except msgspec.ValidationError as error:
        problem = str(error)
    raise BrokenError(problem, _identity(document))


def _identity(document: Any) -> ObjectMeta:
    """What tells one object from another, as far as it can be read."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    found = metadata if isinstance(metadata, dict) else {}
    name, namespace, uid, version = (
        value if isinstance(value := found.get(key), str) else ""
        for key in ("name", "namespace", "uid", "resourceVersion")
    )
    return ObjectMeta(name=name, namespace=namespace, uid=uid, resource_version=version)


def _without_nulls(value: Any) -> Any:
    """Null means unset in the API."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


# --- lines ------------------------------------------------------------------------------------------------------------


class Lines:
    """Chunks → lines, each of a bounded length."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes.

        Raises:
            RetryableError: A line is too long.
        """
        *ended, rest = chunk.split(b"\n")
        if ended and self._rest:
            ended[0] = bytes(self._rest) + ended[0]
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > self._limit:
            raise RetryableError(f"an object in a watch has more than {self._limit} bytes")
        return [line for line in ended if line]


class _Line(msgspec.Struct, Generic[T]):
    type: str
    object: T


class _RawLine(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


_OBJECT_LINES: Final = (b'{"type":"ADDED"', b'{"type":"MODIFIED"', b'{"type":"DELETED"')
"""How Go writes the lines that matter; anything else is looked at more slowly."""

_OBJECT_TYPES: Final = frozenset({"ADDED", "MODIFIED", "DELETED"})
_RAW_LINE: Final = msgspec.json.Decoder(_RawLine)
_BOOKMARK: Final = msgspec.json.Decoder(_Bookmark)


@functools.cache
def _line_decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_Line[kind])


def type_of_line(line: bytes) -> str:
    """ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.

    Raises:
        msgspec.DecodeError: The line is no watch event.
    """
    return _RAW_LINE.decode(line).type


def decode_line(line: bytes, resource: Resource[T]) -> tuple[str, T | None]:
    """Type and object of a line; for a bookmark its version and None.

    Raises:
        BrokenError: The object does not fit its struct.
        RetryableError: The line is no watch event.
        WasmletError: It is an ERROR.
    """
    if line.startswith(_OBJECT_LINES):
        try:
            event = _line_decoder(resource.type).decode(line)
        except msgspec.DecodeError:
            pass  # told below, or forgiven
        else:
            return event.type, event.object
    try:
        raw = _RAW_LINE.decode(line)
        if raw.type in _OBJECT_TYPES:
            return raw.type, decode_object(raw.object, resource.type)
        if raw.type == "BOOKMARK":
            return _BOOKMARK.decode(raw.object).metadata.resource_version, None
    except msgspec.DecodeError:
        raise RetryableError(f"a watch of {resource.plural} sent what is no watch event") from None
    status = parse_status(raw.object) if raw.type == "ERROR" else None
    raise failure(status.code if status else 500, status, what=f"watch {resource.plural}")
