"""The helper that unpacks an image: layers in the store → a tree, in a short-lived process of its own.

Layers come from strangers, and reading them is work for a processor: here they can take neither the agent's memory
nor its event loop. The process gives way to everything else, keeps to a cap on memory and on CPU time, dies with the
agent, and may read the layers and write below the trees' directory, nothing else (`landlock`). It reads one `Task` and
prints one `Answer`, both JSON.

A tree is a directory: `files/<number>` are the contents, `tree.json` is the `Inventory` that says what they are called
(decision 0018). It is made under another name and renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import io
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from wasmlet.base import beneath
from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.images import landlock
from wasmlet.images.filesystem import Directory, FileSystem
from wasmlet.images.layer_bytes import Account, Bounds
from wasmlet.images.layers import Contents, add, apply, pick
from wasmlet.images.manifest import shown

FILES: Final = "files"
INVENTORY: Final = "tree.json"
NEW: Final = ".new-"
MEMORY_BYTES: Final = 1 << 30  # 200,000 entries take 150 MB; zstd's largest window 128 MiB
CPU_SECONDS: Final = 600
_PR_SET_PDEATHSIG: Final = 1


class LayerBlob(msgspec.Struct, frozen=True):
    """A layer in the store.

    Attributes:
        path: Where its blob lies.
        diff_id: The digest of the archive in it; "" where nothing says it (artifacts have no config).
        name: The blob is a file of this name, and no archive; "" when it is one.
        inline: The file's content itself, when there is no blob (`path` is "" then).
        picks: Of an archive, the files that are taken, when not all are: digests of their contents, and names for them.
    """

    path: str
    digest: str
    diff_id: str = ""
    name: str = ""
    inline: bytes = b""
    picks: tuple[tuple[str, str], ...] = ()


class Task(msgspec.Struct, frozen=True):
    """What to unpack, and below which directory the tree goes."""

    directory: str
    chain: str
    layers: tuple[LayerBlob, ...]
    content_bytes: int = Bounds().content_bytes
    members: int = Bounds().members
    ratio: int = Bounds().ratio


class Inventory(msgspec.Struct, frozen=True):
    """What a tree holds.

    Attributes:
        size_bytes: Of all contents together.
        left_out: What guests have to do without, and why; not all of many.
    """

    chain: str
    root: Directory
    files: int = 0
    size_bytes: int = 0
    left_out: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """How it went; `fault` is "" when the tree is there.

    Attributes:
        fault: `user` when the image cannot be used, `retry` when it may work later.
    """

    fault: str = ""
    message: str = ""
    hint: str | None = None
    reason: str = ""
    left_out: tuple[str, ...] = ()


def unpack(task: Task) -> Inventory:
    """Make the tree of `task`, or find that somebody else just did.

    Raises:
        UserError: A layer cannot be used.
        RetryableError: A blob is damaged.
        OSError: The disk says no.
    """
    directory = Path(task.directory)
    account = Account(Bounds(task.content_bytes, task.members, task.ratio))
    with _temporary(directory) as place:
        (place / FILES).mkdir(mode=0o700)
        tree, contents, picked = FileSystem(), Contents(place / FILES), set[str]()
        for layer in task.layers:
            with open(layer.path, "rb", buffering=0) if layer.path else io.BytesIO(layer.inline) as blob:
                if layer.name:
                    add(blob, digest=layer.digest, name=layer.name, to=tree, contents=contents, account=account)
                elif layer.picks:
                    wanted, given = layer.picks, (tree, contents, account)
                    picked |= pick(blob, digest=layer.digest, wanted=wanted, picked=picked, given=given)
                else:
                    apply(blob, digest=layer.digest, diff_id=layer.diff_id, to=tree, contents=contents, account=account)
        missing = [name for layer in task.layers for digest, name in layer.picks if digest not in picked]
        if missing:
            raise UserError(f"its archives have no file for {shown(missing[0])}")
        sizes = {file.number: file.size_bytes for _, file in tree.files()}
        contents.keep_only(set(sizes))
        inventory = Inventory(task.chain, tree.root, len(sizes), sum(sizes.values()), tuple(account.left_out))
        (place / INVENTORY).write_bytes(msgspec.json.encode(inventory))
        with _unless_there():
            os.rename(place, directory / task.chain.removeprefix("sha256:"))
        return inventory


def main() -> None:
    """Answer the task on standard input."""
    _confine()
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    blobs = [Path(layer.path) for layer in task.layers if layer.path]
    landlock.confine(read=[*blobs, *landlock.interpreter()], write=Path(task.directory))
    sys.stdout.buffer.write(msgspec.json.encode(_answer(task)))


def _answer(task: Task) -> Answer:
    try:
        return Answer(left_out=unpack(task).left_out)
    except UserError as error:
        return Answer("user", error.message, error.hint, error.reason)
    except WasmletError as error:
        return Answer("retry", error.message, error.hint, error.reason)
    except MemoryError:
        return Answer("user", f"its layers take more than {MEMORY_BYTES} bytes of memory to read")
    except FileNotFoundError as error:
        return Answer("retry", f"{error.filename} was removed meanwhile")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space, or remove images that are not used" if full else None
        return Answer("retry", f"cannot write the image's files: {error.strerror or error}", hint)
    except Exception as error:  # its standard error is nobody's
        return Answer("retry", f"unpacking failed: {type(error).__name__}: {error}")


def sweep(directory: Path) -> None:
    """Remove what killed helpers left; the living hold a lock on theirs."""
    for path in directory.glob(f"{NEW}*"):
        with contextlib.suppress(OSError, RetryableError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                beneath.remove_tree(path)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def _temporary(directory: Path) -> Iterator[Path]:
    """A locked directory beside the trees, gone at the end unless it was renamed."""
    while True:
        place = directory / f"{NEW}{os.urandom(8).hex()}"
        place.mkdir(mode=0o700)
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except (FileNotFoundError, BlockingIOError):
            continue  # a sweeper took it for an orphan, and removes it
    try:
        yield place
    finally:
        beneath.remove_tree(place)
        os.close(descriptor)


@contextlib.contextmanager
def _unless_there() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _confine() -> None:
    """Give way to everything else, die with the agent, keep to the caps."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(10)
    os.umask(0o077)
    for what, limit in (
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


if __name__ == "__main__":
    main()
