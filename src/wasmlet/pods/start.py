"""The one long step of a pod: starting a container.

Image → environment → artifact → root directory → attempt saved → sandbox. What fails before the attempt is saved
leaves a `Failure` with the standard reason, and the plan tries again; the stage says which reason (contract 4.4).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wasmlet.base import beneath, clock, quantity
from wasmlet.base.errors import Fault, GuestError, NotFoundError, WasmletError
from wasmlet.images import policy
from wasmlet.images.credentials import Credential, Origin, parse_docker_config, parse_legacy_docker_config
from wasmlet.images.image import Image, PullPolicy
from wasmlet.images.image import Progress as PullProgress
from wasmlet.images.layouts import LINUX_IMAGE
from wasmlet.images.programs import Program
from wasmlet.kube.objects import secret_content
from wasmlet.kube.types import Container, Volume
from wasmlet.pods import (
    demands,
    environment,
    facts,
    hosts,
    image_volumes,
    network,
    plan,
    pools,
    programs,
    restarts,
    serving,
)
from wasmlet.pods.accounts import Progress
from wasmlet.pods.facts import Attempt, Directory, Failure
from wasmlet.pods.handlers import ISOLATED
from wasmlet.pods.rooms import Rooms
from wasmlet.sandbox import protocol
from wasmlet.sandbox.engines import Handle
from wasmlet.sandbox.refusals import EngineBusyError, EngineGoneError
from wasmlet.volumes import mount, root
from wasmlet.volumes.fields import PodFields
from wasmlet.volumes.root import ContainerMount, GuestMount, RootFile, TerminationFile
from wasmlet.volumes.volume import HostVolume

if TYPE_CHECKING:
    from wasmlet.pods.worker import Worker

logger = logging.getLogger(__name__)

ENGINE_TRIES = 4
"""How many engines are asked before a start counts as failed; each refusal opens a new one."""

KEPT_ATTEMPTS = 2

_SHOWN = {
    "image": "ErrImagePull",
    "config": "CreateContainerConfigError",
    "create": "CreateContainerError",
}
_OWN_REASONS = ("ErrImageNeverPull", "InvalidImageName", policy.REASON, environment.REASON)


@dataclass(frozen=True)
class _Compiled:
    """What an engine maps, and as what it runs (`protocol.Compiled.kind`)."""

    artifact: protocol.Artifact
    kind: str


@dataclass(frozen=True)
class _Plan:
    """Everything a sandbox needs but for the engine that it goes to."""

    image: Image
    program: Program
    args: list[str]
    env: list[protocol.EnvVar]
    working_dir: str
    mounts: list[ContainerMount]
    termination: TerminationFile | None
    compiled: Mapping[str, _Compiled] = field(default_factory=dict)


class _StageError(Exception):
    """An error, the stage of the start in which it came, and the image of a volume that it is about."""

    def __init__(self, stage: str, error: WasmletError, *, image: str = "") -> None:
        super().__init__(str(error))
        self.stage = stage
        self.error = error
        self.image = image


class Starter:
    """Starts the containers of one worker's pod."""

    def __init__(self, rooms: Rooms, worker: Worker) -> None:
        self._rooms = rooms
        self._worker = worker
        self._volumes: dict[str, HostVolume] = {}

    async def set_up_volume(self, volume: Volume) -> HostVolume:
        """Make the volume, or bring it up to date, and remember where it is."""
        bundle = self._worker.bundle
        with _named(volume):
            made = await mount.set_up(
                bundle.pod,
                volume,
                directory=self._worker.places.pod,
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
        except _StageError as failed:
            own.failure = self._failure(failed, own.failure)
            self._tell_failure(container, own.failure)
            return
        own.failure = None
        self._worker.tell("Normal", "Created", "Container created", container=container.name)
        self._worker.tell("Normal", "Started", "Container started", container=container.name)

    # --- before the attempt is saved ----------------------------------------------------------------------------------

    async def _prepare(self, container: Container, number: int) -> _Plan:
        with _stage("config"):
            demands.check(self._worker.bundle.pod, container)
            for volume in image_volumes.others(self._worker.bundle.pod):
                if volume.name not in self._volumes:  # an earlier agent made it; the worker keeps it up to date
                    await self.set_up_volume(volume)
        for volume in image_volumes.mounted(self._worker.bundle.pod, container):
            assert volume.image is not None
            with _stage("image", image=volume.image.reference):
                self._volumes[volume.name] = await self._image_volume(container, volume)
        with _stage("image"):
            image = await self._image(container, container.image, pull_policy(container))
        with _stage("config"):
            variables = await self._environment(container, image)
            command = environment.build_command(
                container, variables, entrypoint=image.config.entrypoint, cmd=image.config.command
            )
            working_dir = environment.working_directory(
                container, image_working_directory=image.config.working_directory
            )
        with _stage("create"):
            words = programs.arguments(container, command, image)
            program = await asyncio.to_thread(
                programs.program, image, words, variables,
                working_directory=working_dir, attempt=self._worker.places.attempt(container.name, number),
            )  # fmt: skip
            compatibility, compiled = await self._compile(container, program)
            await self._lay(container, number, image)
            made = await asyncio.to_thread(self._root, container, number, variables, working_dir)
        return _Plan(
            image=image,
            program=program,
            args=[text.value for text in words],
            env=[protocol.EnvVar(name=each.name, value=each.value, secret=each.secret) for each in variables.variables],
            working_dir=working_dir,
            mounts=[*made.mounts],
            termination=made.termination,
            compiled={compatibility: compiled},
        )

    async def _image_volume(self, container: Container, volume: Volume) -> HostVolume:
        assert volume.image is not None
        reference, policy = volume.image.reference, pull_policy_of(volume.image.reference, volume.image.pull_policy)
        image = await self._image(container, reference, policy, for_files=True)
        return await image_volumes.set_up(
            self._rooms.library, image, name=volume.name, pod_directory=self._worker.places.pod
        )

    async def _image(
        self, container: Container, reference: str, policy: PullPolicy, *, for_files: bool = False
    ) -> Image:
        started, told = self._rooms.clock(), list[str]()

        def progress(each: PullProgress) -> None:
            if not told:
                told.append(f'Pulling image "{reference}"')
                self._worker.tell("Normal", "Pulling", told[0], container=container.name)
            news = Progress(
                container=container.name, stage="pull", subject=reference,
                done_bytes=each.received_bytes, total_bytes=each.total_bytes,
            )  # fmt: skip
            self._rooms.listener.progress(self._worker.bundle.uid, news)

        image, pulled = await self._rooms.library.ensure(
            reference,
            pull_policy=policy,
            credentials=[*await self._pull_secrets(), *self._rooms.credentials()],
            account=self._rooms.account(self._worker.bundle.pod),
            policy_file=Path(own) if (own := self._worker.bundle.image_policy) else None,
            progress=progress,
            for_files=for_files,
        )
        if pulled:
            seconds = self._rooms.clock() - started
            text = f'Successfully pulled image "{reference}" in {seconds:.3f}s. '
            text += f"Image size: {image.size_bytes} bytes."
        else:
            text = f'Container image "{reference}" already present on machine and can be accessed by the pod'
        self._worker.tell("Normal", "Pulled", text, container=container.name)
        return image

    async def _pull_secrets(self) -> list[Credential]:
        """The logins of imagePullSecrets; a missing one is told and passed over (contract section 9)."""
        bundle, found = self._worker.bundle, list[Credential]()
        objects = self._rooms.objects(bundle)
        for reference in bundle.pod.spec.image_pull_secrets:
            try:
                secret = await objects.secret(bundle.pod.metadata.namespace, reference.name)
                content = secret_content(secret)
                logins: tuple[Credential, ...] = ()
                if ".dockerconfigjson" in content:
                    logins = parse_docker_config(content[".dockerconfigjson"], source=f"secret {reference.name}")
                elif ".dockercfg" in content:
                    logins = parse_legacy_docker_config(content[".dockercfg"], source=f"secret {reference.name}")
                meta = secret.metadata
                origin = Origin("Secret", bundle.pod.metadata.namespace, meta.name, meta.uid)
                found += [dataclasses.replace(login, origin=origin) for login in logins]
            except WasmletError as error:
                text = f"Unable to retrieve some image pull secrets ({reference.name}); {error}"
                self._worker.tell("Warning", "FailedToRetrieveImagePullSecret", text)
        return found

    async def _compile(self, container: Container, program: Program) -> tuple[str, _Compiled]:
        """The artifact for engines of the present compatibility, under that value."""
        handle = await self._engine()
        compatibility = handle.engine.compatibility

        def on_compile() -> None:
            news = Progress(
                container=container.name, stage="compile", subject=program.name, total_bytes=program.size_bytes
            )
            self._rooms.listener.progress(self._worker.bundle.uid, news)

        artifact, compiled = await self._rooms.artifacts.ensure(
            program.module, digest=program.digest, compatibility=compatibility, on_compile=on_compile
        )
        return compatibility, _Compiled(artifact, compiled.kind)

    async def _lay(self, container: Container, number: int, image: Image) -> None:
        """The image's files as the root of the attempt, which is made anew."""
        if image.tree is None:
            return
        attempt = self._worker.places.attempt(container.name, number)
        await asyncio.to_thread(_empty, attempt / root.ROOT)
        await self._rooms.library.lay(image, attempt / root.ROOT, writable=not _is_read_only(container))

    async def _engine(self) -> Handle:
        """An engine that takes sandboxes of the pod."""
        pool = pools.choose(
            self._worker.bundle.pod,
            self._volumes,
            isolated=self._worker.facts.runtime_handler == ISOLATED,
            isolation=self._rooms.settings.isolation,
            network=self._rooms.addresses.namespace,
        )
        places, cache = self._worker.places, self._rooms.artifacts.directory
        access = pools.access(self._worker.bundle.pod, self._volumes, places, cache=cache) if pool.dedicated else None
        return await self._rooms.engines.acquire(pool, access)

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
        self, container: Container, number: int, variables: environment.Environment, working_dir: str
    ) -> root.ContainerRoot:
        attempt = self._worker.places.attempt(container.name, number)
        attempt.mkdir(mode=0o750, parents=True, exist_ok=True)
        mounts = []
        volumes = {volume.name: volume for volume in self._worker.bundle.pod.spec.volumes}
        for each in container.volume_mounts:
            host, sub_path = self._volumes[each.name], environment.expand_sub_path(each, variables)
            image_volumes.check_sub_path(volumes[each.name], host, sub_path)
            mounts.append(GuestMount(each.mount_path, host, sub_path, each.read_only))
        return root.build_root(
            attempt,
            mounts=mounts,
            files=self._own_files(),
            directories=[working_dir],
            termination_path=container.termination_message_path or None,
            read_only=_is_read_only(container),
        )

    def _own_files(self) -> dict[str, RootFile]:
        """/etc/hosts, /etc/hostname and /etc/resolv.conf (contract 6.2)."""
        pod = self._worker.bundle.pod
        names, way = hosts.pod_names(pod, cluster_domain=""), network.way(pod, self._worker.facts.pod_ips)
        return {
            "/etc/hosts": RootFile(way.hosts.encode()),
            "/etc/hostname": RootFile(f"{names.hostname}\n".encode()),
            "/etc/resolv.conf": RootFile(way.resolv_conf.encode()),
        }

    # --- the attempt --------------------------------------------------------------------------------------------------

    async def _put(self, container: Container, number: int, prepared: _Plan) -> None:
        """Save the attempt, then ask an engine; engines that take no more are passed over."""
        with _stage("create"):
            for _ in range(ENGINE_TRIES):
                handle = await self._engine()
                compiled = prepared.compiled.get(handle.engine.compatibility)
                if compiled is None:
                    _, compiled = await self._compile(container, prepared.program)
                http = self._http(container, compiled, prepared.image)
                attempt = self._save_attempt(container, number, prepared, http, engine=handle.record.id)
                spec = self._spec(container, number, prepared, compiled, http)
                try:
                    sandbox = await self._rooms.engines.put(attempt.id, spec, engine=handle.record.id)
                except EngineBusyError:
                    continue
                except EngineGoneError:
                    return  # the worker finds the engine gone, and the container's policy applies
                except WasmletError as error:
                    self._drop_attempt(container, attempt)
                    if error.reason == "Artifact":
                        self._rooms.artifacts.discard(compiled.artifact)
                    raise
                if sandbox.started_at is not None:
                    attempt.started_at = clock.from_text(sandbox.started_at)
                return
            self._drop_attempt(container, attempt)
            raise WasmletError(f"{ENGINE_TRIES} engines refused {container.name}: their budgets are used up")

    def _save_attempt(
        self, container: Container, number: int, prepared: _Plan, http: protocol.Http | None, *, engine: str
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
                for each in prepared.mounts
            ],
            working_dir=prepared.working_dir,
            search=programs.search_path(prepared.image, prepared.env),
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

    def _spec(
        self, container: Container, number: int, prepared: _Plan, compiled: _Compiled, http: protocol.Http | None
    ) -> protocol.SandboxSpec:
        pod, places = self._worker.bundle.pod, self._worker.places
        of_pod = pod.spec.resources.limits if pod.spec.resources is not None else {}
        limits = {**of_pod, **container.resources.limits}
        requests = {**container.resources.limits, **container.resources.requests}
        return protocol.SandboxSpec(
            pod_uid=pod.metadata.uid,
            pod_namespace=pod.metadata.namespace,
            pod_name=pod.metadata.name,
            container=container.name,
            attempt=number,
            artifact=compiled.artifact,
            kind=compiled.kind,
            http=http,
            network=network.way(pod, self._worker.facts.pod_ips),
            args=prepared.args,
            env=prepared.env,
            working_dir=prepared.working_dir,
            mounts=[
                protocol.Mount(host_path=str(each.host_path), guest_path=each.guest_path, read_only=each.read_only)
                for each in prepared.mounts
            ],
            stdin=container.stdin,
            stdin_once=container.stdin_once,
            tty=container.tty,
            log=protocol.Log(path=str(places.log_file(container.name, number)), lossless=self._worker.bundle.attached),
            exit_file=str(places.exit_file(container.name, number)),
            memory_limit_bytes=quantity.ceil(limits["memory"]) if "memory" in limits else None,
            memory_request_bytes=quantity.ceil(requests["memory"]) if "memory" in requests else 0,
            cpu_quota_millicores=_millicores(limits["cpu"]) if "cpu" in limits else None,
        )

    def _http(self, container: Container, compiled: _Compiled, image: Image) -> protocol.Http | None:
        pod, pod_ips = self._worker.bundle.pod, self._worker.facts.pod_ips
        return serving.http(
            pod, container, kind=compiled.kind, pod_ips=pod_ips, exposed_ports=image.config.exposed_ports
        )

    # --- failures -----------------------------------------------------------------------------------------------------

    def _failure(self, failed: _StageError, before: Failure | None) -> Failure:
        settings, error = self._rooms.settings, failed.error
        shown = error.reason if error.reason in _OWN_REASONS else _SHOWN[failed.stage]
        stage = "image" if error.fault is Fault.GUEST else failed.stage  # a guest that cannot run is retried rarely
        now = self._rooms.clock()
        delay = plan.retry_delay(before, stage=stage, back_off=settings.back_off, sync_seconds=settings.sync_seconds)
        if error.reason == LINUX_IMAGE:  # it has been pulled; only another image under its name can change that
            shown, stage, delay = "CreateContainerError", "create", settings.back_off.maximum_seconds
        return Failure(
            stage=stage, shown=shown, message=str(error), error=str(error), cause=error.reason, fault=error.fault.value,
            not_found=failed.stage == "image" and isinstance(error, NotFoundError),
            at=now, count=1 + (before.count if before else 0), retry_at=now + delay, image=failed.image,
        )  # fmt: skip

    def _tell_failure(self, container: Container, failure: Failure) -> None:
        texts = [f'Failed to pull image "{failure.image or container.image}": {failure.message}']
        if failure.shown == policy.REASON:
            texts.append(f"Error: {failure.shown}")  # both, as a kubelet (contract section 12)
        elif failure.shown != "ErrImagePull":
            texts = [f"Error: {failure.message}"]
        for text in texts:
            self._worker.tell("Warning", "Failed", text, container=container.name)


