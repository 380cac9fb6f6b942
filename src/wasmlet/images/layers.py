"""One layer of an image: compressed bytes → members of a tar archive → operations on a `FileSystem`.

Everything here comes from a registry. What a layer may cost is bounded before it is spent (`Bounds`), whatever its
headers say; what breaks the archive, the compression or a bound is a `UserError` that names it. Reading goes through
the standard library's tarfile, whose headers are read into memory only up to `MAX_READ_BYTES`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Protocol

from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.images.filesystem import File, FileSystem, split
from wasmlet.images.manifest import shown

MAX_READ_BYTES: Final = 1 << 16
"""Of a header's extension, and of a content at a time. Names have at most 4 KiB; the kernel's xattrs have 64 KiB."""

RATIO_FROM_BYTES: Final = 64 << 20
DAMAGED: Final = "DamagedBlob"
"""The reason when the store's copy of a layer is not what was downloaded: the blob is to be fetched again."""

MAX_NOTES: Final = 20
_LAST_SECOND: Final = 1 << 33
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


class Contents:
    """Numbered files in a directory, one for each regular file of the layers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._next = 0

    def add(self, source: IO[bytes], size_bytes: int, *, executable: bool, modified_ns: int) -> File:
        """Store the next `size_bytes` of `source`; raises as `add_hashed`."""
        file, _ = self.add_hashed(source, size_bytes, executable=executable, modified_ns=modified_ns, always=False)
        return file

    def add_hashed(
        self, source: IO[bytes], size_bytes: int, *, executable: bool, modified_ns: int, always: bool = True
    ) -> tuple[File, str]:
        """Store the next `size_bytes` of `source`, and tell their digest; "" if it is no Wasm and not `always` hashed.

        Raises:
            UserError: It ends before.
            OSError: The disk says no.
        """
        number, self._next = self._next, self._next + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(self._directory / str(number), flags, 0o600)
        try:
            digest, is_wasm = self._copy(source, size_bytes, descriptor, always=always)
            os.fchmod(descriptor, 0o755 if executable else 0o644)
            os.utime(descriptor, ns=(modified_ns, modified_ns))
        finally:
            os.close(descriptor)
        return File(number, size_bytes, executable, modified_ns, digest if is_wasm else ""), digest

    def keep_only(self, numbers: set[int]) -> None:
        """Remove what a later layer replaced."""
        for number in range(self._next):
            if number not in numbers:
                (self._directory / str(number)).unlink()

    @staticmethod
    def _copy(source: IO[bytes], size_bytes: int, descriptor: int, *, always: bool) -> tuple[str, bool]:
        digest, rest = hashlib.sha256() if always else None, size_bytes
        is_wasm = False
        while rest:
            chunk = source.read(min(rest, MAX_READ_BYTES))
            if not chunk:
                raise UserError("the archive ends in the middle of a file")
            if rest == size_bytes and chunk.startswith(b"\0asm"):
                digest, is_wasm = hashlib.sha256(), True
            if digest is not None:
                digest.update(chunk)
            rest -= len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
        return "" if digest is None else f"sha256:{digest.hexdigest()}", is_wasm


def apply(blob: IO[bytes], *, digest: str, diff_id: str, to: FileSystem, contents: Contents, account: Account) -> None:
    """Read one layer and do what it says.

    Args:
        blob: The layer as it was downloaded: a tar archive, plain or compressed with gzip or zstd.
        digest: Of the blob.
        diff_id: The digest of the archive in it, as the image's config has it; "" for whatever it is.

    Raises:
        UserError: The layer cannot be used; the file system is half done then.
        RetryableError: The blob is not the one that was downloaded (reason `DamagedBlob`).
        OSError: The disk says no.
    """
    to.begin_layer()
    _read(blob, lambda archive: _apply_members(archive, to, contents, account), digest, diff_id, account)


def pick(
    blob: IO[bytes],
    *,
    digest: str,
    wanted: Sequence[tuple[str, str]],
    picked: Collection[str],
    given: tuple[FileSystem, Contents, Account],
) -> set[str]:
    """Take of a layer only the files whose contents are wanted, and give them new names; raises as `apply`.

    Args:
        wanted: Digests of contents, and names.
        picked: Those that other layers had.

    Returns:
        The digests that this one had.
    """
    to, contents, account = given
    names: dict[str, list[str]] = {}
    for content, name in wanted:
        names.setdefault(content, []).append(name)
    found: set[str] = set()

    def members(archive: _Archive) -> None:
        for member, opened in _members(archive, account):
            if not member.isreg():
                continue
            source = _content(member, opened, account)
            file, content = contents.add_hashed(source, member.size, executable=False, modified_ns=0)
            if content in names and content not in found and content not in picked:
                found.add(content)
                for name in names[content]:
                    to.add_file(name, file)

    to.begin_layer()
    _read(blob, members, digest, "", account)
    return found


def _read(blob: IO[bytes], members: Callable[[_Archive], None], digest: str, diff_id: str, account: Account) -> None:
    """Reads a whole layer, and tells what is wrong with it."""
    raw = _Hashing(blob)
    archive = _Archive(_decompressed(raw), raw, account)
    failure: WasmletError | None = None
    try:
        members(archive)
        archive.drain()
    except UserError as error:
        failure = error
    except Exception as error:
        if not isinstance(error, _broken()):
            raise
        failure = UserError(f"it is no whole tar archive: {shown(str(error))}")
    # A damaged blob explains whatever else went wrong, and only it can be helped.
    if failure is None or not isinstance(failure, _TooMuchError):
        raw.drain()
        _require(raw, digest)
    if failure is None and diff_id and archive.digest != diff_id:
        failure = UserError(f"it unpacks to {archive.digest}, but the image's config says {diff_id}")
    if failure is not None:
        raise UserError(f"layer {digest} cannot be used: {failure.message}", hint=failure.hint)


def add(blob: IO[bytes], *, digest: str, name: str, to: FileSystem, contents: Contents, account: Account) -> None:
    """Take a blob as it is for a file called `name`; raises as `apply`."""
    raw = _Hashing(blob)
    size = blob.seek(0, os.SEEK_END)
    blob.seek(0)
    account.bytes += size
    if account.bytes > account.bounds.content_bytes:
        raise _too_large(account.bounds)
    to.begin_layer()
    to.add_file(name, contents.add(io.BufferedReader(raw, MAX_READ_BYTES), size, executable=False, modified_ns=0))
    raw.drain()
    _require(raw, digest)


def _require(raw: _Hashing, digest: str) -> None:
    if raw.digest != digest:
        raise RetryableError(
            f"the store's copy of layer {digest} is damaged", hint="it is fetched again", reason=DAMAGED
        )


# --- members ----------------------------------------------------------------------------------------------------------


class _Member(tarfile.TarInfo):
    """tarfile takes a broken header after the first for the archive's end; here it is an error."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Any:
        """The next member."""
        try:
            return super().fromtarfile(tarfile)
        except (_INVALID_HEADER, _TRUNCATED_HEADER) as error:
            raise _READ_ERROR(str(error)) from error


