"""`wasmlet images`, `pull`, `push` and `rmi`: the local store and registries.

The store is made for several processes, so these commands need no agent; `rmi` asks the one that runs what is in use.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import click

from wasmlet import agent, config
from wasmlet.base import clock
from wasmlet.base.errors import ConflictError, NotFoundError, UserError
from wasmlet.cli.output import Table, output_option, print_json, shown_size
from wasmlet.cli.pods import accounts, age
from wasmlet.images.library import Library, Progress, StoredImage
from wasmlet.images.reference import parse_remote


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
@click.pass_obj
def pull_command(state: str | None, reference: str) -> None:
    """Fetch the image REFERENCE from its registry into the local store, and print its digest."""

    async def pull() -> str:
        library = _library(config.load(state=state))
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

    async def push() -> str:
        library = _library(config.load(state=state))
        try:
            return await library.push(module, reference, layout=layout, credentials=agent.logins(), annotations=pairs)
        finally:
            await library.close()

    click.echo(asyncio.run(push()))


@click.command("rmi")
@click.argument("references", nargs=-1, required=True)
@click.pass_obj
def rmi_command(state: str | None, references: tuple[str, ...]) -> None:
    """Remove images from the local store; one that a living pod uses is refused."""
    settings = config.load(state=state)

    async def remove() -> None:
        _, pods = await accounts(settings)
        users = {
            status.image: each.pod.metadata.name
            for each in pods
            if each.stage != "gone"
            for status in [*each.pod.status.init_container_statuses, *each.pod.status.container_statuses]
        }
        library = _library(settings)
        try:
            for reference in references:
                name = str(parse_remote(reference))
                if name in users:
                    pod = users[name]
                    raise ConflictError(f"pod {pod} uses {name}", hint=f"remove it first: wasmlet rm {pod}")
                await library.remove(reference)
                click.echo(reference)
        finally:
            await library.close()

    asyncio.run(remove())


def _library(settings: config.Config) -> Library:
    config.make_state_directory(settings)
    return Library(agent.image_settings(settings))


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
