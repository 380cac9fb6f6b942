"""Which blobs of an image are its module and its files, and how to lay a module out as an image. Pure functions.

Read here: every layout whose module is one blob: the CNCF one (tag-runtime, "Wasm OCI Artifact layout"), Krustlet's
(which Kubewarden writes too), the Bytecode Alliance's component layer, and the type that solo.io and wasmCloud used;
images of files as docker builds them; and runwasi's, which have both. What is an application of several parts gets an
error that names what was found.
"""

from __future__ import annotations

import enum
import platform
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from wasmlet.base.errors import UserError
from wasmlet.images import configuration
from wasmlet.images.application import Part
from wasmlet.images.configuration import (
    CONTAINER_CONFIGS,
    WASM_ARCHITECTURES,
    WASM_SYSTEMS,
    ContainerConfig,
    ImageConfig,
)
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
_FILE_SYSTEM_LAYERS: Final = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_READ: Final = (
    f"wasmlet reads images of one layer of the types {', '.join(WASM_LAYERS)} and images of files (OCI, docker); "
    "`wasmlet push` writes the first"
)

_DEFAULT_NAMES: Final = dict.fromkeys(WASM_LAYERS, "module.wasm")
_MACHINE: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

Layout = Literal["cncf", "krustlet"]
WasiOs = Literal["wasip1", "wasip2"]


class Binary(enum.Enum):
    """What the first eight bytes of a file say (WebAssembly core and component binary formats)."""

    MODULE = b"\0asm\x01\0\0\0"
    COMPONENT = b"\0asm\x0d\0\x01\0"


@dataclass(frozen=True, slots=True)
class Choice:
    """What an image consists of: a module, a root file system, or both.

    Attributes:
        module: The blob of the one Wasm layer; None when the program is one of the files.
        module_name: Its file's name by the title annotation, "" when there is none.
        layers: The layers of the root file system, lowest first.
        diff_ids: The digests of their archives; "" of one that nothing tells.
        names: Of layers that are no archives: the name of the file that each is; "" of one that is an archive.
        inline: Further files, which have no blobs: names and contents.
        picks: Which files of the archives are taken, when not all are: digests and names, a digest maybe twice.
        parts: Of an application: its components with their modules, of which `module` is the first.
    """

    module: Descriptor | None
    module_name: str
    config: ImageConfig
    layers: tuple[Descriptor, ...] = ()
    diff_ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    inline: tuple[tuple[str, bytes], ...] = ()
    picks: tuple[tuple[str, str], ...] = ()
    parts: tuple[tuple[Part, Descriptor], ...] = ()

    @property
    def modules(self) -> tuple[Descriptor, ...]:
        """Every module, once."""
        named = {module.digest: module for _, module in self.parts}
        return tuple(named.values()) if named or self.module is None else (self.module,)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """All that has to be downloaded beside the config."""
        return (*self.layers, *self.modules)


@dataclass(frozen=True, slots=True)
class Package:
    """An image made from a module: what has to be uploaded beside the module itself."""

    manifest: bytes
    config: bytes
    media_type: str = OCI_MANIFEST


def choose(manifest: Manifest, config: bytes) -> Choice:
    """What of an image is run, and with which root file system.

    Args:
        config: The content of the manifest's config blob.

    Raises:
        UserError: Not an image that wasmlet reads; reason `LinuxImage` when it is one for Linux.
    """
    files = tuple(layer for layer in manifest.layers if _is_file_system(layer.media_type))
    modules = [layer for layer in manifest.layers if layer.media_type in WASM_LAYERS]
    if len(modules) + len(files) != len(manifest.layers) or not manifest.layers:
        raise _unknown(manifest)
    if len(modules) > 1:
        raise UserError(f"the image holds {len(modules)} Wasm modules", hint="wasmlet runs images with one")
    is_container = manifest.config.media_type in CONTAINER_CONFIGS
    if files:
        if not is_container:
            raise _unknown(manifest)
        return _with_files(manifest, configuration.parse(config), files, modules)
    if modules[0].media_type == WASM_LAYER and manifest.config.media_type in CNCF_CONFIGS:
        _check_cncf_config(config)
    return Choice(modules[0], _module_name(modules[0]), _config_of_module(config) if is_container else ImageConfig())


def choose_files(manifest: Manifest, config: bytes) -> Choice:
    """All that an image or artifact holds, as files: for a volume (contract 6.4), whatever platform it is for.

    An archive becomes its content, another blob a file named by its title annotation.

    Raises:
        UserError: It holds nothing, or a blob has no name.
    """
    archives = [layer for layer in manifest.layers if _is_file_system(layer.media_type)]
    diff_ids: dict[str, str] = {}
    if manifest.config.media_type in CONTAINER_CONFIGS and len(archives) == len(manifest.layers):
        named = configuration.parse(config).diff_ids(len(archives))
        diff_ids = {layer.digest: diff_id for layer, diff_id in zip(archives, named, strict=True)}
    names = []
    for layer in manifest.layers:
        name = "" if layer in archives else _module_name(layer) or _DEFAULT_NAMES.get(layer.media_type, "")
        if layer not in archives and not name:
            raise UserError(
                f"a blob of type {shown(layer.media_type)} has no name", hint=f"give it an annotation {TITLE}"
            )
        names.append(name)
    if not manifest.layers:
        raise UserError("the image holds no files")
    ids = tuple(diff_ids.get(layer.digest, "") for layer in manifest.layers)
    return Choice(None, "", ImageConfig(), manifest.layers, ids, tuple(names))


