"""Which worker serves which pod: one for each UID, never for a name.

A source (a terminal, a manifest, the watch of the API server) submits bundles and asks for their end; a worker
that has nothing left to do ends, and its pod's files are removed when the source asked for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from wasmlet.base.errors import ConflictError, NotFoundError, RetryableError, UserError, WasmletError
from wasmlet.base.tasks import Tasks
from wasmlet.kube.types import Pod
from wasmlet.pods import bundle as bundles
from wasmlet.pods import exec as exec_
from wasmlet.pods import facts, orphans, validation
from wasmlet.pods.accounts import EngineAccount
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.rooms import Rooms
from wasmlet.pods.worker import Worker
from wasmlet.sandbox import protocol
from wasmlet.sandbox.records import resident_bytes

logger = logging.getLogger(__name__)


class Dispatch:
    """Every pod of this agent.

    Attributes:
        unreported: The sources that have not told all of their pods yet; nothing is cleaned before (contract 3).
        on_change: Called when a pod has come or is gone, and when the last source has reported.
    """

    def __init__(self, rooms: Rooms) -> None:
        self.unreported: set[str] = set()
        self.on_change: list[Callable[[], None]] = []
        self._rooms = rooms
        self._workers: dict[str, Worker] = {}
        self._tasks = Tasks()
        rooms.directories.make()

    def __repr__(self) -> str:
        return f"<Dispatch {list(self._workers.values())}>"

    def load(self) -> int:
        """Take up the pods that an earlier agent left; returns how many. Engines have to be adopted before."""
        for directory in sorted(self._rooms.directories.records.iterdir()):
            bundle = bundles.load(directory)
            if bundle is None or bundle.uid != directory.name:
                logger.error("pod directory without a pod", extra={"directory": str(directory)})
                continue
            saved = facts.load(directory)
            holds = saved is not None and saved.torn_down_at is None and not bundle.pod.spec.host_network
            if saved is not None and saved.pod_ips and holds:
                self._rooms.addresses.adopt(bundle.uid, saved.pod_ips)
            self._serve(Worker(self._rooms, bundle, saved, fresh=False, others=self._workers))
        return len(self._workers)

    async def close(self) -> None:
        """Let go of every pod; their sandboxes run on."""
        await self._tasks.close()

    # --- what sources ask ---------------------------------------------------------------------------------------------

    def submit(self, bundle: Bundle) -> Worker:
        """Take a new pod.

        Raises:
            UserError: Its UID cannot name a directory.
            ConflictError: A pod with this UID is here; or a detached one of a terminal would share its name with
                another. Other sources know what they do: a cluster's pod may be made again before the old one ends.
            RetryableError: The disk is full; nothing is kept.
        """
        if not validation.is_uid(bundle.uid):
            raise UserError(f"metadata.uid {bundle.uid!r} is no UID")
        if bundle.uid in self._workers:
            raise ConflictError(f"a pod with UID {bundle.uid} is here already")
        meta = bundle.pod.metadata
        is_free = bundle.attached or bundle.source != "local"
        if not is_free and any(not each.bundle.attached for each in self.named(meta.namespace, meta.name)):
            raise ConflictError(
                f"pod {meta.namespace}/{meta.name} is here already",
                hint=f"remove it first: wasmlet rm {meta.namespace}/{meta.name}",
            )
        directory, is_new = self._rooms.directories.records / bundle.uid, True
        try:
            try:
                os.mkdir(directory, 0o700)
            except FileExistsError:
                is_new = False  # its pod.json was torn, and its source tells it again
            bundles.save(directory, bundle)
        except OSError as error:
            if is_new:
                _remove_empty(directory)
            raise RetryableError(
                f"cannot keep pod {meta.name} in {directory}: {error.strerror}", hint="see to the disk and its space"
            ) from error
        saved = None if is_new else facts.load(directory)
        worker = Worker(self._rooms, bundle, saved, fresh=is_new, others=self._workers)
        self._serve(worker)
        self._tell()
        return worker

    def reported(self, source: str) -> None:
        """The source has told all of its pods; once is enough."""
        if source in self.unreported:
            self.unreported.discard(source)
            if not self.unreported:
                self._tell()
                self.clean()

    def clean(self) -> None:
        """Begin to remove what is left of unknown pods: every source, if there is any, has reported."""
        cleaning = orphans.clean(self._rooms.directories, self._rooms.engines, is_known=self.has)
        self._tasks.start(cleaning, name="orphans")

    def update(self, pod: Pod) -> None:
        """A newer state of a pod that is here. Raises NotFoundError when there is none of that UID."""
        self.get(pod.metadata.uid).update(pod)

    def end(self, uid: str, *, grace_seconds: float | None = None, remove: bool = True) -> None:
        """Have a pod end. Raises NotFoundError when there is none of that UID."""
        worker = self.get(uid)
        worker.end(grace_seconds=grace_seconds, remove=remove)
        if worker.is_gone:
            self._ended(worker)

    async def exec(
        self, uid: str, container: str, command: Sequence[str], *, stdin: bool, tty: bool = False
    ) -> tuple[facts.Attempt, protocol.ExecSpec]:
        """Make ready to run `command` in a container of that pod; raises as `exec.prepare`, and NotFoundError."""
        return await exec_.prepare(self._rooms, self.get(uid), container, command, stdin=stdin, tty=tty)

    def attach(self, uid: str, container: str, *, stdin: bool) -> tuple[facts.Attempt, bool]:
        """The attempt of a container to attach to, and whether it has a terminal; raises as `exec.prepare_attach`."""
        return exec_.prepare_attach(self.get(uid), container, stdin=stdin)

    async def engines(self) -> list[EngineAccount]:
        """Every engine that answers, as it is now, the oldest first."""
        found = []
        for handle in self._rooms.engines.handles:
            with contextlib.suppress(WasmletError):  # it ends just now
                engine = await handle.client.engine()
                key, accounts = handle.record.key, handle.accounts.values()
                account = EngineAccount(
                    id=handle.record.id, namespace=key.namespace, dedicated=key.dedicated, network=key.network,
                    old=handle.old, engine=engine, memory_bytes=resident_bytes(engine.pid),
                    pods=sorted({each.pod_uid for each in accounts if each.state != "exited"}),
                )  # fmt: skip
                found.append(account)
        return sorted(found, key=lambda each: each.engine.started_at)

    async def renew(self, uid: str) -> list[str]:
        """Restart the pod's containers that are in engines of another release; their names.

        An engine that takes them is there before anything ends.

        Raises:
            NotFoundError: No such pod.
            WasmletError: No engine can be started. Nothing was ended.
        """
        worker = self.get(uid)
        old = [each for each in self._rooms.engines.handles if each.old]
        if any(each.runs_any({uid}) for each in old):
            await worker.open_engine()
        return worker.renew({each.record.id for each in old})

    def wake(self, uid: str) -> None:
        """One of the pod's sandboxes changed (the engines' `on_change`)."""
        if (worker := self._workers.get(uid)) is not None:
            worker.wake()

    def refresh(self, uid: str) -> None:
        """An object that the pod mounts has changed."""
        if (worker := self._workers.get(uid)) is not None:
            worker.refresh()

    def retry(self) -> None:
        """What pods wait for before their first container may be there now (the network)."""
        for worker in self._workers.values():
            worker.retry()

    def get(self, uid: str) -> Worker:
        """The worker of that pod. Raises NotFoundError."""
        try:
            return self._workers[uid]
        except KeyError:
            raise NotFoundError(f"there is no pod with UID {uid}") from None

    def has(self, uid: str) -> bool:
        """Whether there is a pod of that UID."""
        return uid in self._workers

    def named(self, namespace: str, name: str) -> list[Worker]:
        """The pods of that name; attached ones may share it."""
        return [each for each in self._workers.values() if _is(each.bundle.pod, namespace, name)]

    @property
    def workers(self) -> Iterable[Worker]:
        """All pods, in the order in which they came."""
        return list(self._workers.values())

    @property
    def is_idle(self) -> bool:
        """Whether no pod here lives."""
        return all(worker.is_gone for worker in self._workers.values())

    # --- serving ------------------------------------------------------------------------------------------------------

    def _serve(self, worker: Worker) -> None:
        self._workers[worker.bundle.uid] = worker
        self._tasks.start(self._run(worker), name=f"pod {worker.bundle.uid}")

    async def _run(self, worker: Worker) -> None:
        """A worker that fails is a fault of wasmlet: it is logged, and the pod taken up again from its facts."""
        while True:
            try:
                await worker.run()
                break
            except Exception:
                logger.exception("worker failed", extra={"pod": worker.bundle.uid})
                await asyncio.sleep(self._rooms.settings.sync_seconds)
        self._ended(worker)
        if worker.bundle.attached:
            await self._remove_unwatched(worker)

    async def _remove_unwatched(self, worker: Worker) -> None:
        """An attached pod is its terminal's; one whose terminal was killed is nobody's."""
        uid = worker.bundle.uid
        while self.has(uid):
            await asyncio.sleep(self._rooms.settings.unwatched_seconds)
            if self.has(uid) and not self._rooms.listener.is_watched(uid):
                self.end(uid, remove=True)

    def _ended(self, worker: Worker) -> None:
        deletion = worker.facts.deletion
        if deletion is not None and deletion.remove and self._workers.pop(worker.bundle.uid, None) is not None:
            worker.remove()
            self._rooms.listener.removed(worker.bundle.uid)
            self._tell()

    def _tell(self) -> None:
        for told in self.on_change:
            told()


def _is(pod: Pod, namespace: str, name: str) -> bool:
    return (pod.metadata.namespace, pod.metadata.name) == (namespace, name)


def _remove_empty(directory: Path) -> None:
    for name in (bundles.FILE_NAME, facts.FILE_NAME):
        (directory / name).unlink(missing_ok=True)
    if directory.is_dir():
        directory.rmdir()
