"""Static pods: manifests in a directory of this machine (kubelet-contract section 3).

`read` makes a pod of a file's text, as a kubelet does; `StaticSource` follows the directory and submits and ends pods.
It needs no API server: who may say what becomes of a pod is saved with the pod, so that static pods wait for nobody
else. A pod of a changed file is another pod (its UID is a hash), which begins when its predecessor has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from wasmlet.base.clock import Clock, system_clock, to_text
from wasmlet.base.errors import UserError, WasmletError
from wasmlet.kube import manifest
from wasmlet.kube.types import ObjectMeta, Pod, PodStatus, Toleration
from wasmlet.pods import admission
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.dispatch import Dispatch
from wasmlet.pods.references import references_of
from wasmlet.pods.view import DEFAULT_GRACE_SECONDS

if TYPE_CHECKING:
    from asyncinotify import Inotify

logger = logging.getLogger(__name__)

SOURCE: Final = "file"
HASH_ANNOTATION: Final = "kubernetes.io/config.hash"
SOURCE_ANNOTATION: Final = "kubernetes.io/config.source"
SEEN_ANNOTATION: Final = "kubernetes.io/config.seen"

RESCAN_SECONDS: Final = 20.0
"""How often the directory is read although nothing was heard (a kubelet's fileCheckFrequency)."""

REST_SECONDS: Final = 0.05
"""Between the news of a file and reading it: an editor makes several pieces of news of one change."""


# --- a file -----------------------------------------------------------------------------------------------------------


def read(text: str, *, file: str, node_name: str, seen: float) -> Pod:
    """The static pod of a manifest.

    Args:
        file: The file's path; a part of the pod's identity.
        seen: When it was read, in seconds since the epoch.

    Raises:
        UserError: It is no manifest of one pod, or refers to objects of an API server.
    """
    found = manifest.parse(text, source=file)
    if len(found.pods) != 1 or found.config_maps or found.secrets:
        raise UserError(f"{file} holds {_counted(found)}; a static pod's file holds one Pod and nothing else")
    for warning in found.warnings:
        logger.warning(warning)
    pod = found.pods[0]
    if not pod.metadata.name:
        raise UserError(f"{file}: the pod has no name")
    if resource := _referred(pod):
        raise UserError(f"{file}: static pods may not reference {resource}")
    meta, node = pod.metadata, node_name.lower()
    pod.status = PodStatus()
    pod.metadata = ObjectMeta(name=f"{meta.name}-{node}", namespace=meta.namespace, labels=meta.labels)
    pod.metadata.annotations = meta.annotations
    pod.metadata.uid = SOURCE  # a stand-in for the check
    if refusal := admission.refuse(pod):
        raise UserError(f"{file}: {refusal.message.removeprefix('Pod was rejected: ')}", reason=refusal.reason)
    pod.spec.node_name = node_name
    _apply_defaults(pod)
    uid = _uid(pod, file=file, node=node)
    pod.metadata.uid = uid
    pod.metadata.annotations = meta.annotations | {
        HASH_ANNOTATION: uid, SOURCE_ANNOTATION: SOURCE, SEEN_ANNOTATION: to_text(seen),
    }  # fmt: skip
    return pod


def _counted(found: manifest.Manifest) -> str:
    counts = {"Pod": len(found.pods), "ConfigMap": len(found.config_maps), "Secret": len(found.secrets)}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing"


def _apply_defaults(pod: Pod) -> None:
    """What the API server would have filled in, where the types here have no default of their own."""
    pod.spec.tolerations.append(Toleration(operator="Exists", effect="NoExecute"))
    if pod.spec.termination_grace_period_seconds is None:
        pod.spec.termination_grace_period_seconds = round(DEFAULT_GRACE_SECONDS)
    for container in [*pod.spec.init_containers, *pod.spec.containers]:
        container.resources.requests = container.resources.limits | container.resources.requests


def _uid(pod: Pod, *, file: str, node: str) -> str:
    content = msgspec.json.encode(pod, order="sorted")
    return hashlib.sha256(b"\0".join((content, node.encode(), file.encode()))).hexdigest()[:32]


def _referred(pod: Pod) -> str:
    """The first kind of API object that the pod refers to; "" is none (the kubelet's HasAPIObjectReference)."""
    if pod.spec.service_account_name:
        return "serviceaccounts"
    kinds = {kind for kind, _ in references_of(pod)}
    for kind, resource in (("Secret", "secrets"), ("ConfigMap", "configmaps")):
        if kind in kinds:
            return resource
    for volume in pod.spec.volumes:
        if volume.persistent_volume_claim is not None or volume.ephemeral is not None:
            return "persistentvolumeclaims"
        for source in volume.projected.sources if volume.projected is not None else ():
            if source.service_account_token is not None:
                return "serviceaccounts"
            if source.cluster_trust_bundle is not None:
                return "clustertrustbundles"
            if source.pod_certificate is not None:
                return "podcertificates"
    return ""


# --- the directory ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """What was read of a file, and the pod of it; that of its last good content while it is broken."""

    content: bytes | None
    pod: Pod | None


class StaticSource:
    """Follows the manifests in a directory.

    Args:
        directory: May be missing, which is as good as empty; or a single file.
        rescan_seconds: Tests change it.

    Attributes:
        has_synced: Whether the directory has been read once.
    """

    def __init__(
        self,
        directory: Path,
        dispatch: Dispatch,
        *,
        node_name: str,
        rescan_seconds: float = RESCAN_SECONDS,
        clock: Clock = system_clock,
    ) -> None:
        self.has_synced = False
        self._directory = directory
        self._dispatch = dispatch
        self._node_name = node_name
        self._rescan_seconds = rescan_seconds
        self._clock = clock
        self._files: dict[Path, _File] = {}
        self._pods: dict[str, tuple[Path, Pod]] = {}
        self._problem = ""  # this and the next two: what was told already
        self._duplicates: dict[Path, Path] = {}
        self._untaken: dict[Path, str] = {}
        dispatch.unreported.add(SOURCE)
        dispatch.on_change.append(self._changed)

    def __repr__(self) -> str:
        return f"<StaticSource {self._directory} pods={len(self._pods)} synced={self.has_synced}>"

    async def run(self) -> None:
        """Follow, until cancelled."""
        from asyncinotify import Inotify  # noqa: PLC0415  # only nodes with static pods pay for the import

        with contextlib.ExitStack() as stack:
            inotify = None
            try:
                # A limit of 0 asks before it reads: the library's descriptor blocks (asyncinotify 4.4).
                inotify = stack.enter_context(Inotify(sync_timeout=0))
            except OSError as error:
                logger.warning("no inotify", extra={"directory": str(self._directory), "error": str(error)})
            while True:
                is_watched = inotify is not None and self._watch(inotify)
                await self.scan()
                await self._wait(inotify if is_watched else None)

    async def scan(self) -> None:
        """Read the directory, and bring the pods in line with it. A directory that cannot be read changes nothing."""
        try:
            found = await asyncio.to_thread(_read_all, self._directory)
        except FileNotFoundError as error:
            self._tell("manifest directory not there, so there are no static pods", error)
            found = {}
        except OSError as error:
            self._tell("reading manifests failed", error)
            return
        else:
            self._problem = ""
        self._files = {path: self._read(path, content) for path, content in sorted(found.items())}
        self._pods = {}
        names: dict[tuple[str, str], Path] = {}
        told, self._duplicates = self._duplicates, {}
        for path, file in self._files.items():
            if file.pod is None:
                continue
            name = (file.pod.metadata.namespace, file.pod.metadata.name)
            if (first := names.setdefault(name, path)) != path:
                self._duplicates[path] = first
                if told.get(path) != first:
                    logger.error("duplicate pod name", extra={"file": str(path), "first": str(first), "pod": name[1]})
                continue
            self._pods[file.pod.metadata.uid] = (path, file.pod)
        self.has_synced = True
        self._dispatch.reported(SOURCE)
        self._act()

    def _tell(self, problem: str, error: OSError) -> None:
        """Say once what is wrong with the directory."""
        text = f"{problem}: {error.strerror}"
        if text != self._problem:
            logger.warning(problem, extra={"directory": str(self._directory), "error": error.strerror})
        self._problem = text

    def _read(self, path: Path, content: bytes | None) -> _File:
        before = self._files.get(path)
        if before is not None and before.content == content:
            return before
        try:
            if content is None:
                raise UserError(f"{path} cannot be read")
            text = content.decode()
            pod = read(text, file=str(path), node_name=self._node_name, seen=self._clock())
        except (WasmletError, UnicodeDecodeError) as error:
            logger.error("could not process manifest file", extra={"file": str(path), "error": str(error)})
            return _File(content, None if before is None else before.pod)
        return _File(content, pod)

    def _changed(self) -> None:
        """A pod came or is gone: one that waited for its predecessor may begin."""
        if self.has_synced:
            self._act()

    def _act(self) -> None:
        for worker in self._dispatch.workers:
            bundle = worker.bundle
            if bundle.source == SOURCE and bundle.uid not in self._pods and worker.facts.deletion is None:
                if self._is_broken(Path(bundle.file)):
                    continue  # an earlier agent read it when it was whole
                logger.info("static pod ending", extra={"pod": bundle.pod.metadata.name, "file": bundle.file})
                self._dispatch.end(bundle.uid, remove=True)
        told, self._untaken = self._untaken, {}
        for uid, (path, pod) in self._pods.items():
            meta = pod.metadata
            if self._dispatch.has(uid) or self._predecessors(meta.namespace, meta.name):
                continue
            try:
                self._dispatch.submit(Bundle(pod=pod, source=SOURCE, file=str(path)))
            except WasmletError as error:
                self._untaken[path] = str(error)
                if told.get(path) != str(error):
                    logger.error("taking a static pod failed", extra={"file": str(path), "error": str(error)})

    def _is_broken(self, path: Path) -> bool:
        file = self._files.get(path)
        return file is not None and file.pod is None

    def _predecessors(self, namespace: str, name: str) -> bool:
        return any(each.bundle.source == SOURCE for each in self._dispatch.named(namespace, name))

    # --- hearing of changes -------------------------------------------------------------------------------------------

    def _watch(self, inotify: Inotify) -> bool:
        """Watch the directory, or what has its name by now; False when there is nothing to watch."""
        from asyncinotify import Mask  # noqa: PLC0415

        mask = Mask.CLOSE_WRITE | Mask.CREATE | Mask.DELETE | Mask.MOVED_FROM | Mask.MOVED_TO
        try:
            inotify.add_watch(self._directory, mask | Mask.DELETE_SELF | Mask.MOVE_SELF)
        except OSError:
            return False
        return True

    async def _wait(self, inotify: Inotify | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rescan_seconds):
                if inotify is None:
                    await asyncio.Event().wait()
                else:
                    await inotify.get()
                    await asyncio.sleep(REST_SECONDS)
        while inotify is not None and inotify.sync_get() is not None:
            pass


def _read_all(directory: Path) -> dict[Path, bytes | None]:
    """The content of each manifest; None for one that cannot be read. Dot-files and directories are passed over.

    Raises:
        FileNotFoundError: There is no such directory, which is as if it were empty.
        OSError: The directory cannot be read.
    """
    if directory.is_file():
        return {directory: _content(directory)}
    paths = [each for each in directory.iterdir() if not each.name.startswith(".") and not each.is_dir()]
    return {path: _content(path) for path in paths}


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None
