"""Spin's applications (`spin registry push`): their components, and which routes, files and variables each has. Pure.

An application is a manifest whose layers are components (Krustlet's media type), files, and a document that puts them
together: the locked application (spin, crates/locked-app). What a component imports of Spin's own interfaces no engine
here provides, and the compile helper names it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from wasmlet.base.errors import UserError
from wasmlet.images.application import Part, place
from wasmlet.images.configuration import ImageConfig
from wasmlet.images.layouts import WASM_LAYERS, Choice
from wasmlet.images.manifest import Descriptor, Manifest, shown, shown_list

APPLICATION: Final = "application/vnd.fermyon.spin.application.v1+config"
_EVERYTHING: Final = "/..."
_ARCHIVE: Final = "application/vnd.wasm.content.bundle.v1.tar+gzip"


class _Content(msgspec.Struct):
    digest: str | None = None
    inline: bytes | None = None


class _Source(msgspec.Struct):
    content: _Content = msgspec.field(default_factory=_Content)


class _File(msgspec.Struct):
    path: str
    content: _Content = msgspec.field(default_factory=_Content)


class LockedComponent(msgspec.Struct):
    """A component of a locked application (spin, crates/locked-app)."""

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
    static_response: Any = None


class _Trigger(msgspec.Struct):
    trigger_type: str
    trigger_config: _TriggerConfig = msgspec.field(default_factory=_TriggerConfig)


class _Variable(msgspec.Struct):
    default: str | None = None


class _Application(msgspec.Struct):
    triggers: list[_Trigger] = []
    components: list[LockedComponent] = []
    variables: dict[str, _Variable] = {}


def description(manifest: Manifest) -> Descriptor | None:
    """The layer with the locked application; None when the image is something else."""
    return next((layer for layer in manifest.layers if layer.media_type == APPLICATION), None)


def choose(manifest: Manifest, locked: bytes) -> Choice:
    """What of an application is served.

    Args:
        locked: The content of `description`.

    Raises:
        UserError: Not an application, or one that wasmlet cannot serve; the message says why.
    """
    try:
        document = msgspec.json.decode(locked)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(error) from error
    layers = {layer.digest: layer for layer in manifest.layers}
    archives = tuple(layer for layer in manifest.layers if layer.media_type == _ARCHIVE)
    picks = list[tuple[str, str]]()
    parts = list[tuple[Part, Descriptor]]()
    stored, inline = list[tuple[Descriptor, str]](), list[tuple[str, bytes]]()
    for component, part in served(document):
        module = layers.get(component.source.content.digest or "")
        if module is None or module.media_type not in WASM_LAYERS:
            raise UserError(f"the application has no layer with its component {shown(component.id)}")
        for file in component.files:
            layer, name = layers.get(file.content.digest or ""), place(len(parts), file.path)
            if layer is not None:
                stored.append((layer, name))
            elif file.content.inline is not None:
                inline.append((name, file.content.inline))
            elif archives and file.content.digest is not None:
                picks.append((file.content.digest, name))
            else:
                raise UserError(f"the application has no layer with its file {shown(file.path)}")
        parts.append((part, module))
    first, module = parts[0]
    return Choice(
        module,
        f"{first.name}.wasm",
        ImageConfig(),
        layers=(*(archives if picks else ()), *(layer for layer, _ in stored)),
        diff_ids=("",) * (len(stored) + (len(archives) if picks else 0)),
        names=(*("" for _ in archives if picks), *(name for _, name in stored)),
        picks=tuple(picks),
        inline=tuple(inline),
        parts=tuple(parts),
    )


def served(document: Any) -> list[tuple[LockedComponent, Part]]:
    """The components that answer requests from outside, in the order of their triggers.

    Args:
        document: A locked application, decoded.

    Raises:
        UserError: It is none, or one that wasmlet cannot serve.
    """
    try:
        application = msgspec.convert(document, _Application)
    except msgspec.ValidationError as error:
        raise _broken(error) from error
    return [(component, _part(component, routes, application)) for component, routes in _served(application)]


def _broken(error: Exception) -> UserError:
    return UserError(f"the Spin application is broken: {shown(str(error))}")


def _part(component: LockedComponent, routes: list[str], application: _Application) -> Part:
    defaults = {name: each.default for name, each in application.variables.items() if each.default is not None}
    return Part(
        component.id,
        tuple(routes),
        tuple(component.env.items()),
        tuple(component.config.items()),
        tuple(defaults.items()),
    )


def _served(application: _Application) -> list[tuple[LockedComponent, list[str]]]:
    kinds = {each.trigger_type for each in application.triggers}
    if kinds != {"http"}:
        raise UserError(
            f"it is a Spin application with triggers of type {shown_list(sorted(kinds))}",
            hint="wasmlet serves those of type http",
        )
    routes: dict[str, list[str]] = {}
    for each in application.triggers:
        route = _route(each.trigger_config)
        if route is not None:
            routes.setdefault(str(each.trigger_config.component), []).append(route)
    if not routes:
        raise UserError("every component of the Spin application is private: nobody could ask it anything")
    components = {each.id: each for each in application.components}
    served = []
    for name, its in routes.items():
        component = components.get(name)
        if component is None:
            raise UserError(f"the Spin application has no component {shown(name)}")
        if component.dependencies:
            raise UserError(
                f"the Spin component {shown(name)} comes apart from its dependencies "
                f"({shown_list(sorted(component.dependencies))})",
                hint="push it composed, as `spin registry push` does by itself",
            )
        served.append((component, its))
    return served


def _route(trigger: _TriggerConfig) -> str | None:
    """Where a trigger's component answers; None for a private one, which only other components could reach."""
    about = f"the route {shown(str(trigger.route))}"
    if trigger.static_response is not None:
        raise UserError(f"{about} of the Spin application has a static response, which wasmlet does not give")
    if (trigger.executor or {}).get("type") == "wagi":
        raise UserError(
            f"{about} of the Spin application has the executor wagi",
            hint=f"build its component {shown(str(trigger.component))} for wasi:http",
        )
    if trigger.route is None:
        return _EVERYTHING
    if isinstance(trigger.route, dict) and trigger.route.get("private") is True:
        return None
    if not isinstance(trigger.route, str):
        raise UserError(f"{about} of the Spin application is neither a path nor {{ private = true }}")
    return trigger.route
