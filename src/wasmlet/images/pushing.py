"""A Wasm file on this machine → an image in a registry."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.images.credentials import Credential
from wasmlet.images.layouts import WASM_LAYER, Binary, Interfaces, Layout, WasiOs, build, detect_binary
from wasmlet.images.manifest import TITLE, Descriptor, digest_of
from wasmlet.images.reference import Reference
from wasmlet.images.threads import in_thread

if TYPE_CHECKING:
    from wasmlet.images.registry import Registry

_READ_SIZE: Final = 1 << 20
_PREAMBLE_BYTES: Final = 8
_MAX_LENGTH_BYTES: Final = 5
"""Of a u32 in LEB128."""


async def push_module(
    registry: Registry,
    path: Path,
    reference: Reference,
    *,
    layout: Layout,
    wasi_os: WasiOs | None,
    logins: Sequence[Credential],
    annotations: Mapping[str, str],
    interfaces: Interfaces | None,
) -> str:
    """Upload the module, its config, and last the manifest, whose digest is returned.

    The image's time is the file's, so that the same file gives the same image. Arguments as `Library.push`.

    Raises:
        UserError: Not a Wasm file, no right to push, or the reference has a digest.
        RetryableError: The registry is not well.
    """
    if reference.digest is not None:
        raise UserError(f"image {reference} is named by a digest, which cannot be pushed to", hint="push to a tag")
    with contextlib.closing(_open(path)) as stream:
        module, binary = await _describe(stream, path)
        package = build(
            layout,
            module=module,
            wasi_os=wasi_os or ("wasip2" if binary is Binary.COMPONENT else "wasip1"),
            created=datetime.fromtimestamp(int(os.fstat(stream.fileno()).st_mtime), UTC),
            annotations=annotations,
            interfaces=interfaces,
        )
        await registry.push_blob(reference, module, stream, logins)
    config = Descriptor(media_type="", digest=digest_of(package.config), size=len(package.config))
    await registry.push_blob(reference, config, io.BytesIO(package.config), logins)
    return await registry.push_manifest(reference, package.manifest, package.media_type, logins)


def _open(path: Path) -> BinaryIO:
    try:
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(f"module {path} does not exist") from error
    except OSError as error:
        raise UserError(f"cannot read module {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise UserError(f"module {path} is not a regular file")
    return stream


def _is_whole(stream: BinaryIO, size_bytes: int) -> bool:
    """Whether the file's sections (id, length, content) end where it ends; so they do in modules and components."""
    position = _PREAMBLE_BYTES
    while position < size_bytes:
        stream.seek(position)
        head = stream.read(1 + _MAX_LENGTH_BYTES)[1:]
        last = next((number for number, byte in enumerate(head) if byte < 0x80), None)
        if last is None:
            return False
        length = sum((byte & 0x7F) << 7 * number for number, byte in enumerate(head[: last + 1]))
        position += 1 + last + 1 + length
    return position == size_bytes


async def _describe(stream: BinaryIO, path: Path) -> tuple[Descriptor, Binary]:
    """The module's descriptor, and what kind it is.

    Raises:
        UserError: It is not Wasm, or not all of it.
    """
    digest, size_bytes = hashlib.sha256(), 0
    content = await in_thread(stream.read, _READ_SIZE)
    try:
        binary = detect_binary(content)
    except UserError as error:
        raise UserError(f"cannot use {path}: {error.message}", hint="push a .wasm file") from error
    while content:
        await in_thread(digest.update, content)
        size_bytes += len(content)
        content = await in_thread(stream.read, _READ_SIZE)
    if not await in_thread(_is_whole, stream, size_bytes):
        raise UserError(f"cannot use {path}: it is cut, or not WebAssembly after its beginning", hint="make it again")
    await in_thread(stream.seek, 0)
    module = Descriptor(
        media_type=WASM_LAYER,
        digest=f"sha256:{digest.hexdigest()}",
        size=size_bytes,
        annotations={TITLE: path.name},
    )
    return module, binary
