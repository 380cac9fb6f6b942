"""The composition root: the only file that knows every room.

Reads nothing but its `Config`; builds the rooms from the bottom up, takes up what an earlier agent left, serves until
a signal (or until nothing lives any more, when a command started it), and lets go of everything without stopping a
sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmlet.base.errors import ConflictError, RetryableError, UserError
from wasmlet.base.tasks import InterruptedWorkError, Tasks, unless
from wasmlet.config import Config, make_state_directory
from wasmlet.images import credentials, proxies, trust
from wasmlet.images.access import Verification
from wasmlet.images.collection import Policy
from wasmlet.images.credentials import Credential
from wasmlet.images.helpers import DockerHelpers
from wasmlet.images.library import Library
from wasmlet.images.plugins import load_plugins
from wasmlet.images.settings import Settings as ImageSettings
from wasmlet.images.sources import Source
from wasmlet.node.machine import allocatable
from wasmlet.pods import bundle as bundles
from wasmlet.pods import orphans
from wasmlet.pods.collection import Collection
from wasmlet.pods.directories import Directories
from wasmlet.pods.dispatch import Dispatch
from wasmlet.pods.rooms import Rooms
from wasmlet.pods.rooms import Settings as PodSettings
from wasmlet.sandbox import artifacts, engines, network, placement, users
from wasmlet.sandbox.engines import Access
from wasmlet.sandbox.namespace import Namespace
from wasmlet.sandbox.program import find_engine_program
from wasmlet.server import configz
from wasmlet.server.hub import Hub
from wasmlet.server.local import LocalServer

if TYPE_CHECKING:
    from wasmlet.cluster import Cluster
    from wasmlet.cluster import Settings as ClusterSettings

logger = logging.getLogger(__name__)

LOCK_NAME = "agent.lock"
KEPT_MEMORY_BYTES = 100 << 20
"""What an engine leaves to the machine, as eviction does (node.settings)."""

GUESTS_SHARE = 0.9
"""Of an engine's memory, for its guests: the rest is its own, so that it ends one of them before the kernel ends it."""

LOOPBACK_IP = "127.0.0.1"
"""The node's own address without a cluster."""


