"""What the user of a pool's engines keeps from others, tried by programs of that user and by its engines."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import Agent, running_agent
from tests.support.pods import DATA, bundle, container, data_volume
from tests.support.waiting import eventually
from tests.support.walls import CLOSED, LISTS, READS, WRITES, tried
from wasmlet.base.errors import WasmletError
from wasmlet.kube.types import (
    HostPathVolume,
    ObjectMeta,
    PodSecurityContext,
    Secret,
    SecretVolume,
    Volume,
    VolumeMount,
)
from wasmlet.pods.bundle import Bundle
from wasmlet.sandbox import protocol
from wasmlet.sandbox.engines import Access, Handle, PoolKey, User
from wasmlet.sandbox.users import Range

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's agent has users to give")

SECRET = "volumes/kubernetes.io~secret/secret"


def secretive(namespace: str, **fields: Any) -> Bundle:
    """A pod that mounts a secret, a file of it alone, and a directory to write."""
    secret = Secret(metadata=ObjectMeta(name="s", namespace=namespace), string_data={"key": f"of {namespace}"})
    mounts = [
        VolumeMount(name="secret", mount_path="/secret"),
        VolumeMount(name="secret", mount_path="/etc/key", sub_path="key"),
        VolumeMount(name="data", mount_path=DATA),
    ]
    volumes = [
        Volume(name="secret", secret=SecretVolume(secret_name="s", default_mode=0o400)),
        data_volume(),
        *fields.pop("volumes", []),
    ]
    main = container("main", "sleep", volume_mounts=[*mounts, *fields.pop("mounts", [])])
    return bundle(main, namespace=namespace, secrets=[secret], volumes=volumes, **fields)


async def started(agent: Agent, submitted: Bundle) -> Handle:
    """The engine that it runs in."""
    agent.dispatch.submit(submitted)
    engine = (await agent.until_running(submitted)).engine
    return next(each for each in agent.engines.handles if each.record.id == engine)


async def test_a_pool_s_user_reads_what_is_its_own_and_nothing_else(agent: Agent) -> None:
    pods = {name: secretive(name) for name in ("a", "b")}
    users = {name: (await started(agent, each)).record.key.user for name, each in pods.items()}
    for name, user in users.items():
        assert user is not None
        for other, submitted in pods.items():
            places = agent.worker(submitted).places
            expected = f"of {other}" if name == other else CLOSED
            assert tried(user, READS, places.pod / SECRET / "key") == expected
            assert tried(user, READS, places.attempt("main", 0) / "root/etc/key") == expected
            log = tried(user, READS, places.log_file("main", 0))
            assert log.endswith("ready\n") if name == other else log == CLOSED
            for record in ("pod.json", "facts.json"):
                assert tried(user, READS, places.record / record) == CLOSED
            assert tried(user, WRITES, places.pod / "made") == CLOSED
            assert tried(user, WRITES, places.attempt("main", 0) / "made") == CLOSED
        for closed in ("pods", "pools", "logs", "cache", "engines"):
            assert tried(user, LISTS, agent.directory / closed) == CLOSED, closed
        for artifact in (agent.directory / "cache").glob("*/*.cwasm"):
            assert tried(user, WRITES, artifact) == CLOSED
            assert tried(user, READS, artifact).startswith("\x7fELF")
    assert users["a"] != users["b"]


async def test_an_engine_of_one_pool_opens_nothing_of_another(agent: Agent) -> None:
    """By its user alone too, as on a kernel without Landlock."""
    pods = {name: secretive(name) for name in ("a", "b")}
    handles = {name: await started(agent, each) for name, each in pods.items()}
    handle = handles["a"]
    assert handle.engine.confinement is not None
    assert handle.record.key.user is not None
    assert handle.engine.confinement.user == handle.record.key.user.user
    bare = await agent.engines.acquire(PoolKey("bare", user=handle.record.key.user), Access())
    assert bare.engine.confinement is not None
    assert bare.engine.confinement.landlock == 0
    for engine in (handle, bare):
        secret = agent.worker(pods["b"]).places.pod / SECRET
        with pytest.raises(WasmletError, match=r"ermission denied|may not use it"):
            await run(agent, engine, secret, name=engine.record.id)
        await run(agent, engine, agent.worker(pods["a"]).places.pod / SECRET, name=f"{engine.record.id}-own")


async def run(agent: Agent, handle: Handle, mounted: Path, *, name: str) -> None:
    """Start a guest with that directory in the engine, whoever it belongs to."""
    own = next(each for each in agent.dispatch.workers if each.bundle.pod.metadata.namespace == "a")
    (path,) = (agent.directory / "cache").glob("*/*.cwasm")
    compiled = protocol.Artifact(path=str(path), sha256=sha256_of(path))
    logs = own.places.logs / "main"
    spec = protocol.SandboxSpec(
        pod_uid=name, pod_namespace="a", pod_name="p", container="c", attempt=0, artifact=compiled, args=["x"],
        log=protocol.Log(path=str(logs / f"{name}.log")), exit_file=str(logs / f"{name}.exit.json"),
        mounts=[protocol.Mount(host_path=str(mounted), guest_path="/", read_only=True)],
    )  # fmt: skip
    await agent.engines.put(name, spec, engine=handle.record.id)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_an_engine_that_works_in_other_people_s_directories_is_who_the_pod_says(
    agent: Agent, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    context = PodSecurityContext(run_as_user=1000, run_as_group=100)
    mounts = [VolumeMount(name="host", mount_path="/host"), VolumeMount(name="data", mount_path=DATA)]
    own = agent.directory.parent / "host"
    own.mkdir()
    os.chown(own, 1000, 100)
    submitted = bundle(
        container("main", "files", "write", "/host/made", "x", volume_mounts=mounts),
        container("other", "files", "write", f"{DATA}/made", "x", volume_mounts=mounts),
        container("stays", "sleep"),
        volumes=[Volume(name="host", host_path=HostPathVolume(path=str(own))), data_volume()],
        security_context=context,
    )
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted, "stays")
    await eventually((own / "made").exists, "made")
    found = (own / "made").stat()
    assert (found.st_uid, found.st_gid) == (1000, 100)
    made = agent.worker(submitted).places.pod / "volumes/kubernetes.io~empty-dir/data/made"
    await eventually(made.exists, "made")
    neighbour = await started(agent, secretive("b"))
    for each in neighbour.record.key, agent.engines.handles[0].record.key:
        assert each.user is not None
    assert neighbour.record.key.user is not None
    assert tried(neighbour.record.key.user, READS, made) == CLOSED
    someone = User(1000, 100)
    assert tried(someone, READS, made) == CLOSED, "another pod of the same user has another pool's group"


async def test_root_is_who_works_in_other_people_s_directories_unless_the_pod_says_more(
    agent: Agent, tmp_path: Path
) -> None:
    host = Volume(name="host", host_path=HostPathVolume(path=str(tmp_path)))
    handle = await started(agent, secretive("a", volumes=[host], mounts=[VolumeMount(name="host", mount_path="/h")]))
    assert handle.record.key.user is None
    refused = secretive("a", volumes=[host], security_context=PodSecurityContext(fs_group=1_880_000_001))
    agent.dispatch.submit(refused)
    await eventually(lambda: agent.told("FailedMount"), agent.hub.told)
    assert "securityContext.fsGroup 1880000001 is no user of the pod's" in agent.told("FailedMount")[0]


async def test_a_namespace_keeps_its_user_and_no_two_share_one(agent: Agent) -> None:
    async def user(namespace: str) -> User:
        found = (await started(agent, bundle(container("main", "sleep"), namespace=namespace))).record.key.user
        assert found is not None
        return found

    before = [await user(each) for each in ("a", "b", "a")]
    assert before[0] == before[2] != before[1]
    await agent.kill()
    agent.users = Range(70_000, 10)
    await agent.start()
    assert [await user(each) for each in ("b", "a")] == [before[1], before[0]], "whatever the settings became"
    assert (await user("c")).user == 70_000


async def test_without_a_user_for_it_a_pool_s_pods_wait(state_directory: Path, engine_program: Path) -> None:
    async with running_agent(state_directory, program=engine_program) as agent:
        await agent.kill()
        agent.users = Range(70_000, 1)
        await agent.start()
        first, second = (bundle(container("main", "sleep"), namespace=each) for each in ("a", "b"))
        await started(agent, first)
        agent.dispatch.submit(second)
        await eventually(lambda: agent.told("FailedMount"), agent.hub.told)
        assert "all 1 users of 70000:1 are given to pools" in agent.told("FailedMount")[0]
        agent.dispatch.end(first.uid)
        await eventually(lambda: not agent.dispatch.has(first.uid), agent.dispatch)
        (handle,) = agent.engines.handles
        await handle.client.shut_down()
        await agent.until_running(second)
        assert stat.S_IMODE(state_directory.stat().st_mode) & 0o022 == 0
