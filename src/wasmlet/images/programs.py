"""Which WebAssembly module the first word of a command names, in the files of an image.

As runwasi finds it: a word with a slash is a path, another is looked up in PATH, then in the working directory. What
follows `#` is the function to call in the place of the usual one.
"""

from __future__ import annotations

import itertools
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wasmlet.base.errors import GuestError, NotFoundError, UserError
from wasmlet.images.filesystem import File
from wasmlet.images.layouts import detect_binary
from wasmlet.images.manifest import shown, shown_list
from wasmlet.images.trees import Tree

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What docker and containerd look programs up in where the image names no PATH."""

_HEAD_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Program:
    """A module to compile and run.

    Attributes:
        module: The file with the Wasm bytes; its name is wasmlet's own, without links.
        digest: Of the bytes, the key of everything compiled from them.
        name: What people call it.
        function: The export to call; "" for the usual one.
    """

    module: Path
    digest: str
    name: str
    size_bytes: int
    function: str = ""


def find(tree: Tree, word: str, *, search: str, working_directory: str) -> Program:
    """The program that `word` names.

    Args:
        search: PATH of the container; "" takes `DEFAULT_PATH`.
        working_directory: Absolute.

    Raises:
        NotFoundError: The image has no such file.
        GuestError: It is no WebAssembly (reason `NotWasm`).
    """
    path, file, function = _found(tree, word, search or DEFAULT_PATH, working_directory)
    module = tree.content(file.number)
    if not file.digest:
        with module.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        try:
            detect_binary(head)
        except UserError as error:
            raise GuestError(f"{shown(path)} cannot be run: {error.message}", reason="NotWasm") from error
    return Program(module, file.digest, posixpath.basename(path), file.size_bytes, function)


def readings(word: str) -> list[tuple[str, str]]:
    """What `word` may mean, the likeliest first: a file's name, and its function to call ("" is the usual one)."""
    name, separator, function = word.rpartition("#")
    return [(word, ""), *([(name, function)] if separator and name else [])]  # `#` may be part of a file's name


def _found(tree: Tree, word: str, search: str, working_directory: str) -> tuple[str, File, str]:
    for named, wanted in readings(word):
        for candidate in _candidates(named, search, working_directory):
            try:
                path, there = tree.files.find(candidate)
            except NotFoundError:
                continue
            if isinstance(there, File):
                return path, there, wanted
    modules = [path for path, file in itertools.islice(tree.files.files(), 1000) if file.digest]
    raise NotFoundError(
        f"there is no program {shown(word)} in the image",
        hint=f"it holds these WebAssembly modules: {shown_list(modules)}",
    )


def _candidates(named: str, search: str, working_directory: str) -> list[str]:
    if "/" in named:
        return [posixpath.join(working_directory, named)]
    directories = [posixpath.join(working_directory, each) for each in search.split(":")]
    return [posixpath.join(directory, named) for directory in (*directories, working_directory)]