# Not in tarfile's stubs.
_INVALID_HEADER: type[Exception] = getattr(tarfile, "InvalidHeaderError")  # noqa: B009
_TRUNCATED_HEADER: type[Exception] = getattr(tarfile, "TruncatedHeaderError")  # noqa: B009
_READ_ERROR = tarfile.ReadError


def _members(archive: _Archive, account: Account) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    opened = tarfile.TarFile(fileobj=archive, mode="r", tarinfo=_Member, encoding="utf-8", errors="surrogateescape")
    while (member := opened.next()) is not None:
        getattr(opened, "members").clear()  # noqa: B009  # not in the stubs; tarfile keeps all of them for ever
        account.members += 1
        if account.members > account.bounds.members:
            raise _TooMuchError(f"the image has more than {account.bounds.members} entries")
        yield member, opened


def _content(member: tarfile.TarInfo, opened: tarfile.TarFile, account: Account) -> IO[bytes]:
    if not 0 <= member.size <= account.bounds.content_bytes - account.bytes:
        raise _too_large(account.bounds)
    account.bytes += member.size if member.issparse() else 0  # the rest is counted as it is read
    source = opened.extractfile(member)
    assert source is not None
    return source


def _apply_members(archive: _Archive, to: FileSystem, contents: Contents, account: Account) -> None:
    seen: set[str] = set()
    for member, opened in _members(archive, account):
        if not _is_text(member.name) or not _is_text(member.linkname):
            account.leave_out(member.name, "a name that is not UTF-8, which WASI has no way to say")
            continue
        path = "/".join(split(member.name))
        if path in seen and not member.isdir():
            account.leave_out(path, "twice in its layer: the later one counts")
        seen.add(path)
        _apply_member(member, opened, to, contents, account)


