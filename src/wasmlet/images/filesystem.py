"""The file system of an image as a value: what its layers add and take away, and where a path leads. Pure.

Paths of layers never meet the disk: they are followed here, in a tree of names of one component each, as if the
image's root were the root of everything (a link to `/etc`, or to `../../..`, stays inside). What comes out is a tree
of directories, links and numbered contents, which `laying` writes down component by component.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Final

import msgspec

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.images.manifest import shown

MAX_NAME_BYTES: Final = 255
MAX_PATH_BYTES: Final = 4096
MAX_LINKS: Final = 40
"""NAME_MAX, PATH_MAX and the number of links that Linux follows in one path."""

MAX_DEPTH: Final = 128
"""Own bound: the deepest trees of published packages have some 30 levels."""

WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"
_OTHER_WHITEOUT: Final = ".wh..wh."  # notes of aufs, which mean nothing in a layer (as containerd has it)


class File(msgspec.Struct, tag="file", tag_field="is", omit_defaults=True, gc=False):
    """A regular file; hard links are entries of one number.

    Attributes:
        number: Of the content in the tree.
        modified_ns: Since 1970.
        digest: `sha256:…` of a content that begins as WebAssembly does; else "".
        layer: The layer that put it there.
    """

    number: int
    size_bytes: int = 0
    executable: bool = False
    modified_ns: int = 0
    digest: str = ""
    layer: int = 0


class Link(msgspec.Struct, tag="link", tag_field="is", omit_defaults=True, gc=False):
    """A symbolic link; `target` as the layer has it."""

    target: str
    layer: int = 0


class Directory(msgspec.Struct, tag="directory", tag_field="is", omit_defaults=True):
    """Names of one component, and what they stand for."""

    entries: dict[str, Directory | File | Link] = {}
    layer: int = 0


class FileSystem:
    """Layers one upon the other (image-spec 1.1, layer.md); call `begin_layer` before the first operation of each."""

    def __init__(self, root: Directory | None = None) -> None:
        self.root = Directory() if root is None else root
        self._layer = 0

    def begin_layer(self) -> None:
        """What follows belongs to the next layer, and whiteouts in it reach what is there now."""
        self._layer += 1

    def add_directory(self, path: str) -> None:
        """A directory, or the one that is there; something else is replaced.

        Raises:
            UserError: As all that follow: the path climbs out, is too long or too deep, or leads through a file.
        """
        parts = split(path)
        if not parts:
            return
        parent = self._parent(parts, path)
        there = parent.entries.get(parts[-1])
        if isinstance(there, Directory):
            there.layer = self._layer
        else:
            parent.entries[parts[-1]] = Directory(layer=self._layer)

    def add_file(self, path: str, file: File) -> None:
        """A file in the place of whatever is there."""
        parts = split(path)
        if not parts:
            raise UserError("a file takes the place of the root directory")
        self._parent(parts, path).entries[parts[-1]] = msgspec.structs.replace(file, layer=self._layer)

    def add_link(self, path: str, target: str) -> None:
        """A symbolic link, which may lead nowhere."""
        parts = split(path)
        if not parts:
            raise UserError("a link takes the place of the root directory")
        if not target or len(_bytes(target)) > MAX_PATH_BYTES or "\0" in target:
            raise UserError(f"the target of link {shown(path)} is empty or longer than {MAX_PATH_BYTES} bytes")
        self._parent(parts, path).entries[parts[-1]] = Link(target, layer=self._layer)

    def add_hard_link(self, path: str, target: str) -> None:
        """A further name of a file (or of a link) that is there already.

        Raises:
            UserError: The image has no such file; or see `add_directory`.
        """
        parts, wanted = split(path), split(target)
        about = f"hard link {shown(path)} to {shown(target)}"
        try:
            there = self._follow(wanted[:-1]).entries.get(wanted[-1]) if wanted else self.root
        except NotFoundError:
            there = None
        if there is None:
            raise UserError(f"{about}: the image has no such file")
        if isinstance(there, Directory) or not parts:
            raise UserError(f"{about}: that is a directory")
        self._parent(parts, path).entries[parts[-1]] = msgspec.structs.replace(there, layer=self._layer)

    def take_away(self, path: str) -> bool:
        """Obey `path` if it is a whiteout: what it names in lower layers goes. Whether it was one."""
        parts = split(path)
        if not parts or not parts[-1].startswith(WHITEOUT):
            return False
        name = parts[-1].removeprefix(WHITEOUT)
        if parts[-1] != OPAQUE and not parts[-1].startswith(_OTHER_WHITEOUT) and name in ("", ".", ".."):
            raise UserError(f"the whiteout {shown(path)} names nothing")
        try:
            parent = self._follow(parts[:-1])
        except NotFoundError:
            return True
        if parts[-1] == OPAQUE:
            self._clear(parent)
        elif not parts[-1].startswith(_OTHER_WHITEOUT):
            self._remove(parent, name)
        return True

    def find(self, path: str) -> tuple[str, Directory | File]:
        """What a program sees at `path`, following links, and its path without any.

        Raises:
            NotFoundError: Nothing is there.
        """
        try:
            stack, file = self._walk([part for part in path.split("/") if part not in ("", ".")])
        except NotFoundError:
            raise NotFoundError(f"there is no {shown(path)}") from None
        directory = "".join(f"/{name}" for name, _ in stack[1:])
        return (directory or "/", stack[-1][1]) if file is None else (f"{directory}/{file[0]}", file[1])

    def files(self) -> Iterator[tuple[str, File]]:
        """Every regular file by its path, in order."""
        waiting = [("", self.root)]
        while waiting:
            path, directory = waiting.pop()
            for name in sorted(directory.entries):
                there = directory.entries[name]
                if isinstance(there, File):
                    yield f"{path}/{name}", there
                elif isinstance(there, Directory):
                    waiting.append((f"{path}/{name}", there))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _parent(self, parts: list[str], path: str) -> Directory:
        """The directory for a new entry; missing ones are made, as a layer may leave them out."""
        try:
            stack, file = self._walk(parts[:-1], make=True)
        except NotFoundError as error:
            raise UserError(f"{shown(path)} lies below something that is no directory") from error
        if file is not None:
            raise UserError(f"{shown(path)} lies below the file {shown(file[0])}")
        return stack[-1][1]

    def _follow(self, parts: list[str]) -> Directory:
        stack, file = self._walk(parts)
        if file is not None:
            raise NotFoundError("a file")
        return stack[-1][1]

    def _walk(
        self, parts: list[str], *, make: bool = False
    ) -> tuple[list[tuple[str, Directory]], tuple[str, File] | None]:
        """The directories on a way and the file at its end, links followed as RESOLVE_IN_ROOT of openat2 would."""
        stack = [("", self.root)]
        waiting, links = parts[::-1], 0
        while waiting:
            part = waiting.pop()
            if part == "..":
                stack = stack[:-1] or stack
                continue
            there = stack[-1][1].entries.get(part)
            if there is None and make:
                there = stack[-1][1].entries[part] = Directory(layer=self._layer)
            if isinstance(there, Directory) and len(stack) < MAX_DEPTH:
                stack.append((part, there))
            elif isinstance(there, File) and not waiting:
                return stack, (part, there)
            elif isinstance(there, Link) and links < MAX_LINKS:
                links += 1
                stack = stack[:1] if there.target.startswith("/") else stack
                waiting += [each for each in there.target.split("/") if each not in ("", ".")][::-1]
            else:
                raise NotFoundError("nothing, a file on the way, links in a circle, or too deep")
        return stack, None

    def _remove(self, parent: Directory, name: str) -> None:
        there = parent.entries.get(name)
        if isinstance(there, Directory):
            self._clear(there)
            if there.entries or there.layer == self._layer:
                return
        if there is not None and there.layer != self._layer:
            del parent.entries[name]

    def _clear(self, directory: Directory) -> None:
        """Everything of lower layers goes; the order of entries in a layer says nothing (layer.md)."""
        for name in list(directory.entries):
            self._remove(directory, name)


def split(path: str) -> list[str]:
    """The components of a layer's path; a leading `/` or `./` says nothing, and `..` is taken by its letters.

    Raises:
        UserError: It climbs out of the root, or is too long.
    """
    parts: list[str] = []
    if len(_bytes(path)) > MAX_PATH_BYTES or "\0" in path:
        raise UserError(f"the path {shown(path[:64])} holds a NUL or is longer than {MAX_PATH_BYTES} bytes")
    for part in path.split("/"):
        if part == "..":
            if not parts:
                raise UserError(f"the path {shown(path)} climbs out of the root directory")
            parts.pop()
        elif part not in ("", "."):
            if len(_bytes(part)) > MAX_NAME_BYTES:
                raise UserError(f"the path {shown(path[:64])} holds a name longer than {MAX_NAME_BYTES} bytes")
            parts.append(part)
    return parts


def inside(target: str, depth: int) -> str:
    """A link's target as guests can follow it: WASI follows none that is absolute or climbs above its root.

    Args:
        depth: How many directories the link's own lies below the root.
    """
    if target.startswith("/"):
        parts = _clamped(target)
        return "/".join([".."] * depth + parts) or "."
    parts = [part for part in target.split("/") if part not in ("", ".")]
    climbs = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    return "/".join([".."] * min(climbs, depth) + parts[climbs:]) or "."


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _clamped(path: str) -> list[str]:
    """Components of an absolute path as a kernel reads them where no link is on the way: `..` of the root is itself."""
    return [part for part in posixpath.normpath("/" + path.lstrip("/")).split("/") if part]
