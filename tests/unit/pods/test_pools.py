"""Which pods share an engine, and what becomes of them when there are too many for one."""

from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from tests.support.agent import Agent, running_agent
from tests.support.pods import bundle, container, data_volume
from tests.support.waiting import eventually
from wasmlet.base.errors import UserError
from wasmlet.kube.types import HostPathVolume, PodSecurityContext, ResourceRequirements, Volume, VolumeMount
from wasmlet.pods import pools
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.directories import Directories
from wasmlet.sandbox.engines import Access, User
from wasmlet.sandbox.users import DEFAULT

Isolation = Literal["namespace", "node", "pod"]


async def engines_of(agent: Agent, pods: list[Bundle]) -> list[str]:
    for each in pods:
        agent.dispatch.submit(each)
    return [(await agent.until_running(each)).engine for each in pods]


@pytest.mark.parametrize(("isolation", "groups"), [("namespace", [2, 1, 1]), ("node", [3, 1]), ("pod", [1, 1, 1, 1])])
async def test_isolation(state_directory: Path, engine_program: Path, isolation: Isolation, groups: list[int]) -> None:
    async with running_agent(state_directory, program=engine_program, isolation=isolation) as agent:
        pods = [bundle(container("main", "sleep")) for _ in range(4)]
        pods[2].pod.metadata.namespace = "other"
        pods[3].pod.spec.runtime_class_name = "wasmlet-isolated"
        found = await engines_of(agent, pods)
        assert sorted(Counter(found).values(), reverse=True) == groups
        assert Counter(found)[found[3]] == 1


async def test_a_pool_is_split_before_an_engine_meets_its_limits(
    state_directory: Path, engine_program: Path, tmp_path: Path
) -> None:
    narrow = tmp_path / "wasmlet-engine"
    narrow.write_text(f'#!/bin/sh\n[ "$1" = serve ] && ulimit -n 100\nexec {engine_program} "$@"\n')
    narrow.chmod(0o755)
    async with running_agent(state_directory, program=narrow) as agent:
        # One after the other: the connections of a burst alone would be more than 30 % of so few.
        found = [(await engines_of(agent, [bundle(container("main", "sleep"))]))[0] for _ in range(60)]
        assert len(set(found)) >= 2
        for handle in agent.engines.handles:
            engine = await handle.client.engine()
            assert engine.descriptors.limit == 100
            assert engine.descriptors.used < 90, "70 %, and the few that are the engine's own"
            assert handle.running == found.count(handle.record.id)


async def test_who_is_most_above_its_request_ends_when_an_engine_has_no_memory_left(
    state_directory: Path, engine_program: Path
) -> None:
    memory = 130 << 10  # what the guest has: two pages, and a small table
    engine_memory = 3 * memory
    async with running_agent(state_directory, program=engine_program, engine_memory_bytes=engine_memory) as agent:
        promised = ResourceRequirements(requests={"memory": str(memory)})
        limited = ResourceRequirements(limits={"memory": str(memory)})  # which is its request too
        demands = (promised, ResourceRequirements(), limited, promised)
        pods = [bundle(container("main", "sleep", resources=each)) for each in demands]
        for each in pods:
            await engines_of(agent, [each])
        assert await agent.until_ended(pods[1]) == "Failed"
        (status,) = agent.worker(pods[1]).status().container_statuses
        assert status.state.terminated is not None
        assert (status.state.terminated.reason, status.state.terminated.exit_code) == ("OOMKilled", 137)
        assert f"budget of {engine_memory} bytes" in status.state.terminated.message
        (handle,) = agent.engines.handles
        assert handle.running == 3


async def test_the_kernel_holds_engines_to_the_directories_of_their_pods(agent: Agent, tmp_path: Path) -> None:
    mounts = [VolumeMount(name="host", mount_path="/host")]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(f"of {name}")
    pods = [
        bundle(
            container("read", "files", "cat", "/host/a", volume_mounts=mounts),
            container("write", "files", "write", "/host/b", "new", volume_mounts=mounts),
            container("main", "sleep"),
            volumes=[Volume(name="host", host_path=HostPathVolume(path=str(tmp_path / name)))],
        )
        for name in ("one", "two")
    ]
    shared, *own = await engines_of(agent, [bundle(container("main", "sleep")), *pods])
    assert len({shared, *own}) == 3
    for submitted, name in zip(pods, ("one", "two"), strict=True):
        await eventually((tmp_path / name / "b").exists, "what it writes")
        assert agent.output(submitted, "read") == f"of {name}".encode()
    for handle in agent.engines.handles:
        told = handle.engine.confinement
        assert told is not None
        assert (told.seccomp, told.landlock > 0) == (True, True), told.missing
        command = Path(f"/proc/{handle.record.pid}/cmdline").read_text().split("\0")
        assert (f"--write={tmp_path / 'one'}" in command) == (handle.record.id == own[0])
        assert (f"--write={agent.directory / 'pools/default'}" in command) == (handle.record.id == shared)


