"""One layer of an image: a tar archive's members → operations on a `FileSystem`, and files with their contents.

Everything here comes from a registry: what breaks the archive, the compression or a bound (`layer_bytes`) is a
`UserError` that names it. Reading goes through the standard library's tarfile, whose headers are read into memory
only up to `MAX_READ_BYTES`.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.images.filesystem import File, FileSystem, split
from wasmlet.images.layer_bytes import (
    MAX_READ_BYTES,
    Account,
    Archive,
    Hashing,
    TooMuchError,
    broken,
    decompressed,
    too_large,
)
from wasmlet.images.manifest import shown

DAMAGED: Final = "DamagedBlob"
"""The reason when the store's copy of a layer is not what was downloaded: the blob is to be fetched again."""

_LAST_SECOND: Final = 1 << 33


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

    def members(archive: Archive) -> None:
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


def _read(blob: IO[bytes], members: Callable[[Archive], None], digest: str, diff_id: str, account: Account) -> None:
    """Reads a whole layer, and tells what is wrong with it."""
    raw = Hashing(blob)
    archive = Archive(decompressed(raw), raw, account)
    failure: WasmletError | None = None
    try:
        members(archive)
        archive.drain()
    except UserError as error:
        failure = error
    except Exception as error:
        if not isinstance(error, broken()):
            raise
        failure = UserError(f"it is no whole tar archive: {shown(str(error))}")
    # A damaged blob explains whatever else went wrong, and only it can be helped.
    if failure is None or not isinstance(failure, TooMuchError):
        raw.drain()
        _require(raw, digest)
    if failure is None and diff_id and archive.digest != diff_id:
        failure = UserError(f"it unpacks to {archive.digest}, but the image's config says {diff_id}")
    if failure is not None:
        raise UserError(f"layer {digest} cannot be used: {failure.message}", hint=failure.hint)


def add(blob: IO[bytes], *, digest: str, name: str, to: FileSystem, contents: Contents, account: Account) -> None:
    """Take a blob as it is for a file called `name`; raises as `apply`."""
    raw = Hashing(blob)
    size = blob.seek(0, os.SEEK_END)
    blob.seek(0)
    account.bytes += size
    if account.bytes > account.bounds.content_bytes:
        raise too_large(account.bounds)
    to.begin_layer()
    to.add_file(name, contents.add(io.BufferedReader(raw, MAX_READ_BYTES), size, executable=False, modified_ns=0))
    raw.drain()
    _require(raw, digest)


def _require(raw: Hashing, digest: str) -> None:
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


def _members(archive: Archive, account: Account) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    opened = tarfile.TarFile(fileobj=archive, mode="r", tarinfo=_Member, encoding="utf-8", errors="surrogateescape")
    while (member := opened.next()) is not None:
        getattr(opened, "members").clear()  # noqa: B009  # not in the stubs; tarfile keeps all of them for ever
        account.members += 1
        if account.members > account.bounds.members:
            raise TooMuchError(f"the image has more than {account.bounds.members} entries")
        yield member, opened


def _content(member: tarfile.TarInfo, opened: tarfile.TarFile, account: Account) -> IO[bytes]:
    if not 0 <= member.size <= account.bounds.content_bytes - account.bytes:
        raise too_large(account.bounds)
    account.bytes += member.size if member.issparse() else 0  # the rest is counted as it is read
    source = opened.extractfile(member)
    assert source is not None
    return source


def _apply_members(archive: Archive, to: FileSystem, contents: Contents, account: Account) -> None:
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
