"""Spin's applications (`spin registry push`): which of their components is served, and its files and variables. Pure.

An application is a manifest whose layers are components (Krustlet's media type), files, and a document that puts them
together: the locked application (spin, crates/locked-app). wasmlet serves applications of one component; what it
imports of Spin's own interfaces no engine here provides, and the compile helper names it.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from wasmlet.base.errors import UserError
from wasmlet.images.configuration import ImageConfig
from wasmlet.images.layouts import WASM_LAYERS, Choice
from wasmlet.images.manifest import Descriptor, Manifest, shown, shown_list

APPLICATION: Final = "application/vnd.fermyon.spin.application.v1+config"
_ARCHIVE: Final = "application/vnd.wasm.content.bundle.v1.tar+gzip"
_TEMPLATE: Final = re.compile(r"\{\{\s*([A-Za-z0-9_-]+)\s*\}\}")


class _Content(msgspec.Struct):
    digest: str | None = None
    inline: bytes | None = None


class _Source(msgspec.Struct):
    content: _Content = msgspec.field(default_factory=_Content)


class _File(msgspec.Struct):
    path: str
    content: _Content = msgspec.field(default_factory=_Content)


class _Component(msgspec.Struct):
    id: str
    source: _Source = msgspec.field(default_factory=_Source)
    env: dict[str, str] = {}
    files: list[_File] = []
    config: dict[str, str] = {}
    dependencies: dict[str, Any] = {}


class _TriggerConfig(msgspec.Struct):
    component: Any = None
    route: Any = None
    executor: dict[str, Any] | None = None


class _Trigger(msgspec.Struct):
    trigger_type: str
    trigger_config: _TriggerConfig = msgspec.field(default_factory=_TriggerConfig)


class _Variable(msgspec.Struct):
    default: str | None = None


class _Application(msgspec.Struct):
    triggers: list[_Trigger] = []
    components: list[_Component] = []
    variables: dict[str, _Variable] = {}


def description(manifest: Manifest) -> Descriptor | None:
    """The layer with the locked application; None when the image is something else."""
    return next((layer for layer in manifest.layers if layer.media_type == APPLICATION), None)


def choose(manifest: Manifest, locked: bytes) -> Choice:
    """The component that an application serves.

    Args:
        locked: The content of `description`.

    Raises:
        UserError: Not an application, or one that wasmlet cannot serve; the message says why.
    """
    application = _parsed(locked)
    component = _served(application)
    layers = {layer.digest: layer for layer in manifest.layers}
    module = layers.get(component.source.content.digest or "")
    if module is None or module.media_type not in WASM_LAYERS:
        raise UserError(f"the application has no layer with its component {shown(component.id)}")
    if any(layer.media_type == _ARCHIVE for layer in manifest.layers):
        raise UserError(
            f"the application's files are in an archive ({_ARCHIVE}), which wasmlet does not read",
            hint="push it without SPIN_OCI_ARCHIVE_LAYERS, with fewer than 500 files",
        )
    stored, inline = list[tuple[Descriptor, str]](), list[tuple[str, bytes]]()
    for file in component.files:
        layer = layers.get(file.content.digest or "")
        if layer is not None:
            stored.append((layer, file.path))
        elif file.content.inline is not None:
            inline.append((file.path, file.content.inline))
        else:
            raise UserError(f"the application has no layer with its file {shown(file.path)}")
    return Choice(
        module,
        f"{component.id}.wasm",
        ImageConfig(environment=_environment(component, application)),
        layers=tuple(layer for layer, _ in stored),
        diff_ids=("",) * len(stored),
        names=tuple(path for _, path in stored),
        inline=tuple(inline),
    )


def _parsed(locked: bytes) -> _Application:
    try:
        return msgspec.json.decode(locked, type=_Application)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"the locked Spin application is broken: {shown(str(error))}") from error


def _served(application: _Application) -> _Component:
    kinds = {each.trigger_type for each in application.triggers}
    if kinds != {"http"}:
        raise UserError(
            f"it is a Spin application with triggers of type {shown_list(sorted(kinds))}",
            hint="wasmlet serves those of type http",
        )
    names = sorted({str(each.trigger_config.component) for each in application.triggers})
    if len(names) > 1:
        routes = [f"{each.trigger_config.route} → {each.trigger_config.component}" for each in application.triggers]
        raise UserError(
            f"it is a Spin application of {len(names)} components ({shown_list(routes)})",
            hint="wasmlet serves applications of one component: push each as one of its own, and route by a Service "
            "or Ingress",
        )
    if any((each.trigger_config.executor or {}).get("type") == "wagi" for each in application.triggers):
        raise UserError("it is a Spin application with the executor wagi", hint="build its component for wasi:http")
    component = next((each for each in application.components if each.id == names[0]), None)
    if component is None:
        raise UserError(f"the Spin application has no component {shown(names[0])}")
    if component.dependencies:
        raise UserError(
            f"the Spin component {shown(component.id)} comes apart from its dependencies "
            f"({shown_list(sorted(component.dependencies))})",
            hint="push it composed, as `spin registry push` does by itself",
        )
    return component


def _environment(component: _Component, application: _Application) -> tuple[tuple[str, str], ...]:
    """The component's variables, also for `wasi:config`; a template that nothing fills is left out."""
    pairs = dict[str, str]()
    for name, text in component.config.items():
        wanted = [application.variables.get(each, _Variable()).default for each in _TEMPLATE.findall(text)]
        if None not in wanted:
            pairs[name] = _TEMPLATE.sub(lambda found: application.variables[found[1]].default or "", text)
    return tuple((pairs | component.env).items())