class Idleness:
    """Tells when the last request is long enough ago."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._moved = asyncio.Event()

    def touch(self) -> None:
        """Somebody asked for something."""
        self._moved.set()

    async def over(self, dispatch: Dispatch) -> None:
        """Return when nobody asked for the whole time and no pod lives; with None, never."""
        while True:
            self._moved.clear()
            try:
                async with asyncio.timeout(self._seconds):
                    await self._moved.wait()
            except TimeoutError:
                if dispatch.is_idle:
                    return


def image_settings(config: Config, *, allow_local_files: bool = True) -> ImageSettings:
    """The images room's settings; commands that move images without an agent use them too.

    Args:
        allow_local_files: Whether `file:` names a module of this machine; never for pods of a cluster.
    """
    return ImageSettings(
        directory=config.state / "images",
        insecure_registries=frozenset(config.file.insecure_registries),
        ca_files=tuple(Path(each) for each in config.file.ca_files),
        hosts_directory=Path(config.file.registry_hosts) if config.file.registry_hosts else None,
        proxies=proxies.from_environment(os.environ),
        policy_file=config.image_policy,
        verification=_verification(config),
        parallel_pulls=config.file.max_parallel_image_pulls,
        allow_local_files=allow_local_files,
    )


def _verification(config: Config) -> Verification:
    try:
        return Verification(
            config.file.image_pull_credentials_verification_policy,
            tuple(config.file.preloaded_images_verification_allowlist),
        )
    except ValueError as error:
        raise UserError(str(error), hint="see preloaded-images-verification-allowlist") from error


def collection_policy(config: Config) -> Policy:
    """When unused images go.

    Raises:
        UserError: The thresholds or ages contradict each other.
    """
    try:
        return Policy(
            high_percent=config.file.image_gc_high_threshold_percent,
            low_percent=config.file.image_gc_low_threshold_percent,
            minimum_age_seconds=config.file.image_minimum_gc_age_seconds,
            maximum_age_seconds=config.file.image_maximum_gc_age_seconds,
            pinned=tuple(config.file.pinned_images),
        )
    except ValueError as error:
        raise UserError(str(error), hint="see image-gc-… in docs/reference/config.md") from error


def logins() -> tuple[Credential, ...]:
    """What docker and podman know of this user; an unreadable file is told and passed over."""
    try:
        return credentials.load_default(os.environ, Path.home())
    except (UserError, RuntimeError) as error:
        logger.warning("logins passed over", extra={"error": str(error)})
        return ()


def image_sources(config: Config) -> tuple[Source, ...]:
    """Who knows further logins when an image is pulled: docker's credential helpers, and the kubelet's plugins.

    Raises:
        UserError: The plugins' configuration cannot be used.
    """
    sources = list[Source]()
    with contextlib.suppress(RuntimeError):  # an agent without a home has no docker's files there
        sources.append(DockerHelpers(os.environ, Path.home()))
    configuration = config.file.image_credential_provider_config
    if configuration:
        sources += load_plugins(Path(configuration), Path(config.file.image_credential_provider_bin_dir))
    return tuple(sources)


class StateHeldError(ConflictError):
    """Another agent holds the state directory: `holder` is its process."""

    def __init__(self, message: str, *, hint: str, holder: str) -> None:
        super().__init__(message, hint=hint)
        self.holder = holder


@contextlib.contextmanager
def held_state(config: Config) -> Iterator[None]:
    """Hold the state directory: one agent serves it.

    Raises:
        ConflictError: Another process holds it.
        RetryableError: The disk is full.
    """
    make_state_directory(config)
    with (config.state / LOCK_NAME).open("a+") as lock:
        os.fchmod(lock.fileno(), 0o600)  # others may pass the directory, and must not hold the lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise StateHeldError(
                f"another agent (process {holder}) serves the state directory {config.state}",
                hint=f"end it, which ends no pod: kill {holder}; or choose another directory with --state",
                holder=holder,
            ) from None
        _write_holder(lock.fileno(), config)
        yield


def _write_holder(lock: int, config: Config) -> None:
    try:
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except OSError as error:
        raise RetryableError(
            f"cannot use the state directory {config.state}: {error.strerror}", hint="see to the disk and its space"
        ) from error


async def serve(
    config: Config,
    *,
    idle_seconds: float | None = None,
    ready_descriptor: int | None = None,
    cluster_settings: ClusterSettings | None = None,
    manifest_directory: Path | None = None,
) -> None:
    """Run the agent of `config.state` until SIGTERM or SIGINT.

    Args:
        cluster_settings: Be a node of a cluster; None serves this machine's own users only.
        manifest_directory: Where manifests of static pods are; None: there are none.
        idle_seconds: End also when no pod has lived and nobody has asked for this long; engines without sandboxes end
            with it. None serves for ever.
        ready_descriptor: A byte is written to it when requests are answered.

    Raises:
        ConflictError: Another agent holds the state directory.
    """
    os.umask(0o022)  # engines of other users pass what is made
    with held_state(config):
        async with contextlib.AsyncExitStack() as stack:
            hub = Hub()
            cluster = None if cluster_settings is None else await _connect(cluster_settings)
            dispatch = await _build(config, hub, cluster, stack, end_idle=idle_seconds is not None)
            idleness = Idleness(idle_seconds)
            server = LocalServer(dispatch, hub, engines=config.state / "engines", on_request=idleness.touch)
            await server.start(config.state)
            stack.push_async_callback(server.close)
            logger.info("agent started", extra={"state": str(config.state), "pods": len(list(dispatch.workers))})
            if ready_descriptor is not None:
                with contextlib.suppress(BrokenPipeError):  # whoever started this agent may be gone again
                    os.write(ready_descriptor, b"\n")
                os.close(ready_descriptor)
            if manifest_directory is not None:
                name = config.node_name if cluster_settings is None else cluster_settings.node.name
                _start_static(manifest_directory, dispatch, name, stack)
            elif cluster is None:
                dispatch.clean()
            gc.freeze()
            await _until_the_end(idleness, dispatch, cluster, hub)
            logger.info("agent ending", extra={"state": str(config.state)})


async def leave(config: Config, *, force: bool = False) -> bool:
    """End engines that have nothing to do, and take the pods' network down; False when there was none.

    Args:
        force: End the pods of the cluster that are here, too.

    Raises:
        ConflictError: An agent serves the state directory, or pods of the cluster are there still.
    """
    with held_state(config):
        pool = engines.Engines(engines.Settings(directory=config.state / "engines"), program=find_engine_program())
        await pool.adopt()
        try:
            await _give_up_pods(Directories(config.state), pool, force=force)
        finally:
            await pool.close(end_idle=True)
        return await asyncio.to_thread(Namespace(config.state, node="").remove)


async def _give_up_pods(directories: Directories, pool: engines.Engines, *, force: bool) -> None:
    """Remove what the cluster and manifest files have on this machine; a terminal's pods stay."""
    records = directories.records.iterdir() if directories.records.is_dir() else ()
    here = [each for each in map(bundles.load, records) if each is not None]
    others = [each for each in here if each.source != "local"]
    if others and not force:
        names = ", ".join(f"{each.pod.metadata.namespace}/{each.pod.metadata.name}" for each in others[:3])
        raise ConflictError(
            f"{len(others)} pods of the cluster are on this machine yet: {names}{', …' if len(others) > 3 else ''}",
            hint="`kubectl drain` the node while its agent runs; or `wasmlet leave --force` ends them here",
        )
    if others:
        stays = {each.uid for each in here} - {each.uid for each in others}
        await orphans.clean(directories, pool, is_known=stays.__contains__)
        await pool.until_ended({each.uid for each in others})


