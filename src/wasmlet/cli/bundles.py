"""What was named on the command line → bundles for the agent."""

from __future__ import annotations

import secrets
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.kube.manifest import MAX_BYTES, Manifest, parse
from wasmlet.kube.types import (
    Container,
    EnvVar,
    HostPathVolume,
    ObjectMeta,
    Pod,
    PodSpec,
    ResourceRequirements,
    Volume,
    VolumeMount,
)
from wasmlet.pods.admission import refuse
from wasmlet.pods.bundle import Bundle

MANIFEST_SUFFIXES = (".yaml", ".yml", ".json")
FILE_SCHEME = "file:"
SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""What Kubernetes makes generated names of (k8s.io/apimachinery util/rand): no vowels, so no words."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run of a single module or image may say; a manifest says all of it itself."""

    name: str = ""
    namespace: str = ""
    env: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    memory: str = ""
    restart: str = ""
    is_interactive: bool = True

    @property
    def is_given(self) -> bool:
        """Whether anything was said that a manifest would have to say."""
        return bool(self.name or self.env or self.volumes or self.working_dir or self.memory or self.restart)


def from_target(target: str, arguments: Sequence[str], options: Options) -> tuple[list[Bundle], list[str]]:
    """The bundles that `target` stands for, and warnings about its manifest.

    Raises:
        NotFoundError: A file that is not there.
        UserError: A manifest that cannot be used, or options that do not go with it.
    """
    _check_text(target, *arguments, *options.env, *options.volumes, options.name, options.working_dir)
    if target == "-" or target.endswith(MANIFEST_SUFFIXES):
        if arguments or options.is_given:
            raise UserError(
                f"{target} is a manifest, which says arguments, name, environment, volumes, limits and restarts itself",
                hint="change the manifest, or run a .wasm file or an image",
            )
        text, folder = _read(target)
        manifest = parse(text, source="standard input" if target == "-" else target)
        return _from_manifest(manifest, folder, target, options), manifest.warnings
    path = Path(target)
    if not target:
        raise UserError("the name of what to run is empty", hint="name a manifest, a .wasm file or an image")
    if path.is_dir():
        raise UserError(f"{target} is a directory", hint="name a manifest or a .wasm file in it")
    if path.exists():
        image, name = f"{FILE_SCHEME}{path.absolute()}", path.stem
    elif _looks_like_path(target):
        raise NotFoundError(f"no such file: {target}")
    else:
        image, name = target, target.rpartition("/")[2].partition("@")[0].partition(":")[0]
    bundle = _single(image, name, arguments, options)
    _check_admission(bundle.pod, target)
    return [bundle], []


def _check_text(*texts: str) -> None:
    """WASI strings are UTF-8; bytes that are not came from the shell as lone surrogates."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{text!r} on the command line is not UTF-8, which a guest cannot be given") from None


def _looks_like_path(target: str) -> bool:
    return target.startswith((".", "/", "~")) or target.endswith(".wasm")


def _read(target: str) -> tuple[str, Path]:
    """The manifest's text, and the folder that its relative paths count from."""
    if target == "-":
        content, folder = sys.stdin.buffer.read(MAX_BYTES + 1), Path.cwd()
    else:
        path = Path(target)
        try:
            with path.open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise NotFoundError(f"no such file: {target}") from None
        except OSError as error:
            raise UserError(f"cannot read {target}: {error.strerror}") from error
        folder = path.absolute().parent
    try:
        return content.decode(), folder
    except UnicodeDecodeError as error:
        raise UserError(f"{target} is not text: byte {error.start} is no UTF-8", hint="a manifest is YAML") from error


def _from_manifest(manifest: Manifest, folder: Path, target: str, options: Options) -> list[Bundle]:
    source = "standard input" if target == "-" else target
    if not manifest.pods:
        raise UserError(f"{source} holds no Pod", hint="add a document of kind Pod")
    for metadata in [each.metadata for each in manifest.config_maps] + [each.metadata for each in manifest.secrets]:
        metadata.namespace = options.namespace or metadata.namespace
    for pod in manifest.pods:
        manifest.warnings += [f"{source}: Pod {pod.metadata.name!r}: {each}" for each in _without_effect(pod)]
        _complete(pod, options)
        for container in [*pod.spec.init_containers, *pod.spec.containers]:
            container.image = _resolved(container.image, folder)
        _check_admission(pod, target)
    return [Bundle(pod=pod, config_maps=manifest.config_maps, secrets=manifest.secrets) for pod in manifest.pods]


