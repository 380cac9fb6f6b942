"""`wasmlet images`, `pull`, `push`, `rmi`, `prune`, `save` and `load`: the local store and registries.

The store is made for several processes, so these commands need no agent; `rmi` and `prune` ask the one that runs what
is in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import click

from wasmlet import agent, config
from wasmlet.base import clock
from wasmlet.base.errors import ConflictError, GuestError, NotFoundError, UserError
from wasmlet.cli.output import Table, output_option, print_json, shown_size
from wasmlet.cli.pods import accounts, age
from wasmlet.images import archives, naming
from wasmlet.images.image import Progress, StoredImage
from wasmlet.images.layouts import Binary, Interfaces
from wasmlet.images.library import Library
from wasmlet.images.reference import parse_remote
from wasmlet.images.store import Store
from wasmlet.pods.accounts import Account
from wasmlet.pods.references import images_of

STREAM = Path("-")
"""Standard input or output in the place of a file's name."""
PRUNED_SECONDS = 60.0
"""Blobs that came later may be of an image that another process pulls now."""


@click.command("images")
@output_option
@click.pass_obj
def images_command(state: str | None, output: str) -> None:
    """List the images in the local store."""

    async def listed() -> list[StoredImage]:
        library = _library(config.load(state=state))
        try:
            return await library.images()
        finally:
            await library.close()

    images = asyncio.run(listed())
    if output == "json":
        print_json(images)
        return
    table = Table("REFERENCE", "DIGEST", "SIZE", "AGE")
    for each in images:
        created = clock.to_text(clock.from_text(each.created)) if each.created else None
        table.add(each.reference, each.digest[:19], shown_size(each.size_bytes), age(created))
    table.print()


@click.command("pull")
@click.argument("reference")
@click.option("--image-policy", metavar="FILE", help="Which images may be used [env: WASMLET_IMAGE_POLICY].")
@click.pass_obj
def pull_command(state: str | None, reference: str, image_policy: str | None) -> None:
    """Fetch the image REFERENCE from its registry into the local store, and print its digest."""
    parse_remote(reference)  # a `file:` is nothing to fetch

    async def pull() -> str:
        library = _library(config.load(state=state, image_policy=image_policy))
        try:
            image = await library.pull(reference, credentials=agent.logins(), progress=_progress())
            return image.image_id
        finally:
            await library.close()

    click.echo(asyncio.run(pull()))