async def _connect(settings: ClusterSettings) -> Cluster:
    from wasmlet import cluster  # noqa: PLC0415  # an agent without a cluster does not pay for the imports

    return await cluster.connect(settings)


async def _build(
    config: Config, hub: Hub, cluster: Cluster | None, stack: contextlib.AsyncExitStack, *, end_idle: bool
) -> Dispatch:
    """Build the rooms; each registers its end where it is made, so they end in reverse order."""
    program, policy = find_engine_program(), collection_policy(config)
    if config.image_policy is not None:
        trust.check_file(config.image_policy)
    library = Library(image_settings(config, allow_local_files=cluster is None), sources=image_sources(config))
    stack.push_async_callback(library.close)
    cache = artifacts.Artifacts(
        artifacts.Settings(directory=config.state / "cache", memory_bytes=config.file.compile_memory_mib * 1024 * 1024),
        program=program,
    )
    pool = engines.Engines(
        engines.Settings(
            directory=config.state / "engines",
            access=Access(read=(config.state / "cache",)),
            memory_bytes=int(_engine_memory(config) * GUESTS_SHARE),
            idle_seconds=config.file.engine_idle_seconds,
        ),
        program=program,
        placement=_placement(config),
    )
    stack.push_async_callback(pool.close, end_idle=end_idle)
    rooms = Rooms(
        settings=PodSettings(
            node_name=config.node_name,
            host_ips=(LOOPBACK_IP,),
            isolation=config.file.isolation,
            allocatable=allocatable(),
        ),
        library=library,
        artifacts=cache,
        engines=pool,
        directories=Directories(config.state, _users(config)),
        listener=hub,
        credentials=logins,
        addresses=network.loopback(config.state),
    )
    if cluster is not None:
        cluster.equip(rooms, config.state, configz.of_images(policy, image_settings(config)))
    dispatch = Dispatch(rooms if cluster is None else _joined(rooms, hub, cluster))
    stack.push_async_callback(dispatch.close)
    pool.on_change = dispatch.wake
    await pool.adopt()
    cache.remove_stale()
    if cluster is not None and cluster.pod_cidr is not None:
        await cluster.pod_cidr.restore()  # containers that start again do so in their pods' network
    dispatch.load()
    if not end_idle:  # A node's disk is the node's to keep; that of a person who runs a pod now and then is not.
        _start_collection(library, policy, dispatch, cluster, stack)
    return dispatch


