"""What the config of a Docker or OCI image says (image-spec 1.1, config.md): bytes in, checked values out. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from wasmlet.base.errors import UserError
from wasmlet.images.manifest import Manifest, shown
from wasmlet.images.reference import is_digest

CONTAINER_CONFIGS: Final = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
WASM_SYSTEMS: Final = ("wasip2", "wasip1", "wasi", "wasip3")
"""Best first; the last is in no specification yet, and for trial here."""

WASM_ARCHITECTURES: Final = ("wasm", "wasm32")
_SELECTED_BY: Final = {"module.wasm.image/variant": ("compat", "compat-smart"), "run.oci.handler": ("wasm", "wasmtime")}
"""Annotations by which crun and youki know a Wasm image whatever its platform says."""

SPIN_MANIFEST: Final = "spin.toml"
_PORT: Final = re.compile(r"(\d{1,5})(?:/tcp)?", re.ASCII)
_MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about how to start it; those that hold one module alone mostly say nothing.

    Attributes:
        entrypoint: As the Dockerfile's ENTRYPOINT.
        command: As the Dockerfile's CMD.
        environment: Pairs of name and value, in order.
        working_directory: "" when the image names none.
        exposed_ports: TCP ports of the Dockerfile's EXPOSE, in order.
        user: As the Dockerfile's USER. WASI shows a guest no user, so nothing follows from it.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    working_directory: str = ""
    exposed_ports: tuple[int, ...] = ()
    user: str = ""


class _Execution(msgspec.Struct, rename="pascal"):
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: list[str] | None = None
    working_dir: str | None = None
    exposed_ports: dict[str, object] | None = None
    user: str | None = None


class _RootFileSystem(msgspec.Struct):
    diff_ids: list[str] | None = None


class ContainerConfig(msgspec.Struct):
    """The document; what it leaves out, or sets to null, is empty."""

    architecture: str | None = None
    os: str | None = None
    config: _Execution | None = None
    rootfs: _RootFileSystem | None = None

    @property
    def platform(self) -> str:
        """`os/architecture`, made safe for a message."""
        return shown(f"{self.os or '?'}/{self.architecture or '?'}")

    @property
    def image(self) -> ImageConfig:
        """How to start it."""
        found = self.config or _Execution()
        pairs = (entry.partition("=") for entry in found.env or ())
        return ImageConfig(
            entrypoint=tuple(found.entrypoint or ()),
            command=tuple(found.cmd or ()),
            environment=tuple((name, value) for name, _, value in pairs if name),
            working_directory=found.working_dir or "",
            exposed_ports=_ports(found.exposed_ports or {}),
            user=found.user or "",
        )

    def diff_ids(self, count: int) -> tuple[str, ...]:
        """The digests of the layers' archives, lowest first.

        Raises:
            UserError: There are not `count` of them, or one is no digest.
        """
        found = tuple((self.rootfs or _RootFileSystem()).diff_ids or ())
        if len(found) != count:
            raise UserError(f"the image's config names {len(found)} layers, its manifest {count}")
        if not all(map(is_digest, found)):
            raise UserError("a diff_id of the image's config is not sha256: and 64 hex digits")
        return found


def parse(content: bytes) -> ContainerConfig:
    """The config of a Docker or OCI image.

    Raises:
        UserError: It is not one.
    """
    try:
        return msgspec.json.decode(content, type=ContainerConfig)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"the image's config is broken: {shown(str(error))}") from error


def is_for_wasm(manifest: Manifest, config: ContainerConfig) -> bool:
    """Whether an image of files is WebAssembly's: by its platform, by an annotation, or by the program it names.

    `docker build` without a platform calls every image Linux's; what it starts tells more.
    """
    if config.os in WASM_SYSTEMS or config.architecture in WASM_ARCHITECTURES:
        return True
    annotations = manifest.annotations or {}
    if any(annotations.get(name) in values for name, values in _SELECTED_BY.items()):
        return True
    started = (*config.image.entrypoint, *config.image.command)[:1]
    return any(word.endswith((".wasm", SPIN_MANIFEST)) or ".wasm#" in word for word in started)


def chain_id(diff_ids: Sequence[str]) -> str:
    """The name of layers one upon the other (config.md, "Layer ChainID"); of none, that of an empty text."""
    if not diff_ids:
        return f"sha256:{hashlib.sha256().hexdigest()}"
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}"
    return chain


def _ports(exposed: dict[str, object]) -> tuple[int, ...]:
    matches = (_PORT.fullmatch(each) for each in exposed)
    return tuple(sorted({int(each[1]) for each in matches if each and 0 < int(each[1]) <= _MAX_PORT}))
