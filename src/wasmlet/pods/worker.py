"""One worker for each pod UID: it does the plan's next step, saves the fact that the step made, and goes on.

News comes by one slot each (newest wins): a changed pod, a deletion, "something happened to a sandbox". A step that
has not reached an engine yet is given up when the pod is to end; from the moment when an attempt is saved until the
engine has answered nothing interrupts it, so that no sandbox is ever forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Coroutine, Mapping
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from wasmlet.base import beneath
from wasmlet.base.errors import WasmletError
from wasmlet.base.tasks import InterruptedWorkError, unless
from wasmlet.kube.types import Container, Pod, PodStatus
from wasmlet.pods import bundle as bundles
from wasmlet.pods import facts, plan, requests, restarts, status
from wasmlet.pods.accounts import News
from wasmlet.pods.admission import Neighbour
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.entrance import Entrance
from wasmlet.pods.facts import Deletion, Facts, Verdict
from wasmlet.pods.health import Health
from wasmlet.pods.observation import Observer
from wasmlet.pods.preparation import Preparer
from wasmlet.pods.rooms import Rooms
from wasmlet.pods.start import Starter
from wasmlet.pods.stopping import Stopper
from wasmlet.pods.view import DEFAULT_GRACE_SECONDS, View, all_containers
from wasmlet.volumes import mount

logger = logging.getLogger(__name__)

T = TypeVar("T")

FULL_DISK_RETRY_SECONDS = 1.0


class Worker:
    """The life of one pod.

    Args:
        fresh: False for a pod found on disk when the agent started.
        others: Every worker of this agent by UID, as it is now: the pods that this one has to fit beside.
    """

    def __init__(
        self, rooms: Rooms, bundle: Bundle, saved: Facts | None, *, fresh: bool, others: Mapping[str, Worker]
    ) -> None:
        self.bundle = bundle
        self.facts = saved or Facts(uid=bundle.uid, seen_at=rooms.clock())
        self.places = rooms.directories.places(bundle.pod, self.facts.pool)
        self._rooms = rooms
        self._fresh = fresh
        self._refresh_at = rooms.clock() + rooms.settings.refresh_seconds
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._ended = asyncio.Event()
        self._status: PodStatus | None = None
        self._written = b""
        self._told_back_offs: set[tuple[str, int]] = set()
        self._saved_ips = list(self.facts.pod_ips)
        self._health = Health(rooms, self)
        self._starter = Starter(rooms, self)
        self._entrance = Entrance(rooms, self, others)
        self._preparer = Preparer(rooms, self, self._starter)
        self._stopper = Stopper(rooms, self)
        self._observer = Observer(rooms, self)

    def __repr__(self) -> str:
        return f"<Worker {self.bundle.pod.metadata.name} {plan.stage(self.view()).value}>"

    # --- what others ask ----------------------------------------------------------------------------------------------

    def view(self) -> View:
        """The pod as the plan and the status see it now."""
        return View(self.bundle.pod, self.facts, self._rooms.clock(), self._rooms.settings.back_off)

    def status(self) -> PodStatus:
        """The present status."""
        self._status = status.render(self.view(), host_ips=self._rooms.settings.host_ips, previous=self._status)
        if self._saved_ips != self.facts.pod_ips:  # an address that was shown must not be forgotten with the agent
            self._status.pod_ip, self._status.pod_ips = "", []
        return self._status

    @property
    def is_gone(self) -> bool:
        """Whether it has ended and nothing is left to do but to remove it, when asked."""
        return plan.stage(self.view()) is plan.Stage.GONE

    @property
    def is_starting(self) -> bool:
        """Whether there is nothing to tell of it yet: no container has started, and nothing went wrong."""
        stages = (plan.Stage.NEW, plan.Stage.PREPARING, plan.Stage.RUNNING)
        if plan.stage(self.view()) not in stages or self.facts.volume_failure is not None:
            return False
        return not self.has_started and all(own.failure is None for own in self.facts.containers.values())

    @property
    def has_started(self) -> bool:
        """Whether a guest of it has ever run."""
        return any(own.has_started for own in self.facts.containers.values())

    def wake(self) -> None:
        """Something happened to one of its sandboxes."""
        self._changed.set()

    def update(self, pod: Pod) -> None:
        """The source has a newer state of the pod; a deletion that it tells begins here (contract 4.7)."""
        has_new_images = self._note_new_images(pod)
        if has_new_images:
            self.save()  # before the pod, or they would be forgotten with the agent
        # Most updates are the echo of our own statuses, of which nothing follows.
        is_new = has_new_images or _told(pod) != _told(self.bundle.pod)
        self.bundle.pod = pod
        if is_new:
            with contextlib.suppress(OSError):  # it is told again after a restart
                bundles.save(self.places.record, self.bundle)
        if pod.metadata.deletion_timestamp is not None:
            self.end(grace_seconds=pod.metadata.deletion_grace_period_seconds, remove=False)
        if not is_new:
            return
        self._changed.set()
        if self.is_gone:  # its loop has ended, and its status still says which generation it observed
            self._rooms.listener.changed(self.bundle.uid)

    def _note_new_images(self, pod: Pod) -> bool:
        """Containers of another image start anew, without the waits of the old one; whether there are such."""
        before = {each.name: each.image for each in all_containers(self.bundle.pod)}
        changed = [each.name for each in all_containers(pod) if before.get(each.name, each.image) != each.image]
        for name in changed:
            own = self.facts.container(name)
            own.failure, own.back_off_seconds = None, 0.0
            if own.last is not None and own.last.finished_at is None:
                own.last.is_outdated = True
        return bool(changed)

    async def open_engine(self) -> None:
        """Return when there is an engine that takes its sandboxes. Raises WasmletError when none can be started."""
        await self._starter.engine()

    def renew(self, engines: Collection[str]) -> list[str]:
        """Have its containers in these engines start anew in others; those of them that are to.

        A container that its restart policy would not start again after it was stopped goes on where it is.
        """
        spec, names = self.bundle.pod.spec, list[str]()
        for container in all_containers(self.bundle.pod):
            own = self.facts.container(container.name)
            policy = container.restart_policy or spec.restart_policy or "Always"
            if container in spec.init_containers and not restarts.is_sidecar(container, spec=spec):
                continue
            if own.last is None or own.last.finished_at is not None or own.last.engine not in engines:
                continue
            if policy != "Never":
                own.back_off_seconds, own.last.leaves_engine = 0.0, True
                names.append(container.name)
        if names:
            self.save()
            self.wake()
        return names

    def refresh(self) -> None:
        """An object that the pod mounts may be another: its files follow."""
        self._refresh_at = 0.0
        self._changed.set()

    def retry(self) -> None:
        """What the pod waits for before its first container may be there now."""
        if self.facts.volume_failure is not None:
            self.facts.volume_failure.retry_at = self._rooms.clock()
            self._changed.set()

    def end(self, *, grace_seconds: float | None, remove: bool) -> None:
        """Have the pod end; None takes its own grace. Asking again can only shorten the time (contract 4.7)."""
        own = self.bundle.pod.spec.termination_grace_period_seconds
        grace = grace_seconds if grace_seconds is not None else DEFAULT_GRACE_SECONDS if own is None else own
        before = self.facts.deletion
        if before is None:
            self.facts.deletion = Deletion(at=self._rooms.clock(), grace_seconds=float(grace), remove=remove)
        else:
            before.grace_seconds = min(before.grace_seconds, float(grace))
            before.remove = before.remove or remove
        self._ending.set()
        self._changed.set()

    def terminate(self, verdict: Verdict) -> None:
        """The node ends the pod (`disrupts`); one that has ended, or is ending for a verdict, keeps its reason."""
        if self.facts.ended_at is not None or self.facts.verdict is not None:
            return
        self.facts.verdict = verdict
        self._ending.set()
        self._changed.set()

    async def ended(self) -> None:
        """Return when every container has ended for good, so that the phase is final."""
        if self.facts.ended_at is None:
            await self._ended.wait()

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the pod is gone (cancel it to leave the pod as it is)."""
        self.places.record.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            await self._stopper.repeat_signals()
            while True:
                await self._rooms.turns.take()
                self._changed.clear()
                await self._observer.observe()
                if self.is_gone:
                    return
                await self._refresh_volumes()
                self._health.sync(fresh=self._fresh)
                self._fresh = True
                await self._do(plan.next_step(self.view()))
        finally:
            await self._health.close()
            self._rooms.listener.changed(self.bundle.uid)

    async def _do(self, step: plan.Step) -> None:
        if isinstance(step, plan.Wait):
            self._tell_back_offs()
            self.save()
            await self.wait(step.until)
            return
        logger.debug("step", extra={"pod": self.bundle.pod.metadata.name, "step": step})
        match step:
            case plan.Admit():
                await self._enter()
                return
            case plan.Prepare():
                with contextlib.suppress(InterruptedWorkError):
                    await self.unless_ending(self._preparer.prepare())
                return  # may be done again after a crash: saved with the next fact
            case plan.Start(container=name, number=number):
                with contextlib.suppress(InterruptedWorkError):
                    await self._starter.start(self.container(name), number)
            case plan.BackOffFailure(container=name):
                self._back_off(name)
            case plan.Stop():
                self._stopper.stop(step)
                return
            case plan.Signal():
                await self._stopper.signal(step)
            case plan.RestartAll():
                self.facts.restart_all_at = restarts.round_moment(self.facts, self._rooms.clock())
            case plan.Expire():
                self._expire()
            case plan.End():
                self.facts.ended_at = self._rooms.clock()
                self._ended.set()
            case plan.TearDown():
                await self._tear_down()
        self.save()

    def save(self) -> None:
        """A full disk must not stop a pod's life: the facts stay in memory and the next step saves them again."""
        try:
            self.save_facts()
        except OSError as error:
            logger.error("saving facts failed", extra={"pod": self.bundle.uid, "error": str(error)})
        self._rooms.listener.changed(self.bundle.uid)

    def save_facts(self) -> None:
        """Write the facts, unless they are on disk as they are: a file takes about a millisecond of the event loop.

        Raises:
            OSError: The disk is full.
        """
        content = msgspec.json.encode(self.facts)
        if content != self._written:
            facts.save(self.places.record, self.facts)
            self._written = content
            self._saved_ips = list(self.facts.pod_ips)

    async def _refresh_volumes(self) -> None:
        """Bring mounted configuration up to date, now and then and when it was told (contract 6.4)."""
        if plan.stage(self.view()) is not plan.Stage.RUNNING or self._rooms.clock() < self._refresh_at:
            return
        self._refresh_at = self._rooms.clock() + self._rooms.settings.refresh_seconds
        try:
            for volume in filter(mount.is_followed, self.bundle.pod.spec.volumes):
                await self._starter.set_up_volume(volume)
        except (WasmletError, OSError) as error:
            self.tell("Warning", "FailedMount", str(error))

    async def wait(self, until: float | None) -> None:
        """Until something happens to the pod, or a moment comes, or its volumes are due."""
        if plan.stage(self.view()) is plan.Stage.RUNNING and any(map(mount.is_followed, self.bundle.pod.spec.volumes)):
            until = self._refresh_at if until is None else min(until, self._refresh_at)
        seconds = None if until is None else max(0.0, until - self._rooms.clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def unless_ending(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; raises InterruptedWorkError when the pod is to end before it is there."""
        return await unless(self._ending, work, name=f"step of {self.bundle.uid}")

    # --- steps --------------------------------------------------------------------------------------------------------

    async def _enter(self) -> None:
        with contextlib.suppress(InterruptedWorkError):
            await self._entrance.admit()
        if self.facts.verdict is not None:
            self.save()
        else:  # saved with the next fact; until then nothing has come of it
            self._rooms.listener.changed(self.bundle.uid)

    @property
    def holds_room(self) -> bool:
        """Whether it counts when another pod wants to come in; the scheduler knows nothing of local pods."""
        return self.bundle.source != "local" and self.facts.admitted_at is not None and self.facts.ended_at is None

    @cached_property
    def neighbour(self) -> Neighbour:
        """The pod as admission sees it beside another one."""
        return Neighbour(self.bundle.pod, requests.of_pod(self.bundle.pod))

    def _back_off(self, name: str) -> None:
        failure = self.facts.container(name).failure
        assert failure is not None
        failure.shown = "ImagePullBackOff"
        image = failure.image or self.container(name).image
        failure.message = f'Back-off pulling image "{image}": ErrImagePull: {failure.error}'
        self.tell(
            "Normal", "BackOff", f'Back-off pulling image "{image}"', container="" if failure.image else name
        )  # fmt: skip
        self.tell("Warning", "Failed", f"Error: {failure.shown}", container=name)

    def _tell_back_offs(self) -> None:
        """Say once for each end that a container waits before it starts again (contract 4.6)."""
        if not any(own.back_off_seconds for own in self.facts.containers.values()):
            return  # nothing was ever started again: no need to render a status
        now = self.status()
        for each in (*now.init_container_statuses, *now.container_statuses):
            waits = each.state.waiting is not None and each.state.waiting.reason == "CrashLoopBackOff"
            if waits and (each.name, each.restart_count) not in self._told_back_offs:
                self._told_back_offs.add((each.name, each.restart_count))
                meta = self.bundle.pod.metadata
                pod = f"{meta.name}_{meta.namespace}({meta.uid})"
                message = f"Back-off restarting failed container {each.name} in pod {pod}"
                self.tell("Warning", "BackOff", message, container=each.name)

    def _expire(self) -> None:
        message = "Pod was active on the node longer than the specified deadline"
        self.facts.verdict = Verdict(phase="Failed", reason="DeadlineExceeded", message=message, at=self._rooms.clock())
        self._ending.set()
        self.tell("Normal", "DeadlineExceeded", message)

    async def _tear_down(self) -> None:
        for name in self.facts.containers:
            for attempt in self.facts.container(name).attempts:
                await self._rooms.engines.forget(attempt.engine, attempt.id)
        try:
            await mount.tear_down(self.places.pod)
            await asyncio.to_thread(self._remove_containers)
        except (WasmletError, OSError) as error:
            logger.error("tear down failed", extra={"pod": self.bundle.uid, "error": str(error)})
            await self.wait(self._rooms.clock() + FULL_DISK_RETRY_SECONDS)
            return
        self._rooms.addresses.release(self.bundle.uid)
        self.facts.torn_down_at = self._rooms.clock()

    def _remove_containers(self) -> None:
        if (self.places.pod / "containers").exists():
            beneath.remove_tree(self.places.pod, "containers")

    def remove(self) -> None:
        """Delete everything of a pod that is gone, its logs too."""
        for directory in (self.places.logs, self.places.pod, self.places.record):
            try:
                beneath.remove_tree(directory)
            except (WasmletError, OSError) as error:
                logger.error("removing failed", extra={"directory": str(directory), "error": str(error)})
        self._rooms.directories.vacate(self.places)

    # --- small things -------------------------------------------------------------------------------------------------

    def container(self, name: str) -> Container:
        """The container of that name."""
        return next(each for each in all_containers(self.bundle.pod) if each.name == name)

    def tell(self, kind: str, reason: str, message: str, *, container: str = "") -> None:
        """Give news of this pod to whoever listens."""
        news = News(moment=self._rooms.clock(), kind=kind, reason=reason, message=message, container=container)
        self._rooms.listener.news(self.bundle.pod, news)


def _told(pod: Pod) -> tuple[object, ...]:
    """What the source says of a pod, but for the status that is told by us."""
    meta = pod.metadata
    foreign = [each for each in pod.status.conditions if each.type not in status.OWN_CONDITIONS]
    changes = meta.generation, meta.deletion_timestamp, meta.deletion_grace_period_seconds
    return *changes, meta.labels, meta.annotations, foreign
