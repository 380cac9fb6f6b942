"""Trees: what images of files unpack to, once each, shared by all containers until each has its own root from it.

    trees/<chain>/tree.json, files/<number>     one for each chain of layers (config.md, "Layer ChainID")
    trees/.new-<random>/                        one that a helper is making, locked by it

Running containers need no tree: their files are links or copies. So a tree may be removed at any time, and is made
again from the layers when it is wanted, missing or damaged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec

from wasmlet.base import beneath
from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.base.files import read_if_present
from wasmlet.base.flights import Flight, Flights
from wasmlet.base.programs import ask
from wasmlet.images import unpacking
from wasmlet.images.configuration import chain_id
from wasmlet.images.filesystem import FileSystem
from wasmlet.images.layer_bytes import Bounds
from wasmlet.images.layers import DAMAGED
from wasmlet.images.laying import DamagedTreeError, lay
from wasmlet.images.layouts import Choice
from wasmlet.images.manifest import digest_of, shown
from wasmlet.images.threads import in_thread
from wasmlet.images.unpacking import Answer, Inventory, LayerBlob, Task

UNPACK_SECONDS: Final = 1800.0  # on a slow disk; the processor's time has a cap of its own
MAX_ANSWER_BYTES: Final = 1 << 20
PARALLEL: Final = 2
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tree:
    """An image's files.

    Attributes:
        files: What paths lead to.
        layers: What it is made from, lowest first.
    """

    path: Path
    chain: str
    size_bytes: int
    layers: tuple[LayerBlob, ...]
    files: FileSystem = field(repr=False, compare=False)

    def content(self, number: int) -> Path:
        """The file with a content; of the agent's own naming."""
        return self.path / unpacking.FILES / str(number)


