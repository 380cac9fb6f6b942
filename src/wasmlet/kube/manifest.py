"""Kubernetes manifests from YAML text: Pods, ConfigMaps and Secrets.

YAML is read as Go's sigs.k8s.io/yaml reads it (YAML 1.1 booleans aside from the bare letters y and n, which Go keeps
as text; no times, no base-60 numbers, 1e3 is a number), since a manifest must mean here what it means to kubectl.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

from wasmlet.base.errors import UserError
from wasmlet.kube.types import ConfigMap, Pod, Secret

MAX_BYTES = 10 * 1024 * 1024
"""A manifest larger than this is a mistake (etcd takes 1.5 MiB an object)."""

MAX_DEPTH = 200
MAX_NODES = 1_000_000
"""Of one text, counted with every alias written out."""

KINDS: dict[str, type[Pod | ConfigMap | Secret]] = {"Pod": Pod, "ConfigMap": ConfigMap, "Secret": Secret}

_WORKLOADS = {"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicationController"}


@dataclass
class Manifest:
    """What a text held, in its order, and what was odd about it."""

    pods: list[Pod] = field(default_factory=list)
    config_maps: list[ConfigMap] = field(default_factory=list)
    secrets: list[Secret] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Loader(yaml.CSafeLoader):
    """CSafeLoader with Go-like scalars."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", "tTfFyYnNoO"),
    ("int", r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("merge", r"<<", "<"),
):  # fmt: skip
    for _letter in _first:
        _Loader.yaml_implicit_resolvers.setdefault("" if _letter == "\0" else _letter, []).append(
            (f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"))
        )


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if re.fullmatch(r"[-+]?0[0-7]+", text):
        return int(text, 8)
    return int(text, 0)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    """Own keys come once and beat merged ones, which come first after `flatten_mapping`."""
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = _key(loader, key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return {_key(loader, key): loader.construct_object(value, deep=True) for key, value in node.value}


def _key(loader: _Loader, node: yaml.Node) -> str:
    """A key as JSON has it: text (sigs.k8s.io/yaml writes 1 as "1" and true as "true")."""
    if node.tag == "tag:yaml.org,2002:merge":
        return "<<"
    key = loader.construct_object(node, deep=True)
    if isinstance(key, bool):
        return str(key).lower()
    if isinstance(key, int | float):
        return repr(key).removesuffix(".0")
    if not isinstance(key, str):
        raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", node.start_mark)
    return key


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def parse(text: str, *, source: str) -> Manifest:
    """Read every document of `text`.

    Args:
        source: What to call the text in messages (the file's name).

    Raises:
        UserError: It is not YAML, holds a kind that cannot be run here, or a field has the wrong type.
    """
    manifest = Manifest()
    for position, document in enumerate(_documents(text, source)):
        where = source if position == 0 else f"{source}, document {position + 1}"
        if document is None:
            continue
        if not isinstance(document, dict):
            what = _kind_of(document)
            raise UserError(f"{where} is {what}, not a Kubernetes object", hint="see demos/ for manifests")
        for each in _items(document):
            _add(manifest, each, where)
    return manifest


def _documents(text: str, source: str) -> Iterator[Any]:
    if len(text) > MAX_BYTES:
        raise UserError(f"{source} has {len(text)} characters; a manifest may have {MAX_BYTES}")
    try:
        _check_size(text)
        yield from yaml.load_all(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise UserError(f"{source} is not YAML{place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source} is not YAML: {str(error).splitlines()[0]}") from error


def _check_size(text: str) -> None:
    """Refuse what would overflow the C parser's stack, or grow without bound by aliases of aliases.

    Looks at events, which the parser makes without recursion.
    """
    anchors: dict[str | None, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            _bound(len(open_nodes), MAX_DEPTH, "levels", event)
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = None, anchors.get(event.anchor, 0)
            if size == 0:
                raise _refusal(f"alias {event.anchor!r} stands for nothing before it", event)
        else:
            anchors.clear()  # a document begins or ends
            continue
        if anchor is not None:
            anchors[anchor] = size
        outer, total = open_nodes[-1]
        open_nodes[-1] = outer, total + size
        _bound(total + size, MAX_NODES, "values", event)


def _bound(count: int, limit: int, what: str, event: yaml.Event) -> None:
    if count > limit:
        raise _refusal(f"it has more than {limit} {what}", event)


def _refusal(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    mark: Any = event.start_mark
    return yaml.composer.ComposerError(None, None, problem, mark)


def _items(document: dict[str, Any]) -> list[dict[str, Any]]:
    if document.get("kind") == "List" and isinstance(document.get("items"), list):
        return [each for each in document["items"] if isinstance(each, dict)]
    return [document]


def _add(manifest: Manifest, document: dict[str, Any], where: str) -> None:
    kind, version = document.get("kind"), document.get("apiVersion")
    model = KINDS.get(str(kind))
    if model is None:
        known = ", ".join(KINDS)
        hint = f"run its pod template as a Pod, or apply it to a cluster; {known} are read here"
        other = f"only {known} are read here"
        raise UserError(
            f"{where} has no kind" if kind is None else f"{where}: kind {kind} cannot be run without a cluster",
            hint=hint if str(kind) in _WORKLOADS else other,
        )
    if version != "v1":
        raise UserError(f"{where}: {kind} has apiVersion {version!r}; it must be v1")
    named = f"{where}: {kind} {_name(document)}"
    unknown = _unknown(document, model, "")
    manifest.warnings.extend(f"{named}: field {path!r} is unknown to wasmlet and ignored" for path in unknown)
    try:
        decoded = msgspec.convert(_without_nulls(document), type=model, strict=True)
    except msgspec.ValidationError as error:
        raise UserError(f"{named}: {_readable(error)}") from error
    _place(manifest, decoded)


def _place(manifest: Manifest, decoded: Pod | ConfigMap | Secret) -> None:
    decoded.metadata.namespace = decoded.metadata.namespace or "default"
    if isinstance(decoded, Pod):
        manifest.pods.append(decoded)
    elif isinstance(decoded, ConfigMap):
        manifest.config_maps.append(decoded)
    else:
        manifest.secrets.append(decoded)


def _name(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    return repr(metadata.get("name", "")) if isinstance(metadata, dict) else "without metadata"


def _readable(error: msgspec.ValidationError) -> str:
    """`Expected `str`, got `int` - at `$.spec.x`` as a sentence that names the field first."""
    problem, _, path = str(error).partition(" - at ")
    return f"{path.strip('`').removeprefix('$.') or 'the document'}: {problem.lower()}"


def _without_nulls(value: Any) -> Any:
    """Null means unset in the API, for lists and objects too."""
    if isinstance(value, dict):
        return {str(key): _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _kind_of(value: object) -> str:
    return {"list": "a list", "str": "text", "int": "a number", "float": "a number", "bool": "a boolean"}.get(
        type(value).__name__, type(value).__name__
    )


# --- unknown fields ---------------------------------------------------------------------------------------------------

_PASSED_OVER = {"managedFields", "selfLink", "clusterName"}
"""Fields of objects read back from a cluster, which mean nothing to a run."""


def _unknown(value: Any, model: Any, path: str) -> Iterator[str]:
    """The paths in `value` that `model` has no field for."""
    if get_origin(model) is list:
        for position, each in enumerate(value if isinstance(value, list) else []):
            yield from _unknown(each, get_args(model)[0], f"{path}[{position}]")
    elif get_origin(model) in (Union, UnionType):
        for option in get_args(model):
            yield from _unknown(value, option, path)
    elif isinstance(model, type) and issubclass(model, msgspec.Struct) and isinstance(value, dict):
        yield from _unknown_of_struct(value, model, path)


def _unknown_of_struct(value: dict[str, Any], model: type[msgspec.Struct], path: str) -> Iterator[str]:
    types = get_type_hints(model)
    fields = {each.encode_name: types[each.name] for each in msgspec.structs.fields(model)}
    for key, each in value.items():
        where = f"{path}.{key}" if path else str(key)
        if key in fields:
            yield from _unknown(each, fields[key], where)
        elif key not in _PASSED_OVER:
            yield where
