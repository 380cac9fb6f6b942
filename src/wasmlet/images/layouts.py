"""Which blob of an image is the Wasm module, and how to lay a module out as an image. Pure functions.

Read here: every layout whose module is one blob: the CNCF one (tag-runtime, "Wasm OCI Artifact layout"), Krustlet's
(which Kubewarden writes too), the Bytecode Alliance's component layer, and the type that solo.io and wasmCloud used.
What is a file system, or an application of several parts, gets an error that names what was found.
"""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from wasmlet.base.errors import UserError
from wasmlet.images.manifest import (
    DOCKER_MANIFEST,
    OCI_MANIFEST,
    TITLE,
    Descriptor,
    Index,
    Manifest,
    Platform,
    digest_of,
    shown,
    shown_list,
)

WASM_LAYER: Final = "application/wasm"
WASM_CONFIG: Final = "application/vnd.wasm.config.v0+json"
LINUX_IMAGE: Final = "LinuxImage"
"""The reason of errors about images that a Linux node could run: no pull will ever make them Wasm."""
KRUSTLET_LAYER: Final = "application/vnd.wasm.content.layer.v1+wasm"
KRUSTLET_CONFIG: Final = "application/vnd.wasm.config.v1+json"
COMPONENT_LAYER: Final = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"
MODULE_LAYER: Final = "application/vnd.module.wasm.content.layer.v1+wasm"
"""Of solo.io's wasm-image-spec, and of wasmCloud before it took the CNCF layout."""
WASM_LAYERS: Final = (WASM_LAYER, KRUSTLET_LAYER, COMPONENT_LAYER, MODULE_LAYER)
CNCF_CONFIGS: Final = (WASM_CONFIG, KRUSTLET_CONFIG)
CONTAINER_CONFIGS: Final = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_FILE_SYSTEM_LAYERS: Final = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_WASM_SYSTEMS: Final = ("wasip2", "wasip1", "wasi")
_WASM_ARCHITECTURES: Final = ("wasm", "wasm32")
_READ: Final = (
    f"wasmlet reads images of exactly one layer of the types {', '.join(WASM_LAYERS)}; `wasmlet push` writes the first"
)

Layout = Literal["cncf", "krustlet"]
WasiOs = Literal["wasip1", "wasip2"]