class Trees:
    """The trees below one directory; several processes may use it."""

    def __init__(self, directory: Path, bounds: Bounds | None = None) -> None:
        self._directory = directory
        self._bounds = bounds or Bounds()
        self._unpacking: Flights[str, None, None] = Flights("unpacking")
        self._helpers = asyncio.Semaphore(PARALLEL)
        self._laying = asyncio.Semaphore(PARALLEL)  # of its own: a start must not wait for another image's helper

    async def of_image(self, choice: Choice, blob_path: Callable[[str], Path], *, what: str) -> Tree | None:
        """The files of an image; None when it has no layers of files. As `ensure`.

        A layer that was damaged in the store is removed, so that the next pull downloads it.
        """
        if not choice.layers and not choice.inline:
            return None
        names = choice.names or ("",) * len(choice.layers)
        layers = tuple(
            LayerBlob(str(blob_path(layer.digest)), layer.digest, diff_id, name, picks=() if name else choice.picks)
            for layer, diff_id, name in zip(choice.layers, choice.diff_ids, names, strict=True)
        ) + tuple(LayerBlob("", digest_of(content), name=name, inline=content) for name, content in choice.inline)
        try:
            return await self.ensure(chain_of(choice), layers, what=what)
        except RetryableError as error:
            if error.reason == DAMAGED:
                for layer in layers:
                    if layer.path and layer.digest in error.message:
                        Path(layer.path).unlink(missing_ok=True)
            raise

    async def ensure(self, chain: str, layers: Sequence[LayerBlob], *, what: str) -> Tree:
        """The tree of a chain of layers, unpacked now unless it is there.

        Args:
            what: The image, for messages.

        Raises:
            UserError: A layer cannot be used.
            RetryableError: A blob is damaged (reason `DamagedBlob`), the disk is full, or the helper was killed.
        """
        found = await in_thread(self.find, chain, layers)
        for _ in range(2):  # another process may remove it again
            if found is not None:
                return found
            await self._unpacking.join(chain, lambda flight: self._unpack(chain, layers, what, flight), label=what)
            found = await in_thread(self.find, chain, layers)
        if found is None:
            raise RetryableError(f"the files of {what} were removed while they were unpacked")
        return found

    def find(self, chain: str, layers: Sequence[LayerBlob]) -> Tree | None:
        """The tree, if it is there; one whose inventory is broken counts as absent."""
        inventory = self._inventory(chain)
        if inventory is None:
            return None
        return Tree(self._path(chain), chain, inventory.size_bytes, tuple(layers), FileSystem(inventory.root))

    def size_bytes(self, chain: str) -> int:
        """Of its contents on the disk; 0 when it is not there."""
        inventory = self._inventory(chain)
        return 0 if inventory is None else inventory.size_bytes

    async def lay(self, tree: Tree, destination: Path, *, writable: bool, what: str) -> None:
        """Fill the empty directory `destination` with the tree's files; a damaged tree is made again.

        Raises:
            RetryableError: It was removed meanwhile, or cannot be made again now.
            OSError: The disk says no.
        """
        async with self._laying:
            try:
                await in_thread(_lay, tree, destination, writable)
                return
            except DamagedTreeError as error:
                _log.warning("tree is damaged and made again", extra={"image": what, "cause": str(error)})
        await in_thread(self.discard, tree.chain)
        again = replace(await self.ensure(tree.chain, tree.layers, what=what), files=tree.files)
        async with self._laying:
            await in_thread(beneath.remove_tree, destination)
            await in_thread(destination.mkdir)
            await in_thread(_lay, again, destination, writable)

    def discard(self, chain: str) -> None:
        """Remove a tree; nothing there is success."""
        path = self._path(chain)
        away = path.with_name(f"{unpacking.NEW}{os.urandom(8).hex()}")
        try:
            path.rename(away)  # by one step, so that nobody finds half of it
        except FileNotFoundError:
            return
        beneath.remove_tree(away)

    def keep_only(self, chains: Collection[str]) -> int:
        """Remove every other tree, and what killed helpers left; how many bytes of contents went."""
        if not self._directory.is_dir():
            return 0
        unpacking.sweep(self._directory)
        freed = 0
        for path in self._directory.iterdir():
            chain = f"sha256:{path.name}"
            if not path.name.startswith(".") and chain not in chains:
                freed += self.size_bytes(chain)
                self.discard(chain)
        return freed

    async def close(self) -> None:
        """Stop unpacking; what is half done goes."""
        await self._unpacking.close()

    def _path(self, chain: str) -> Path:
        return self._directory / chain.removeprefix("sha256:")

    def _inventory(self, chain: str) -> Inventory | None:
        content = read_if_present(self._path(chain) / unpacking.INVENTORY)
        try:
            return None if content is None else msgspec.json.decode(content, type=Inventory)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    async def _unpack(self, chain: str, layers: Sequence[LayerBlob], what: str, _flight: Flight[None, None]) -> None:
        bounds = self._bounds
        task = Task(str(self._directory), chain, tuple(layers), bounds.content_bytes, bounds.members, bounds.ratio)
        async with self._helpers:
            await in_thread(self._prepare, chain)
            command = [sys.executable, "-P", "-m", unpacking.__name__]
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            try:
                said = await ask(
                    command, seconds=UNPACK_SECONDS, most_bytes=MAX_ANSWER_BYTES, question=msgspec.json.encode(task),
                    environment=environment,
                )  # fmt: skip
            except TimeoutError as error:
                raise RetryableError(f"unpacking {what} takes longer than {UNPACK_SECONDS:g} s") from error
            except OSError as error:
                raise RetryableError(f"cannot unpack {what}: {error.strerror}") from error
            finally:
                await in_thread(unpacking.sweep, self._directory)  # a helper that was ended leaves its half
        answer = _read(said.output)
        if said.status == -signal.SIGXCPU:
            raise UserError(f"unpacking {what} takes more than {unpacking.CPU_SECONDS} s of a processor's time")
        if answer is None:
            raise RetryableError(
                f"the helper that unpacks {what} ended with {said.status}",
                hint="it is tried again; if it stays so, look for the kernel's out-of-memory notes",
            )
        _raise(answer)
        if answer.left_out:
            _log.info("image is unpacked without some entries", extra={"image": what, "left_out": answer.left_out})

    def _prepare(self, chain: str) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.discard(chain)  # there, but broken


def chain_of(choice: Choice) -> str:
    """The name of an image's tree; "" when it has no layers of files.

    It is the image's ChainID where the digests of all archives are known; else one of our own from the blobs.
    """
    if all(choice.diff_ids) and not choice.inline:
        return chain_id(choice.diff_ids) if choice.layers else ""
    names = choice.names or ("",) * len(choice.layers)
    parts = [f"{layer.digest} {name}" for layer, name in zip(choice.layers, names, strict=True)]
    parts += [f"{digest_of(content)} {name}" for name, content in choice.inline]
    parts += [f"{digest} {name}" for digest, name in choice.picks]
    return chain_id([digest_of(part.encode()) for part in parts])


def _lay(tree: Tree, destination: Path, writable: bool) -> None:
    try:
        lay(tree.files.root, tree.path / unpacking.FILES, destination, writable=writable)
    except FileNotFoundError as error:
        raise DamagedTreeError("the unpacked image was removed meanwhile") from error


def _read(output: bytes) -> Answer | None:
    try:
        return msgspec.json.decode(output, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _raise(answer: Answer) -> None:
    error: WasmletError
    if answer.fault == "user":
        error = UserError(shown(answer.message), hint=answer.hint)
    elif answer.fault:
        reason = DAMAGED if answer.reason == DAMAGED else None
        error = RetryableError(shown(answer.message), hint=answer.hint, reason=reason)
    else:
        return
    raise error