def _check_admission(pod: Pod, target: str) -> None:
    """What the agent would refuse is refused here, where it can still be called the user's input."""
    refusal = refuse(pod)
    if refusal is not None:
        name = "standard input" if target == "-" else target
        raise UserError(f"{name}: {refusal.message}", reason=refusal.reason)


def _without_effect(pod: Pod) -> Iterator[str]:
    """Fields that Kubernetes knows and this release reads over; a person must not wait for what never comes."""
    for container in [*pod.spec.init_containers, *pod.spec.containers]:
        for probe in (container.liveness_probe, container.readiness_probe, container.startup_probe):
            if probe is not None and probe.grpc is not None:
                yield f"container {container.name!r}: grpc probes are not run by this release"
    if pod.spec.ephemeral_containers:
        yield "ephemeralContainers are not run by this release"


def _complete(pod: Pod, options: Options) -> None:
    """What the API server would fill in."""
    meta = pod.metadata
    if options.namespace:
        meta.namespace = options.namespace
    if not meta.name and meta.generate_name:
        meta.name = meta.generate_name + _suffix()
    if not meta.name:
        raise UserError("a Pod has no metadata.name", hint="give it a name, or a generateName")
    meta.uid = str(uuid.uuid4())
    meta.generation = 1
    for container in [*pod.spec.init_containers, *pod.spec.containers]:
        container.resources.requests = container.resources.limits | container.resources.requests


def _resolved(image: str, folder: Path) -> str:
    """`file:` paths count from the manifest's folder."""
    if not image.startswith(FILE_SCHEME):
        return image
    path = folder / image.removeprefix(FILE_SCHEME)
    if not path.exists():
        raise NotFoundError(f"no such file: {path}", hint="paths after file: count from the manifest's folder")
    return f"{FILE_SCHEME}{path}"


def _single(image: str, name: str, arguments: Sequence[str], options: Options) -> Bundle:
    plain = "".join(each if each.isascii() and each.isalnum() else "-" for each in name.lower()).strip("-")[:40]
    short = plain or "app"
    volumes, mounts = _mounts(options.volumes)
    container = Container(
        name=short,
        image=image,
        args=list(arguments),
        env=[_variable(each) for each in options.env],
        working_dir=options.working_dir,
        stdin=options.is_interactive,
        stdin_once=options.is_interactive,
        volume_mounts=mounts,
        resources=ResourceRequirements(limits={"memory": options.memory} if options.memory else {}),
    )
    pod = Pod(
        metadata=ObjectMeta(name=options.name or f"{short}-{_suffix()}", namespace="default"),
        spec=PodSpec(containers=[container], volumes=volumes, restart_policy=options.restart or "Never"),
    )
    _complete(pod, options)
    return Bundle(pod=pod)


def _variable(text: str) -> EnvVar:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"--env {text!r} is no NAME=VALUE")
    return EnvVar(name=name, value=value.replace("$(", "$$("))


def _mounts(texts: Sequence[str]) -> tuple[list[Volume], list[VolumeMount]]:
    """`HOST:GUEST[:ro]` → hostPath volumes and their mounts."""
    volumes, mounts = [], []
    for position, text in enumerate(texts):
        host, _, rest = text.partition(":")
        guest, _, mode = rest.partition(":")
        if not host or not guest.startswith("/") or mode not in ("", "ro", "rw"):
            raise UserError(f"--volume {text!r} is no HOST:GUEST or HOST:GUEST:ro", hint="GUEST begins with /")
        path = Path(host).resolve()
        if not path.exists():
            raise NotFoundError(f"--volume {text}: no such file or directory: {host}")
        name = f"volume-{position}"
        volumes.append(Volume(name=name, host_path=HostPathVolume(path=str(path))))
        mounts.append(VolumeMount(name=name, mount_path=guest, read_only=mode == "ro"))
    return volumes, mounts


def _suffix() -> str:
    return "".join(secrets.choice(SUFFIX_ALPHABET) for _ in range(5))
