"""The one long step of a pod: starting a container.

Image → environment → artifact → root directory → attempt saved → sandbox. What fails before the attempt is saved
leaves a `Failure` with the standard reason, and the plan tries again; the stage says which reason (contract 4.4).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wasmlet.base import beneath, clock
from wasmlet.base.errors import WasmletError
from wasmlet.images.image import Image
from wasmlet.images.programs import Program
from wasmlet.kube.types import Container, Volume
from wasmlet.pods import (
    applications,
    demands,
    environment,
    facts,
    failures,
    hosts,
    image_volumes,
    network,
    orders,
    pools,
    programs,
    restarts,
    serving,
)
from wasmlet.pods.accounts import Progress
from wasmlet.pods.applications import Given, Running
from wasmlet.pods.facts import Attempt, Directory
from wasmlet.pods.failures import StageError, in_stage
from wasmlet.pods.orders import Compiled, Prepared
from wasmlet.pods.pull import Puller, pull_policy
from wasmlet.pods.rooms import Rooms
from wasmlet.sandbox import protocol
from wasmlet.sandbox.engines import Handle
from wasmlet.sandbox.refusals import EngineBusyError, EngineGoneError
from wasmlet.volumes import mount, root
from wasmlet.volumes.fields import PodFields
from wasmlet.volumes.root import GuestMount, RootFile, TerminationFile
from wasmlet.volumes.volume import HostVolume

if TYPE_CHECKING:
    from wasmlet.pods.worker import Worker

ENGINE_TRIES = 4
"""How many engines are asked before a start counts as failed; each refusal opens a new one."""

KEPT_ATTEMPTS = 2


class Starter:
    """Starts the containers of one worker's pod."""

    def __init__(self, rooms: Rooms, worker: Worker) -> None:
        self._rooms = rooms
        self._worker = worker
        self._puller = Puller(rooms, worker)
        self._volumes: dict[str, HostVolume] = {}

    async def set_up_volume(self, volume: Volume) -> HostVolume:
        """Make the volume, or bring it up to date, and remember where it is."""
        bundle = self._worker.bundle
        group = self._rooms.directories.group(self._worker.places)
        user = pools.user(bundle.pod, group)
        with failures.of_volume(volume):
            made = await mount.set_up(
                bundle.pod,
                volume,
                directory=self._worker.places.pod,
                group=group,
                owner=None if user is None else user.user,
                objects=self._rooms.objects(bundle),
                fields=self._fields(),
                tokens=self._rooms.tokens,
            )
        self._volumes[volume.name] = made
        return made

    async def start(self, container: Container, number: int) -> None:
        """Start attempt `number`, or leave a failure.

        Raises:
            InterruptedWorkError: The pod is to end; nothing was started.
        """
        own = self._worker.facts.container(container.name)
        try:
            try:
                prepared = await self._worker.unless_ending(self._prepare(container, number))
            finally:
                done = Progress(container=container.name, stage="done", subject="")
                self._rooms.listener.progress(self._worker.bundle.uid, done)
            await self._put(container, number, prepared)
        except StageError as failed:
            now, settings = self._rooms.clock(), self._rooms.settings
            own.failure = failures.failure(container, failed, own.failure, settings=settings, now=now)
            for reason, text, subject in failures.news(container, own.failure):
                self._worker.tell("Warning", reason, text, container=subject)
            return
        own.failure = None
        self._worker.tell("Normal", "Created", "Container created", container=container.name)
        self._worker.tell("Normal", "Started", "Container started", container=container.name)

    # --- before the attempt is saved ----------------------------------------------------------------------------------

    async def _prepare(self, container: Container, number: int) -> Prepared:
        with in_stage("config"):
            demands.check(self._worker.bundle.pod, container)
            for volume in image_volumes.others(self._worker.bundle.pod):
                if volume.name not in self._volumes:  # an earlier agent made it; the worker keeps it up to date
                    await self.set_up_volume(volume)
        for volume in image_volumes.mounted(self._worker.bundle.pod, container):
            assert volume.image is not None
            with in_stage("image", image=volume.image.reference):
                self._volumes[volume.name] = await self._image_volume(container, volume)
        with in_stage("image"):
            policy = pull_policy(container.image, container.image_pull_policy)
            image = await self._puller.pull(container.name, container.image, policy)
        with in_stage("config"):
            variables = await self._environment(container, image)
            command = environment.build_command(
                container, variables, entrypoint=image.config.entrypoint, cmd=image.config.command
            )
            working_dir = environment.working_directory(
                container, image_working_directory=image.config.working_directory
            )
        with in_stage("create"):
            words = programs.arguments(container, command, image)
            look = functools.partial(programs.running, image, words, variables, working_directory=working_dir)
            running = look() if image.tree is None else await asyncio.to_thread(look)  # a tree's files are on disk
            compatibility, compiled = await self._compile(container, running)
            attempt = self._worker.places.attempt(container.name, number)
            await self._lay(container, attempt, image)
            way = network.way(self._worker.bundle.pod, self._worker.facts.pod_ips)
            given, termination = await self._give(container, attempt, running, variables, working_dir, way)
        return Prepared(
            image=image,
            network=way,
            args=[text.value for text in words],
            working_dir=working_dir,
            given=given,
            termination=termination,
            compiled={compatibility: compiled},
        )

    async def _image_volume(self, container: Container, volume: Volume) -> HostVolume:
        assert volume.image is not None
        reference, policy = volume.image.reference, pull_policy(volume.image.reference, volume.image.pull_policy)
        image = await self._puller.pull(container.name, reference, policy, for_files=True)
        return await image_volumes.set_up(
            self._rooms.library, image, name=volume.name, pod_directory=self._worker.places.pod
        )

    async def _compile(self, container: Container, running: Sequence[Running]) -> tuple[str, list[Compiled]]:
        """The artifacts for engines of the present compatibility, under that value."""
        handle = await self.engine()
        compatibility, found = handle.engine.compatibility, list[Compiled]()
        for each in running:
            with applications.about(each.part):
                compiled = await self._artifact(container, each.program, compatibility)
                applications.require_server(each.part, compiled.kind)
            found.append(compiled)
        return compatibility, found

    async def _artifact(self, container: Container, program: Program, compatibility: str) -> Compiled:
        def on_compile() -> None:
            news = Progress(
                container=container.name, stage="compile", subject=program.name, total_bytes=program.size_bytes
            )
            self._rooms.listener.progress(self._worker.bundle.uid, news)

        artifact, compiled = await self._rooms.artifacts.ensure(
            program.module,
            digest=program.digest,
            compatibility=compatibility,
            function=program.function,
            on_compile=on_compile,
        )
        return Compiled(artifact, compiled.kind)

    async def _lay(self, container: Container, attempt: Path, image: Image) -> None:
        """The image's files as the root of the attempt, or as those of its components, which are made anew."""
        place = attempt / (applications.COMPONENTS if image.components else root.ROOT)
        if image.tree is not None:
            await asyncio.to_thread(_empty, place)
            await self._rooms.library.lay(image, place, writable=not _is_read_only(container))
            user = pools.user(self._worker.bundle.pod, self._rooms.directories.group(self._worker.places))
            if user is not None and not _is_read_only(container):  # else files are links to those of all
                await asyncio.to_thread(beneath.give_tree, place, user.user)

    async def _give(
        self,
        container: Container,
        attempt: Path,
        running: Sequence[Running],
        variables: environment.Environment,
        working_dir: str,
        way: protocol.Network,
    ) -> tuple[list[Given], TerminationFile | None]:
        """Environment and directories of each program, and the container's termination log, which the first has."""
        env = [protocol.EnvVar(name=each.name, value=each.value, secret=each.secret) for each in variables.variables]
        given, termination = list[Given](), None
        for number, each in enumerate(running):
            place = attempt
            if each.part is not None:
                place = await asyncio.to_thread(applications.make_place, attempt, number)
            made = await asyncio.to_thread(
                self._root, container, place, variables, working_dir, self._own_files(way), with_log=not given
            )
            termination = termination or made.termination
            given.append(Given(each, applications.environment(each.part, env), made.mounts))
        return given, termination

    async def engine(self) -> Handle:
        """An engine that takes sandboxes of the pod."""
        pod, rooms = self._worker.bundle.pod, self._rooms
        group = rooms.directories.group(self._worker.places)
        key = pools.key(pod, self._worker.facts.pool, network=rooms.addresses.namespace, group=group)
        access = pools.access(pod, self._worker.places, cache=rooms.artifacts.directory)
        return await rooms.engines.acquire(key, access)

    def _fields(self) -> PodFields:
        settings = self._rooms.settings
        return PodFields(
            node_name=settings.node_name,
            host_ips=settings.host_ips,
            pod_ips=tuple(self._worker.facts.pod_ips),
            allocatable=settings.allocatable if self._rooms.node is None else self._rooms.node.allocatable(),
        )

    async def _environment(self, container: Container, image: Image) -> environment.Environment:
        bundle = self._worker.bundle
        return await environment.build_environment(
            bundle.pod,
            container,
            objects=self._rooms.objects(bundle),
            fields=self._fields(),
            volumes=self._volumes,
            image_env=[f"{name}={value}" for name, value in image.config.environment],
            hostname=hosts.pod_names(bundle.pod, cluster_domain="").hostname,
            service_variables=self._rooms.service_variables(bundle.pod),
        )

    def _root(
        self,
        container: Container,
        place: Path,
        variables: environment.Environment,
        working_dir: str,
        files: Mapping[str, RootFile],
        *,
        with_log: bool,
    ) -> root.ContainerRoot:
        place.mkdir(mode=0o750, parents=True, exist_ok=True)
        mounts = []
        volumes = {volume.name: volume for volume in self._worker.bundle.pod.spec.volumes}
        for each in container.volume_mounts:
            host, sub_path = self._volumes[each.name], environment.expand_sub_path(each, variables)
            image_volumes.check_sub_path(volumes[each.name], host, sub_path)
            mounts.append(GuestMount(each.mount_path, host, sub_path, each.read_only))
        return root.build_root(
            place,
            mounts=mounts,
            files=files,
            directories=[working_dir],
            termination_path=(container.termination_message_path or None) if with_log else None,
            read_only=_is_read_only(container),
        )

    def _own_files(self, way: protocol.Network) -> dict[str, RootFile]:
        """/etc/hosts, /etc/hostname and /etc/resolv.conf (contract 6.2)."""
        names = hosts.pod_names(self._worker.bundle.pod, cluster_domain="")
        return {
            "/etc/hosts": RootFile(way.hosts.encode()),
            "/etc/hostname": RootFile(f"{names.hostname}\n".encode()),
            "/etc/resolv.conf": RootFile(way.resolv_conf.encode()),
        }

    # --- the attempt --------------------------------------------------------------------------------------------------

    async def _put(self, container: Container, number: int, prepared: Prepared) -> None:
        """Save the attempt, then ask an engine; engines that take no more are passed over."""
        bundle, pod_ips = self._worker.bundle, self._worker.facts.pod_ips
        with in_stage("create"):
            for _ in range(ENGINE_TRIES):
                handle = await self.engine()
                compiled = prepared.compiled.get(handle.engine.compatibility)
                if compiled is None:
                    _, compiled = await self._compile(container, [each.running for each in prepared.given])
                http = serving.http(
                    bundle.pod, container, kind=compiled[0].kind, pod_ips=pod_ips,
                    exposed_ports=prepared.image.config.exposed_ports, components=prepared.components(compiled),
                )  # fmt: skip
                attempt = self._save_attempt(container, number, prepared, http, engine=handle.record.id)
                spec = orders.spec(
                    bundle, container, number, prepared,
                    compiled=compiled[0], http=http, places=self._worker.places,
                )  # fmt: skip
                try:
                    sandbox = await self._rooms.engines.put(attempt.id, spec, engine=handle.record.id)
                except EngineBusyError:
                    continue
                except EngineGoneError:
                    return  # the worker finds the engine gone, and the container's policy applies
                except WasmletError as error:
                    self._drop_attempt(container, attempt)
                    if error.reason == "Artifact":
                        for each in compiled:
                            self._rooms.artifacts.discard(each.artifact)
                    raise
                if sandbox.started_at is not None:
                    attempt.started_at = clock.from_text(sandbox.started_at)
                return
            self._drop_attempt(container, attempt)
            raise WasmletError(f"{ENGINE_TRIES} engines refused {container.name}: their budgets are used up")

    def _save_attempt(
        self, container: Container, number: int, prepared: Prepared, http: protocol.Http | None, *, engine: str
    ) -> Attempt:
        own = self._worker.facts.container(container.name)
        now, back_off = self._rooms.clock(), self._rooms.settings.back_off
        if own.last is not None and own.last.number == number:
            own.attempts.pop()
        else:
            restarts.raise_back_off(own, now, back_off)
        attempt = Attempt(
            number=number,
            id=facts.sandbox_id(self._worker.bundle.uid, container.name, number),
            engine=engine,
            created_at=restarts.attempt_moment(self._worker.facts, now),
            image=prepared.image.reference,
            image_id=prepared.image.image_id,
            termination_root=str(prepared.termination.root) if prepared.termination else "",
            termination_path=prepared.termination.relative if prepared.termination else "",
            serves=serving.addresses(container, http, pod_ips=self._worker.facts.pod_ips),
            directories=[
                Directory(guest_path=each.guest_path, root=str(each.root), relative=each.sub_path)
                for each in prepared.given[0].made
            ],
            working_dir=prepared.working_dir,
            search=programs.search_path(prepared.image, prepared.given[0].env),
        )
        own.attempts.append(attempt)
        self._worker.save_facts()
        for old in own.attempts[:-KEPT_ATTEMPTS]:
            self._remove_old(container.name, old.number)
        del own.attempts[:-KEPT_ATTEMPTS]
        return attempt

    def _drop_attempt(self, container: Container, attempt: Attempt) -> None:
        """The engine refused it: nothing of it remains, and its number is free."""
        self._worker.facts.container(container.name).attempts.remove(attempt)
        self._remove_old(container.name, attempt.number)

    def _remove_old(self, container: str, number: int) -> None:
        places = self._worker.places
        with contextlib.suppress(WasmletError, OSError):
            beneath.remove_tree(places.pod, f"containers/{container}/{number}")
        for log in places.log_file(container, number).parent.glob(f"{number}.log*"):
            log.unlink(missing_ok=True)
        places.exit_file(container, number).unlink(missing_ok=True)


def _is_read_only(container: Container) -> bool:
    context = container.security_context
    return bool(context and context.read_only_root_filesystem)


def _empty(directory: Path) -> None:
    """Make it, or make it empty: an earlier try of this attempt may have left files."""
    directory.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    beneath.remove_tree(directory)
    directory.mkdir(mode=0o750)