def _apply_member(
    member: tarfile.TarInfo, opened: tarfile.TarFile, to: FileSystem, contents: Contents, account: Account
) -> None:
    if to.take_away(member.name):
        return
    if member.isdir():
        to.add_directory(member.name)
    elif member.issym():
        to.add_link(member.name, member.linkname)
    elif member.islnk():
        to.add_hard_link(member.name, member.linkname)
    elif member.isreg():
        source = _content(member, opened, account)
        modified = min(max(member.mtime, 0), _LAST_SECOND)
        file = contents.add(
            source, member.size, executable=bool(member.mode & 0o111), modified_ns=int(modified * 1_000_000_000)
        )
        to.add_file(member.name, file)
    else:
        kinds = {tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe"}
        account.leave_out(member.name, f"{kinds.get(member.type, 'of an unknown kind')}, which WASI has not")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- bytes ------------------------------------------------------------------------------------------------------------


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _TooMuchError(UserError):
    """A bound is passed: there is no use in reading on."""


def _too_large(bounds: Bounds) -> _TooMuchError:
    return _TooMuchError(f"the image unpacks to more than {bounds.content_bytes} bytes")


class _Hashing(io.RawIOBase):
    """The blob's bytes, counted and hashed on their way."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.bytes = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._source.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self._hash.update(chunk)
        self.bytes += len(chunk)
        return len(chunk)

    def drain(self) -> None:
        """Read what is left."""
        while self.read(MAX_READ_BYTES):
            pass


class _Archive(io.RawIOBase):
    """The archive's bytes for tarfile: forward only, bounded, counted and hashed."""

    def __init__(self, source: _Source, raw: _Hashing, account: Account) -> None:
        self._source, self._raw, self._account = source, raw, account
        self._hash = hashlib.sha256()
        self._position = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0 or offset < self._position:
            raise tarfile.ReadError("its members lie in one another")
        while self._position < offset and self.read(min(offset - self._position, MAX_READ_BYTES)):
            pass
        return self._position

    def read(self, size: int | None = -1) -> bytes:
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
            raise _too_large(bounds)
        if self._position > RATIO_FROM_BYTES and self._position > bounds.ratio * self._raw.bytes:
            raise _TooMuchError(f"it unpacks to more than {bounds.ratio} times its size")


def _decompressed(raw: _Hashing) -> _Source:
    """The archive, by what the blob's first bytes say: media types are often wrong about it (docker looks too)."""
    buffered = io.BufferedReader(raw, MAX_READ_BYTES)
    head = buffered.peek(4)[:4]
    if head.startswith(_GZIP):
        return gzip.GzipFile(fileobj=buffered, mode="rb")
    magic, lowest = _ZSTD_SKIPPABLE
    if head == _ZSTD or (head[1:] == magic and head[0] & 0xF0 == lowest):
        opened: _Source = _zstd().ZstdFile(buffered)
        return opened
    return buffered


def _zstd() -> Any:
    """The standard library's from Python 3.14 on, which has the same in a package before."""
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415
    return zstd


def _broken() -> tuple[type[Exception], ...]:
    """What an archive, or its compression, is not whole with."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    loaded: Any = sys.modules.get(name)
    errors = (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, ValueError, OverflowError)
    return errors if loaded is None else (*errors, loaded.ZstdError)
