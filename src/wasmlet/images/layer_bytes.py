"""The bytes of a layer on their way: counted, hashed, decompressed, and never more than an image may cost.

Everything here comes from a registry. What a layer may cost is bounded before it is spent (`Bounds`), whatever its
headers say.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import tarfile
import zlib
from dataclasses import dataclass, field
from typing import IO, Any, Final, Protocol

from wasmlet.base.errors import UserError
from wasmlet.images.manifest import shown

MAX_READ_BYTES: Final = 1 << 16
"""Of a header's extension, and of a content at a time. Names have at most 4 KiB; the kernel's xattrs have 64 KiB."""

RATIO_FROM_BYTES: Final = 64 << 20
MAX_NOTES: Final = 20
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE: Final = (b"\x2a\x4d\x18", 0x50)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one image may unpack to.

    Attributes:
        content_bytes: All its layers' archives together.
        members: All entries of all its layers.
        ratio: How often larger than its blob a layer may get, once it has 64 MiB.
    """

    content_bytes: int = 4 << 30
    members: int = 200_000
    ratio: int = 250


@dataclass(slots=True)
class Account:
    """What an image has cost so far, and what of it was left out."""

    bounds: Bounds
    bytes: int = 0
    members: int = 0
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, path: str, why: str) -> None:
        """Remember an entry that a Wasm guest can do without; a bounded number of them by name."""
        if len(self.left_out) < MAX_NOTES:
            self.left_out.append(f"{shown(path)} ({why})")


class Source(Protocol):
    """What can be read from its beginning to its end."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, `size` at most; none at the end."""
        ...


class TooMuchError(UserError):
    """A bound is passed: there is no use in reading on."""


def too_large(bounds: Bounds) -> TooMuchError:
    """The error of an image with too many bytes."""
    return TooMuchError(f"the image unpacks to more than {bounds.content_bytes} bytes")


class Hashing(io.RawIOBase):
    """The blob's bytes, counted and hashed on their way."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.bytes = 0

    @property
    def digest(self) -> str:
        """Of what was read so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        chunk = self._source.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self._hash.update(chunk)
        self.bytes += len(chunk)
        return len(chunk)

    def drain(self) -> None:
        """Read what is left."""
        while self.read(MAX_READ_BYTES):
            pass


class Archive(io.RawIOBase):
    """The archive's bytes for tarfile: forward only, bounded, counted and hashed."""

    def __init__(self, source: Source, raw: Hashing, account: Account) -> None:
        self._source, self._raw, self._account = source, raw, account
        self._hash = hashlib.sha256()
        self._position = 0

    @property
    def digest(self) -> str:
        """Of what was read so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """How many bytes were read."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Read on to `offset`. Raises tarfile.ReadError for what lies behind."""
        if whence != 0 or offset < self._position:
            raise tarfile.ReadError("its members lie in one another")
        while self._position < offset and self.read(min(offset - self._position, MAX_READ_BYTES)):
            pass
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes; fewer than `size` at the end only. Raises UserError when a bound is passed."""
        if size is None or not 0 <= size <= MAX_READ_BYTES:
            raise UserError(f"a header in it is longer than {MAX_READ_BYTES} bytes")
        content = bytearray()
        while len(content) < size and (chunk := self._source.read(size - len(content))):
            content += chunk
        self._hash.update(content)
        self._position += len(content)
        self._spend(len(content))
        return bytes(content)

    def drain(self) -> None:
        """Read what is left: the padding after the archive's end counts for its digest."""
        while self.read(MAX_READ_BYTES):
            pass

    def _spend(self, count: int) -> None:
        bounds = self._account.bounds
        self._account.bytes += count
        if self._account.bytes > bounds.content_bytes:
            raise too_large(bounds)
        if self._position > RATIO_FROM_BYTES and self._position > bounds.ratio * self._raw.bytes:
            raise TooMuchError(f"it unpacks to more than {bounds.ratio} times its size")


def decompressed(raw: Hashing) -> Source:
    """The archive, by what the blob's first bytes say: media types are often wrong about it (docker looks too)."""
    buffered = io.BufferedReader(raw, MAX_READ_BYTES)
    head = buffered.peek(4)[:4]
    if head.startswith(_GZIP):
        return gzip.GzipFile(fileobj=buffered, mode="rb")
    magic, lowest = _ZSTD_SKIPPABLE
    if head == _ZSTD or (head[1:] == magic and head[0] & 0xF0 == lowest):
        opened: Source = _zstd().ZstdFile(buffered)
        return opened
    return buffered


def _zstd() -> Any:
    """The standard library's from Python 3.14 on, which has the same in a package before."""
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415
    return zstd


def broken() -> tuple[type[Exception], ...]:
    """What an archive, or its compression, is not whole with."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    loaded: Any = sys.modules.get(name)
    errors = (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, ValueError, OverflowError)
    return errors if loaded is None else (*errors, loaded.ZstdError)
