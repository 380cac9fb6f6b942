"""Mirror pods: what the API server shows of static pods (kubelet-contract section 3).

A mirror is made by this node, carries the static pod's hash, and belongs to the own Node. Deleting one never stops the
static pod: it is made again. `due` decides, `Mirrors` does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from wasmlet.base.errors import NotFoundError, WasmletError
from wasmlet.kube.client import Client
from wasmlet.kube.errors import AlreadyExistsError, OutdatedError
from wasmlet.kube.resources import PODS
from wasmlet.kube.types import ObjectMeta, OwnerReference, Pod
from wasmlet.pods.dispatch import Dispatch
from wasmlet.pods.report import Reporter
from wasmlet.pods.static import SOURCE

logger = logging.getLogger(__name__)

MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
RETRY_SECONDS: Final = 10.0

FullName = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True)
class Static:
    """A static pod that is here; `is_ending`: its file is gone, or says something else."""

    pod: Pod
    is_ending: bool


@dataclass(frozen=True)
class Owner:
    """The own Node; an empty UID: it is not there, and no mirror can be."""

    name: str
    uid: str


def is_mirror(pod: Pod) -> bool:
    """Whether the API server's object stands for a static pod."""
    return MIRROR_ANNOTATION in pod.metadata.annotations


def due(
    statics: Mapping[FullName, Static], mirrors: Mapping[FullName, Pod], owner: Owner
) -> tuple[list[Pod], list[Pod]]:
    """The mirrors to delete, and the static pods whose mirrors are to be made once nothing has their name."""
    deleted = [
        mirror
        for name, mirror in mirrors.items()
        if name not in statics or not _is_mirror_of(mirror, statics[name].pod, owner)
    ]
    if not owner.uid:
        return deleted, []
    made = [each.pod for name, each in statics.items() if name not in mirrors and not each.is_ending]
    return deleted, made


def _is_mirror_of(mirror: Pod, pod: Pod, owner: Owner) -> bool:
    meta = mirror.metadata
    if meta.annotations.get(MIRROR_ANNOTATION) != pod.metadata.uid or meta.deletion_timestamp is not None:
        return False
    references = [(each.kind, each.name, each.uid) for each in meta.owner_references]
    return not owner.uid or references == [("Node", owner.name, owner.uid)]


def mirror_of(pod: Pod, owner: Owner) -> Pod:
    """The object to make for a static pod."""
    meta = pod.metadata
    reference = OwnerReference(api_version="v1", kind="Node", name=owner.name, uid=owner.uid, controller=True)
    return Pod(
        metadata=ObjectMeta(
            name=meta.name,
            namespace=meta.namespace,
            labels=meta.labels,
            annotations=meta.annotations | {MIRROR_ANNOTATION: meta.uid},
            owner_references=[reference],
        ),
        spec=msgspec.structs.replace(pod.spec, node_name=owner.name),
    )


class Mirrors:
    """The mirrors of this node's static pods.

    Args:
        owner: The own Node as it is now.
        retry_seconds: Tests shorten it.
    """

    def __init__(
        self,
        client: Client,
        dispatch: Dispatch,
        reporter: Reporter,
        *,
        owner: Callable[[], Owner],
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._client = client
        self._dispatch = dispatch
        self._reporter = reporter
        self._owner = owner
        self._retry_seconds = retry_seconds
        self._mirrors: dict[FullName, Pod] = {}
        self._some = asyncio.Event()
        dispatch.on_change.append(self._some.set)
        reporter.mirror_of = self.of

    def __repr__(self) -> str:
        return f"<Mirrors {sorted(self._mirrors)}>"

    # --- what the API server has --------------------------------------------------------------------------------------

    def see(self, mirror: Pod) -> None:
        """There is this mirror."""
        self._mirrors[_full_name(mirror)] = mirror
        uid = mirror.metadata.annotations.get(MIRROR_ANNOTATION, "")
        if self._dispatch.has(uid):
            self._reporter.changed(self._dispatch.get(uid))
        self._some.set()

    def lose(self, mirror: Pod) -> None:
        """It is gone."""
        known = self._mirrors.get(_full_name(mirror))
        if known is not None and known.metadata.uid == mirror.metadata.uid:
            del self._mirrors[_full_name(mirror)]
        self._reporter.forget(mirror.metadata.uid)
        self._some.set()

    def of(self, uid: str) -> Pod | None:
        """The mirror of the static pod of that UID, while there is a good one."""
        if not self._dispatch.has(uid):
            return None
        mirror = self._mirrors.get(_full_name(self._dispatch.get(uid).bundle.pod))
        if mirror is None or mirror.metadata.annotations.get(MIRROR_ANNOTATION) != uid:
            return None
        return None if mirror.metadata.deletion_timestamp is not None else mirror

    # --- what it should have ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep them in line, until cancelled; nothing is made or deleted before every source has reported."""
        while True:
            self._some.clear()
            is_done = not self._dispatch.unreported and await self._work()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if is_done else self._retry_seconds):
                    await self._some.wait()

    async def _work(self) -> bool:
        """Delete and make what is due; False when some of it has to be tried again."""
        owner = self._owner()
        deleted, _ = due(self._statics(), self._mirrors, owner)
        results = [await self._delete(each) for each in deleted]
        _, made = due(self._statics(), self._mirrors, owner)
        results += [await self._make(each, owner) for each in made]
        return all(results) and bool(owner.uid)

    def _statics(self) -> dict[FullName, Static]:
        workers: Iterable[tuple[Pod, bool]] = (
            (each.bundle.pod, each.facts.deletion is not None)
            for each in self._dispatch.workers
            if each.bundle.source == SOURCE
        )
        return {_full_name(pod): Static(pod, is_ending) for pod, is_ending in workers}

    async def _delete(self, mirror: Pod) -> bool:
        meta = mirror.metadata
        logger.info("mirror pod ending", extra={"pod": meta.name})
        try:
            await self._client.delete(PODS, meta.name, namespace=meta.namespace, uid=meta.uid, grace_seconds=0)
        except (NotFoundError, OutdatedError):
            pass  # it is gone, and its name may be another's
        except WasmletError as error:
            logger.warning("deleting a mirror pod failed", extra={"pod": meta.name, "error": str(error)})
            return False
        self.lose(mirror)
        return True

    async def _make(self, pod: Pod, owner: Owner) -> bool:
        meta = pod.metadata
        try:
            made = await self._client.create(PODS, mirror_of(pod, owner), namespace=meta.namespace)
        except AlreadyExistsError:
            return False  # the watch tells of it soon; or its name is another's
        except WasmletError as error:
            logger.warning("making a mirror pod failed", extra={"pod": meta.name, "error": str(error)})
            return False
        logger.info("mirror pod made", extra={"pod": meta.name})
        self.see(made)
        return True


def _full_name(pod: Pod) -> FullName:
    return pod.metadata.namespace, pod.metadata.name