class Binary(enum.Enum):
    """What the first eight bytes of a file say (WebAssembly core and component binary formats)."""

    MODULE = b"\0asm\x01\0\0\0"
    COMPONENT = b"\0asm\x0d\0\x01\0"


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about how to start it; neither of the layouts read so far says anything.

    Attributes:
        entrypoint: As the Dockerfile's ENTRYPOINT.
        command: As the Dockerfile's CMD.
        environment: Pairs of name and value, in order.
        working_directory: "" when the image names none.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    working_directory: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The module of an image.

    Attributes:
        module: The blob.
        module_name: Its file's name by the title annotation, "" when there is none.
    """

    module: Descriptor
    module_name: str
    config: ImageConfig


@dataclass(frozen=True, slots=True)
class Package:
    """An image made from a module: what has to be uploaded beside the module itself."""

    manifest: bytes
    config: bytes
    media_type: str = OCI_MANIFEST


def choose_module(manifest: Manifest, config: bytes) -> Choice:
    """The one Wasm module of an image.

    Args:
        config: The content of the manifest's config blob.

    Raises:
        UserError: Not an image that wasmlet reads; reason `LinuxImage` when it is one for Linux.
    """
    types = [layer.media_type for layer in manifest.layers]
    if types and all(_is_file_system(media_type) for media_type in types):
        raise _file_system_image(manifest, config)
    if len(types) != 1 or types[0] not in WASM_LAYERS:
        if len(types) > 1 and all(media_type in WASM_LAYERS for media_type in types):
            raise UserError(f"the image holds {len(types)} Wasm modules", hint="wasmlet runs images with one")
        found = f"config {shown(manifest.config.media_type)}, layers {shown_list(types)}"
        raise UserError(f"the image's layout is not known ({found})", hint=_READ)
    if types == [WASM_LAYER] and manifest.config.media_type in CNCF_CONFIGS:
        _check_cncf_config(config)
    module = manifest.layers[0]
    return Choice(module, _module_name(module), ImageConfig())


def choose_platform(index: Index) -> Descriptor:
    """The entry of an index that holds Wasm: os `wasi…` or architecture `wasm`, or the only entry if it says nothing.

    Raises:
        UserError: None does; the message names the platforms (reason `LinuxImage` when one is Linux).
    """
    entries = [entry for entry in index.manifests if entry.platform is None or entry.platform.os != "unknown"]
    entries = [entry for entry in entries if entry.media_type in (OCI_MANIFEST, DOCKER_MANIFEST)]
    for system in _WASM_SYSTEMS:
        for entry in entries:
            if entry.platform is not None and entry.platform.os == system:
                return entry
    for entry in entries:
        if entry.platform is not None and entry.platform.architecture in _WASM_ARCHITECTURES:
            return entry
    if len(entries) == 1 and entries[0].platform is None:
        return entries[0]
    platforms = shown_list([str(entry.platform or Platform()) for entry in entries])
    if any(entry.platform is not None and entry.platform.os == "linux" for entry in entries):
        raise _linux_image(platforms)
    raise UserError(
        f"the image has no WebAssembly platform, only: {platforms}",
        hint="wasmlet runs WebAssembly (platforms such as wasip1/wasm)",
    )


def detect_binary(head: bytes) -> Binary:
    """Whether a file that begins with `head` (8 bytes suffice) is a core module or a component.

    Raises:
        UserError: Neither; the message says what it looks like.
    """
    for binary in Binary:
        if head.startswith(binary.value):
            return binary
    looks = "an ELF program" if head.startswith(b"\x7fELF") else "empty" if not head else "something else"
    looks = "WebAssembly text" if head.lstrip().startswith((b"(module", b"(component")) else looks
    raise UserError(f"it is not a WebAssembly binary but {looks}")


def build(
    layout: Layout,
    *,
    module: Descriptor,
    wasi_os: WasiOs,
    created: datetime,
    annotations: Mapping[str, str],
) -> Package:
    """An image around `module`, whose media type is set here.

    Args:
        module: Digest, size and annotations of the module.
        wasi_os: Which WASI it is for; Krustlet's layout has no place for it.
        created: An aware time; the same inputs give the same image.
        annotations: Of the manifest.
    """
    if layout == "krustlet":
        config, config_type, layer_type = b"{}", KRUSTLET_CONFIG, KRUSTLET_LAYER
    else:
        config, config_type, layer_type = _cncf_config(module.digest, wasi_os, created), WASM_CONFIG, WASM_LAYER
    layer = msgspec.structs.replace(module, media_type=layer_type)
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(media_type=config_type, digest=digest_of(config), size=len(config)),
        "layers": [layer],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return Package(manifest=msgspec.json.encode(document, order="deterministic"), config=config)


def _cncf_config(module_digest: str, wasi_os: WasiOs, created: datetime) -> bytes:
    document: dict[str, Any] = {
        "created": created.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "architecture": "wasm",
        "os": wasi_os,
        "layerDigests": [module_digest],
    }
    if wasi_os == "wasip2":
        document["component"] = {"exports": [], "imports": []}
    return msgspec.json.encode(document)


def _is_file_system(media_type: str) -> bool:
    return media_type.startswith(_FILE_SYSTEM_LAYERS)


def _file_system_image(manifest: Manifest, config: bytes) -> UserError:
    """Why an image of file-system layers is refused: because it is for Linux, or because such images come later."""
    document = _object(config)
    system, architecture = str(document.get("os", "")), str(document.get("architecture", ""))
    platform = shown(f"{system or '?'}/{architecture or '?'}")
    if system in _WASM_SYSTEMS or architecture in _WASM_ARCHITECTURES:
        return UserError(f"the image ({platform}) is a file system, which wasmlet does not read yet", hint=_READ)
    if system == "linux" or manifest.config.media_type in CONTAINER_CONFIGS:
        return _linux_image(platform)
    found = f"config {shown(manifest.config.media_type)}, layers {shown_list([x.media_type for x in manifest.layers])}"
    return UserError(f"the image's layout is not known ({found})", hint=_READ)


def _linux_image(platforms: str) -> UserError:
    return UserError(
        f"it is a Linux container image ({platforms}), and this node runs WebAssembly",
        hint="use an image that holds a Wasm module; or send the pod to a Linux node: take out its toleration of "
        "kubernetes.io/arch=wasm32-wasi, or give it the nodeSelector kubernetes.io/os: linux",
        reason=LINUX_IMAGE,
    )


def _check_cncf_config(config: bytes) -> None:
    document = _object(config)
    architecture = document.get("architecture", "wasm")
    if architecture not in _WASM_ARCHITECTURES:
        raise UserError(f"the image's config names architecture {shown(str(architecture))}, not wasm")


def _object(content: bytes) -> dict[str, Any]:
    """The JSON object in `content`; an empty one where there is none, since configs only add to what layers say."""
    try:
        document: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _module_name(module: Descriptor) -> str:
    """The title's last component, if it can be a file's name."""
    title = (module.annotations or {}).get(TITLE, "")
    name = posixpath.basename(title)
    return name if name not in (".", "..") and name.isprintable() and len(name.encode()) <= 255 else ""