@contextlib.contextmanager
def _stage(name: str, *, image: str = "") -> Iterator[None]:
    """Give errors of the stage its name, and the image of a volume; errors of the disk become ours."""
    try:
        yield
    except GuestError as error:
        raise _StageError("create", error) from error
    except WasmletError as error:
        raise _StageError(name, error, image=image) from error
    except OSError as error:
        about = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        raise _StageError(name, WasmletError(about, hint="see to the node's disk"), image=image) from error


@contextlib.contextmanager
def _named(volume: Volume) -> Iterator[None]:
    """Errors say which volume they are about, in the kubelet's words (contract section 12)."""
    text = f'MountVolume.SetUp failed for volume "{volume.name}" : '
    try:
        yield
    except WasmletError as error:
        error.message = text + error.message
        raise
    except OSError as error:
        about = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        raise WasmletError(text + about, hint="see to the node's disk") from error


def _is_read_only(container: Container) -> bool:
    context = container.security_context
    return bool(context and context.read_only_root_filesystem)


def _empty(directory: Path) -> None:
    """Make it, or make it empty: an earlier try of this attempt may have left files."""
    directory.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    beneath.remove_tree(directory)
    directory.mkdir(mode=0o700)


def _millicores(cpu: quantity.Quantity) -> int | None:
    """A CPU limit for the engine; a limit of 0 is none, as with Linux containers."""
    return quantity.ceil_divided(cpu, "1m") or None


def pull_policy(container: Container) -> PullPolicy:
    """The container's policy, or Kubernetes' default."""
    return pull_policy_of(container.image, container.image_pull_policy)


def pull_policy_of(reference: str, policy: str) -> PullPolicy:
    """The policy that is given, or Kubernetes' default: Always for the tag latest or none (contract section 9)."""
    if policy == "Always":
        return "Always"
    if policy == "Never":
        return "Never"
    if policy == "IfNotPresent" or "@" in reference:
        return "IfNotPresent"
    tag = reference.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"