@click.command("push")
@click.argument("module", type=click.Path(path_type=Path))
@click.argument("reference")
@click.option("--layout", type=click.Choice(["cncf", "krustlet"]), default="cncf", show_default=True)
@click.option("-a", "--annotation", "annotations", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.pass_obj
def push_command(
    state: str | None,
    module: Path,
    reference: str,
    layout: Literal["cncf", "krustlet"],
    annotations: tuple[str, ...],
) -> None:
    """Send the file MODULE to a registry as the image REFERENCE, and print its digest."""
    if not module.exists():
        raise NotFoundError(f"no such file: {module}")
    pairs = dict(_pair(each) for each in annotations)
    interfaces = _interfaces(module) if layout == "cncf" else None

    async def push() -> str:
        library = _library(config.load(state=state))
        try:
            return await library.push(
                module,
                reference,
                layout=layout,
                credentials=agent.logins(),
                annotations=pairs,
                interfaces=interfaces,
            )
        finally:
            await library.close()

    click.echo(asyncio.run(push()))


@click.command("rmi")
@click.argument("references", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Also all references of an image that is named by its ID.")
@click.pass_obj
def rmi_command(state: str | None, references: tuple[str, ...], force: bool) -> None:
    """Remove images from the local store, by reference or by ID; one that a living pod uses is refused."""
    settings = config.load(state=state)

    async def remove() -> None:
        _, pods = await accounts(settings)
        users = {name: each.pod.metadata.name for each in pods for name in _used_by(each)}
        library = _library(settings)
        try:
            for word in references:
                names = [each.reference for each in naming.named(await library.images(), word, every=force)]
                for name in names:
                    if name in users:
                        pod = users[name]
                        raise ConflictError(f"pod {pod} uses {name}", hint=f"remove it first: wasmlet rm {pod}")
                for name in names:
                    await library.discard(name)
                    click.echo(name)
        finally:
            await library.close()

    asyncio.run(remove())


@click.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="Also every image that no pod uses.")
@click.pass_obj
def prune_command(state: str | None, everything: bool) -> None:
    """Remove from the local store what no image needs, and tell how much space that frees."""
    settings = config.load(state=state)

    async def prune() -> int:
        _, pods = await accounts(settings)
        used = {name for each in pods for name in _used_by(each)}
        library = _library(settings)
        try:
            freed = await library.remove_unneeded(older_than_seconds=PRUNED_SECONDS)
            for image in await library.images() if everything else []:
                if used.isdisjoint((image.reference, image.image_id)):
                    freed += await library.discard(image.reference)
                    click.echo(image.reference)
            return freed
        finally:
            await library.close()

    click.echo(f"{shown_size(asyncio.run(prune()))} freed")


@click.command("save")
@click.argument("references", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help='The archive; "-", or none: standard output.')
@click.pass_obj
def save_command(state: str | None, references: tuple[str, ...], output: Path | None) -> None:
    """Write images of the local store as one OCI archive, which podman and skopeo read (`oci-archive:`)."""
    store = _store(state)
    names = [str(parse_remote(each)) for each in references]
    if output is None or output == STREAM:
        if sys.stdout.isatty():
            raise UserError("an archive is not written to a terminal", hint="name a file: -o FILE")
        archives.save(store, names, sys.stdout.buffer)
        return
    try:
        with _written(output) as stream:
            archives.save(store, names, stream)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error


@click.command("load")
@click.option(
    "-i", "--input", "source", type=click.Path(path_type=Path), help='The archive; "-", or none: standard input.'
)
@click.option("--name", help="What to call an image that the archive does not name.")
@click.pass_obj
def load_command(state: str | None, source: Path | None, name: str | None) -> None:
    """Take the images of an OCI archive (of `wasmlet save`, podman, skopeo or docker) into the local store."""
    source = None if source == STREAM else source
    if source is None and sys.stdin.isatty():
        raise UserError("an archive is not read from a terminal", hint="name a file: -i FILE")
    store, called = _store(state), None if name is None else str(parse_remote(name))
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if source is None else source.open("rb") as stream:
            loaded = archives.load(store, stream, name=called)
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {source}") from None
    except OSError as error:
        raise UserError(f"cannot read {source or 'standard input'}: {error.strerror}") from error
    except UserError as error:
        raise UserError(f"cannot load {source or 'standard input'}: {error.message}", hint=error.hint) from error
    for each in loaded:
        click.echo(each)


def _used_by(account: Account) -> set[str]:
    """The references and image IDs of a pod's containers, and the references of its volumes."""
    if account.stage == "gone":
        return set()
    status = account.pod.status
    containers = [*status.init_container_statuses, *status.container_statuses]
    return images_of(account.pod) | {name for each in containers for name in (each.image, each.image_id)}


@contextlib.contextmanager
def _written(output: Path) -> Iterator[BinaryIO]:
    """A file that comes to be as a whole, where links lead; a device or a pipe takes what comes.

    Raises:
        OSError: It cannot be written. Nothing new is left.
    """
    if output.exists() and not output.is_file():
        with output.open("wb") as stream:
            yield stream
        return
    target = Path(os.path.realpath(output))
    partly = target.with_name(f".{target.name[:200]}.{os.getpid()}")
    ended = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with partly.open("xb") as stream:
            yield stream
        partly.rename(target)
    finally:
        partly.unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, ended)


def _store(state: str | None) -> Store:
    settings = config.load(state=state)
    config.make_state_directory(settings)
    return Store(agent.image_settings(settings).directory)


def _library(settings: config.Config) -> Library:
    config.make_state_directory(settings)
    return Library(agent.image_settings(settings), sources=agent.image_sources(settings))


def _interfaces(module: Path) -> Interfaces | None:
    """What a component imports and exports, as the engine reads it; None for everything else.

    Raises:
        GuestError: It begins as a component and is none.
    """
    if not module.is_file():
        return None
    with module.open("rb") as stream:
        if stream.read(len(Binary.COMPONENT.value)) != Binary.COMPONENT.value:
            return None
    from wasmlet.sandbox import inspection
    from wasmlet.sandbox.program import find_engine_program

    try:
        found = inspection.inspect(module, program=find_engine_program())
    except GuestError as error:
        raise GuestError(f"cannot push {module}: {error.message}", hint=error.hint, reason=error.reason) from error
    return Interfaces(imports=tuple(found.imports), exports=tuple(found.exports))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UserError(f"--annotation {text!r} is no KEY=VALUE")
    return key, value


def _progress() -> Callable[[Progress], None] | None:
    """A bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    status = Console(stderr=True).status("asking the registry")
    status.start()

    def show(each: Progress) -> None:
        total = f" of {shown_size(each.total_bytes)}" if each.total_bytes else ""
        status.update(f"pulling {each.reference}: {shown_size(each.received_bytes)}{total}")
        if each.total_bytes and each.received_bytes >= each.total_bytes:
            status.stop()

    return show