def _start_collection(
    library: Library, policy: Policy, dispatch: Dispatch, cluster: Cluster | None, stack: contextlib.AsyncExitStack
) -> None:
    tasks = Tasks()
    stack.push_async_callback(tasks.close)
    tell = (lambda *_: None) if cluster is None else cluster.warn
    collection = Collection(library, policy, workers=lambda: dispatch.workers, tell=tell)
    tasks.start(collection.run(), name="image garbage collection")


def _users(config: Config) -> users.Range | None:
    """Whose users pools of engines have; None: they stay the agent's.

    Raises:
        UserError: `uid-range` asks for what cannot be here.
    """
    chosen = users.parse(config.file.uid_range)
    problem = users.problem(chosen, config.state) if chosen is not None else ""
    if problem and config.file.uid_range:
        raise UserError(f"engines cannot have users of their own: {problem}", hint="set uid-range to none")
    if problem and os.geteuid() == 0:
        logger.warning("engines have no users of their own", extra={"cause": problem})
    return None if problem else chosen


def _engine_memory(config: Config) -> int:
    """What one engine may use, in bytes."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return config.file.engine_memory_mib << 20 or memory - KEPT_MEMORY_BYTES


def _placement(config: Config) -> placement.Placement:
    return placement.choose(
        directory=Path(config.file.engine_cgroup) if config.file.engine_cgroup else None,
        memory_bytes=_engine_memory(config),
        environment=os.environ,
        is_root=os.geteuid() == 0,
    )


def _start_static(directory: Path, dispatch: Dispatch, node_name: str, stack: contextlib.AsyncExitStack) -> None:
    """Static pods; they wait for no API server."""
    from wasmlet.pods.static import StaticSource  # noqa: PLC0415  # with it comes YAML, which few agents need

    tasks = Tasks()
    stack.push_async_callback(tasks.close)
    tasks.start(StaticSource(directory, dispatch, node_name=node_name).run(), name="static pods")


def _joined(rooms: Rooms, hub: Hub, cluster: Cluster) -> Rooms:
    """The rooms of a node: objects, tokens and addresses are the cluster's, and it hears what happens."""
    from wasmlet.cluster import ClusterListener  # noqa: PLC0415

    settings = dataclasses.replace(rooms.settings, node_name=cluster.settings.node.name, host_ips=cluster.host_ips)
    return dataclasses.replace(
        rooms,
        settings=settings,
        listener=ClusterListener(hub, cluster),
        objects=cluster.objects,
        tokens=cluster.tokens,
        account=cluster.account,
        service_variables=cluster.service_variables,
        refuse=cluster.shutdown.refuse,
        node=cluster.offer,
        runtime_handler=cluster.runtime_handler,
        addresses=cluster.addresses,
    )


async def _until_the_end(idleness: Idleness, dispatch: Dispatch, cluster: Cluster | None, hub: Hub) -> None:
    """A signal, or idleness, or the node's own failure. A second signal ends what the first one began."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, ended.set)
    idle = loop.create_task(idleness.over(dispatch), name="idleness")
    signalled = loop.create_task(ended.wait(), name="signals")
    tasks: list[asyncio.Task[Any]] = [idle, signalled]
    if cluster is not None:
        tasks.append(loop.create_task(cluster.run(dispatch, hub), name="node"))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if cluster is not None and signalled in done:
            ended.clear()
            with contextlib.suppress(InterruptedWorkError):
                await unless(ended, cluster.shut_down(), name="shutdown")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
