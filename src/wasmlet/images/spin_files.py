"""Spin applications in images of files (`FROM scratch`, a `spin.toml` and what it names), as Spin's shim runs them.

The manifest (version 2, or the older 1) is read into the shape of a locked application; what a component mounts becomes
its directory. Patterns of files are refused, as by the shim; what it would fetch (sources with a URL) is not fetched.
"""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.images import spin
from wasmlet.images.application import ROOT, Component
from wasmlet.images.configuration import SPIN_MANIFEST, ImageConfig
from wasmlet.images.filesystem import Directory, File, FileSystem, split
from wasmlet.images.manifest import shown
from wasmlet.images.trees import Tree

_PLACE: Final = f"/{SPIN_MANIFEST}"
_NO_PROGRAM: Final = ("", "/", SPIN_MANIFEST, _PLACE)
"""First words of a command that name no program: what images and pods for the shim have."""

MAX_MANIFEST_BYTES: Final = 1 << 20


def application(tree: Tree, config: ImageConfig) -> tuple[Tree, tuple[Component, ...]] | None:
    """The components of an image's Spin application, and a tree of their files; None when it is something else.

    Raises:
        UserError: The manifest is broken, or says what wasmlet cannot serve.
        OSError: The disk says no.
    """
    first = next(iter((*config.entrypoint, *config.command)), "")
    manifest = _find(tree.files, _PLACE)
    if first not in _NO_PROGRAM or not isinstance(manifest, File):
        return None
    if manifest.size_bytes > MAX_MANIFEST_BYTES:
        raise UserError(f"{_PLACE} is longer than {MAX_MANIFEST_BYTES} bytes")
    locked, mounts = read(tree.content(manifest.number).read_bytes())
    root, components = Directory(), list[Component]()
    for number, (component, part) in enumerate(spin.served(locked)):
        source, files = mounts[component.id]
        module = _module(tree.files, source, component.id)
        components.append(Component(part, tree.content(module.number), module.digest, module.size_bytes))
        own = _directory(tree.files, files, component.id)
        root.entries[str(number)] = Directory({ROOT: own})
    return replace(tree, files=FileSystem(root)), tuple(components)


def read(manifest: bytes) -> tuple[dict[str, Any], dict[str, tuple[Any, list[Any]]]]:
    """A manifest as a locked application, and of each component its source and its files.

    Raises:
        UserError: It is no manifest.
    """
    try:
        document = tomllib.loads(manifest.decode())
        return _locked(document), _mounts(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # TOML's and UTF-8's are ValueErrors
        raise UserError(f"{_PLACE} cannot be read as a Spin manifest: {shown(str(error))}") from error


def _locked(document: dict[str, Any]) -> dict[str, Any]:
    """The manifest as a locked application; files and sources stay behind."""
    triggers = list(_triggers(document))
    components = [
        {
            "id": name,
            "env": each.get("environment", {}),
            "config": each.get("variables", each.get("config", {})),
            "dependencies": each.get("dependencies", {}),
        }
        for name, each in _components(document)
    ]
    return {"triggers": triggers, "components": components, "variables": document.get("variables", {})}


def _triggers(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    trigger = document.get("trigger", {})
    if _is_old(document):
        for name, each in _components(document):
            config = {"component": name, **each.get("trigger", {})}
            yield {"trigger_type": trigger["type"], "trigger_config": config}
    else:
        for kind, every in trigger.items():
            for each in every:
                yield {"trigger_type": kind, "trigger_config": each}


def _components(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if _is_old(document):
        yield from ((each["id"], each) for each in document.get("component", []))
    else:
        yield from document.get("component", {}).items()


def _is_old(document: dict[str, Any]) -> bool:
    return document.get("spin_manifest_version", document.get("spin_version")) == "1"


def _mounts(document: dict[str, Any]) -> dict[str, tuple[Any, list[Any]]]:
    return {name: (each["source"], list(each.get("files", []))) for name, each in _components(document)}


def _module(files: FileSystem, source: Any, component: str) -> File:
    if not isinstance(source, str):
        raise UserError(
            f"the source of Spin component {shown(component)} is fetched from elsewhere, which wasmlet does not do",
            hint="put the module into the image",
        )
    found = _find(files, source)
    if not isinstance(found, File):
        raise UserError(f"the image has no file {shown(source)}, the source of Spin component {shown(component)}")
    if not found.digest:
        raise UserError(f"{shown(source)}, the source of Spin component {shown(component)}, is no WebAssembly")
    return found


def _directory(files: FileSystem, mounts: list[Any], component: str) -> Directory:
    """A component's files: directories of the image at other places."""
    root = Directory()
    for each in mounts:
        if not isinstance(each, dict) or {*each} != {"source", "destination"}:
            raise UserError(
                f"Spin component {shown(component)} has files by a pattern ({shown(str(each))})",
                hint='name a directory in an image of files: { source = "…", destination = "/…" }',
            )
        found = _find(files, str(each["source"]))
        if not isinstance(found, Directory):
            source = shown(str(each["source"]))
            raise UserError(f"the image has no directory {source}, which Spin component {shown(component)} mounts")
        at = root
        for name in split(str(each["destination"])):
            there = at.entries.get(name)
            # A copy: the directory may be the image's own, which others mount, too.
            below = Directory(dict(there.entries) if isinstance(there, Directory) else {})
            at.entries[name] = below
            at = below
        at.entries.update(found.entries)
    return root


def _find(files: FileSystem, path: str) -> object | None:
    try:
        _, found = files.find(posixpath.join("/", path))
    except NotFoundError:
        return None
    return found