def test_a_pod_of_its_own_may_use_what_it_mounts(tmp_path: Path) -> None:
    directory = tmp_path / "host"
    directory.mkdir()
    (tmp_path / "file").touch()
    paths = {"written": directory / ".", "read": tmp_path, "file": tmp_path / "file"}
    volumes = [Volume(name=name, host_path=HostPathVolume(path=str(path))) for name, path in paths.items()]
    volumes.append(data_volume("own"))
    mounts = [
        VolumeMount(name="written", mount_path="/a", read_only=True),
        VolumeMount(name="read", mount_path="/b", read_only=True),
        VolumeMount(name="file", mount_path="/c"),
        VolumeMount(name="own", mount_path="/d"),
    ]
    again = [VolumeMount(name="written", mount_path="/a")]
    submitted = bundle(
        container("main", volume_mounts=mounts), container("other", volume_mounts=again), volumes=volumes
    )
    pool = pools.choose(submitted.pod, isolated=False, isolation="node")
    assert pool == f"default@{submitted.uid}"
    places = Directories(tmp_path).places(submitted.pod, pool)
    assert pools.access(submitted.pod, places, cache=tmp_path / "cache") == Access(
        read=(tmp_path / "cache", tmp_path),
        write=(tmp_path / "pools" / pool, tmp_path / "logs" / pool, directory),
    )


@pytest.mark.parametrize("isolation", ["namespace", "node", "pod"])
@pytest.mark.parametrize("on_host", [False, True])
def test_a_pod_s_engine_follows_from_its_pool(isolation: Isolation, on_host: bool) -> None:
    submitted = bundle(container("main"), namespace="own", host_network=on_host)
    pool = pools.choose(submitted.pod, isolated=False, isolation=isolation)
    expected = {"namespace": "own", "node": "@node", "pod": f"own@{submitted.uid}"}
    assert pool == expected[isolation]
    key = pools.key(submitted.pod, pool, network="/run/netns/x", group=7)
    assert (key.pool, key.network) == (pool, "" if on_host else "/run/netns/x")
    assert key.user == User(7, 7)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, None),
        (PodSecurityContext(run_as_non_root=True), None),
        (PodSecurityContext(run_as_user=1000), User(1000, 0, (7,))),
        (PodSecurityContext(run_as_user=1000, run_as_group=100, fs_group=200), User(1000, 100, (7, 200))),
        (PodSecurityContext(fs_group=200), User(0, 0, (7, 200))),
    ],
)
def test_an_engine_with_other_people_s_directories_is_who_the_pod_says(
    context: PodSecurityContext | None, expected: User | None
) -> None:
    volumes = [Volume(name="v", host_path=HostPathVolume(path="/srv"))]
    assert pools.user(bundle(container("main"), volumes=volumes, security_context=context).pod, 7) == expected
    assert pools.user(bundle(container("main"), security_context=context).pod, 7) == User(7, 7)
    assert pools.user(bundle(container("main"), volumes=volumes, security_context=context).pod, None) is None


@pytest.mark.parametrize(
    "context",
    [
        PodSecurityContext(run_as_user=DEFAULT.first),
        PodSecurityContext(run_as_group=DEFAULT.first + DEFAULT.count - 1),
        PodSecurityContext(fs_group=DEFAULT.first + 1),
        PodSecurityContext(run_as_user=-1),
        PodSecurityContext(run_as_user=1 << 31),
    ],
)
def test_nobody_says_that_he_is_another_pool_s_user(context: PodSecurityContext) -> None:
    volumes = [Volume(name="v", host_path=HostPathVolume(path="/srv"))]
    with pytest.raises(UserError, match="is no user of the pod's"):
        pools.refuse_users(bundle(container("main"), volumes=volumes, security_context=context).pod, DEFAULT)
    pools.refuse_users(bundle(container("main"), security_context=context).pod, DEFAULT)