def _with_files(
    manifest: Manifest, config: ContainerConfig, files: tuple[Descriptor, ...], modules: list[Descriptor]
) -> Choice:
    if not modules and not configuration.is_for_wasm(manifest, config):
        raise _linux_image(config.platform)
    named = config.rootfs.diff_ids if config.rootfs is not None else None
    if modules and named is not None and len(named) == len(manifest.layers):  # runwasi's tools name all of them
        every = zip(manifest.layers, config.diff_ids(len(manifest.layers)), strict=True)
        diff_ids = tuple(diff_id for layer, diff_id in every if layer in files)
    else:
        diff_ids = config.diff_ids(len(files))
    module = modules[0] if modules else None
    return Choice(module, "" if module is None else _module_name(module), config.image, files, diff_ids)


def _config_of_module(config: bytes) -> ImageConfig:
    """What runwasi's images of one module say; a config that is none says nothing, since the layer is enough."""
    try:
        return configuration.parse(config).image
    except UserError:
        return ImageConfig()


def choose_platform(index: Index, *, for_files: bool = False) -> Descriptor:
    """The entry of an index that holds Wasm: os `wasi…` or architecture `wasm`, or the only entry if it says nothing.

    Else one for Linux, this machine's first: `docker build` without a platform calls images of Wasm so too, and
    `choose` sees by its config what it is.

    Args:
        for_files: Nothing is run: if there is no better one, the first entry will do.

    Raises:
        UserError: There is none of these; the message names the platforms.
    """
    entries = [entry for entry in index.manifests if entry.platform is None or entry.platform.os != "unknown"]
    entries = [entry for entry in entries if entry.media_type in (OCI_MANIFEST, DOCKER_MANIFEST)]
    for system in WASM_SYSTEMS:
        for entry in entries:
            if entry.platform is not None and entry.platform.os == system:
                return entry
    for entry in entries:
        if entry.platform is not None and entry.platform.architecture in WASM_ARCHITECTURES:
            return entry
    if len(entries) == 1 and entries[0].platform is None:
        return entries[0]
    linux = [entry for entry in entries if entry.platform is not None and entry.platform.os == "linux"]
    linux.sort(key=lambda entry: entry.platform is not None and entry.platform.architecture != _MACHINE)
    if linux:
        return linux[0]
    if for_files and entries:
        return entries[0]
    platforms = shown_list([str(entry.platform or Platform()) for entry in entries])
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


@dataclass(frozen=True, slots=True)
class Interfaces:
    """What a component needs and gives: names of interfaces with their versions, or of functions."""

    imports: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()


def build(
    layout: Layout,
    *,
    module: Descriptor,
    wasi_os: WasiOs,
    created: datetime,
    annotations: Mapping[str, str],
    interfaces: Interfaces | None = None,
) -> Package:
    """An image around `module`, whose media type is set here.

    Args:
        module: Digest, size and annotations of the module.
        wasi_os: Which WASI it is for; Krustlet's layout has no place for it.
        created: An aware time; the same inputs give the same image.
        annotations: Of the manifest.
        interfaces: Of a component; Krustlet's layout has no place for them.
    """
    if layout == "krustlet":
        config, config_type, layer_type = b"{}", KRUSTLET_CONFIG, KRUSTLET_LAYER
    else:
        config = _cncf_config(module.digest, wasi_os, created, interfaces or Interfaces())
        config_type, layer_type = WASM_CONFIG, WASM_LAYER
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


def _cncf_config(module_digest: str, wasi_os: WasiOs, created: datetime, interfaces: Interfaces) -> bytes:
    """As `wkg oci push` writes it (oci-wasm's WasmConfig), which knows of no author and no target world either."""
    document: dict[str, Any] = {
        "created": created.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "architecture": "wasm",
        "os": wasi_os,
        "layerDigests": [module_digest],
    }
    if wasi_os == "wasip2":
        document["component"] = {
            "exports": interfaces.exports,
            "imports": interfaces.imports,
            "target": None,
        }
    return msgspec.json.encode(document)


def _is_file_system(media_type: str) -> bool:
    return media_type.startswith(_FILE_SYSTEM_LAYERS)


def _unknown(manifest: Manifest) -> UserError:
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
    if architecture not in WASM_ARCHITECTURES:
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
