"""Starting a container: what it is told, what it is given, and the reasons why it cannot be started."""

from pathlib import Path

import pytest

from tests.support.agent import Agent, status_of
from tests.support.guests import GUESTS
from tests.support.pods import bundle, config_map, container, data_volume
from tests.support.waiting import eventually
from tests.unit.pods.standing import join, of_api
from wasmlet.kube.types import (
    ConfigMapVolume,
    Container,
    DownwardFile,
    DownwardVolume,
    EmptyDirVolume,
    EnvVar,
    EnvVarSource,
    HostPathVolume,
    ObjectMeta,
    ResourceFieldSelector,
    ResourceRequirements,
    Secret,
    Volume,
    VolumeMount,
)
from wasmlet.pods.worker import Worker

# --- what a guest is given --------------------------------------------------------------------------------------------


async def test_a_guest_has_its_name_its_arguments_and_no_inherited_environment(agent: Agent) -> None:
    submitted = bundle(container("main", "env", "a b", "$(HOME)", "c"))
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Succeeded"
    lines = agent.output(submitted).decode().splitlines()
    assert [line for line in lines if line.startswith("argv")] == [
        "argv[0]=env.wasm",
        "argv[1]=a b",
        "argv[2]=$(HOME)",
        "argv[3]=c",
    ]
    assert not any(line.startswith("WASMLET") for line in lines)


async def test_a_guest_reads_its_config_map_and_its_own_files(agent: Agent) -> None:
    volume = Volume(name="config", config_map=ConfigMapVolume(name="settings"))
    mounts = [VolumeMount(name="config", mount_path="/etc/config")]
    submitted = bundle(
        container("config", "files", "cat", "/etc/config/a", volume_mounts=mounts),
        container("hosts", "files", "cat", "/etc/hosts"),
        container("name", "files", "cat", "/etc/hostname"),
        volumes=[volume],
        config_maps=[config_map("settings", a="hello from config")],
        name="mypod",
    )
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Succeeded"
    assert agent.output(submitted, "config") == b"hello from config"
    assert agent.output(submitted, "name") == b"mypod\n"
    address = agent.worker(submitted).facts.pod_ip
    assert f"{address}\tmypod".encode() in agent.output(submitted, "hosts")


async def test_a_read_only_mount_takes_no_writes(agent: Agent) -> None:
    mounts = [VolumeMount(name="data", mount_path="/data", read_only=True)]
    submitted = bundle(
        container("main", "files", "write", "/data/x", "y", volume_mounts=mounts), volumes=[data_volume()]
    )
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    assert b"files: write" in agent.output(submitted, stream="stderr")


async def test_a_pod_with_a_host_directory_has_an_engine_of_its_own(agent: Agent, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "a").write_text("from the host")
    volume = Volume(name="host", host_path=HostPathVolume(path=str(host)))
    mounts = [VolumeMount(name="host", mount_path="/host")]
    reader = container("read", "files", "cat", "/host/a", volume_mounts=mounts)
    submitted = bundle(reader, container("main", "sleep"), volumes=[volume])
    plain = bundle(container("main", "sleep"))
    for each in (submitted, plain):
        agent.dispatch.submit(each)
        await agent.until_running(each)
    await eventually(lambda: agent.output(submitted, "read") == b"from the host", "output")
    assert sorted(each.record.key.dedicated for each in agent.engines.handles if each.running) == ["", submitted.uid]


async def test_pods_of_one_namespace_share_an_engine_and_others_do_not(agent: Agent) -> None:
    submitted = [bundle(container("main", "sleep"), namespace=name) for name in ("one", "one", "two")]
    for each in submitted:
        agent.dispatch.submit(each)
    used = [(await agent.until_running(each)).engine for each in submitted]
    assert used[0] == used[1] != used[2]


async def test_a_missing_limit_is_what_the_node_says_now(agent: Agent) -> None:
    await join(agent, allocatable={"cpu": "1930m", "memory": "3Gi", "ephemeral-storage": "7Gi", "pods": "9"})
    fields = ("limits.cpu", "limits.memory", "limits.ephemeral-storage", "requests.cpu")
    divisors = {"limits.memory": "1Mi", "limits.cpu": "1m"}
    env = [
        EnvVar(
            name=f"V{number}",
            value_from=EnvVarSource(
                resource_field_ref=ResourceFieldSelector(resource=each, divisor=divisors.get(each))
            ),
        )
        for number, each in enumerate(fields)
    ]
    items = [
        DownwardFile(path="cpu", resource_field_ref=ResourceFieldSelector(resource="limits.cpu", container_name="main"))
    ]
    volumes = [Volume(name="v", downward_api=DownwardVolume(items=items))]
    mounts = [VolumeMount(name="v", mount_path="/v")]
    submitted = of_api(
        container("main", "env", env=env),
        container("file", "files", "cat", "/v/cpu", volume_mounts=mounts),
        volumes=volumes,
    )
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Succeeded"
    values = dict(line.split("=", 1) for line in agent.output(submitted).decode().splitlines() if "=" in line)
    assert [values[f"V{number}"] for number in range(4)] == ["1930", "3072", str(7 << 30), "0"]
    assert agent.output(submitted, "file") == b"2"


# --- why a container cannot be started --------------------------------------------------------------------------------


def image_of(content: bytes, directory: Path, name: str = "app.wasm") -> str:
    path = directory / name
    path.write_bytes(content)
    return f"file:{path}"


@pytest.mark.parametrize(
    ("image", "policy", "reason"),
    [
        ("file:/nowhere/app.wasm", "", "ErrImagePull"),
        ("UPPER/Case:tag", "", "InvalidImageName"),
        ("registry.invalid/app:1", "Never", "ErrImageNeverPull"),
        ("127.0.0.1:1/app:1", "IfNotPresent", "ErrImagePull"),
    ],
)
async def test_images_that_cannot_be_had(agent: Agent, image: str, policy: str, reason: str) -> None:
    submitted = bundle(Container(name="main", image=image, image_pull_policy=policy))
    agent.dispatch.submit(submitted)
    failure = await agent.until(submitted, lambda worker: worker.facts.container("main").failure)
    assert failure.stage == "image"
    if reason == "ErrImagePull":
        message = await agent.until_waiting(submitted, "ImagePullBackOff")
        assert message.startswith(f'Back-off pulling image "{image}": ErrImagePull: ')
        assert message.count("Back-off") == 1
        assert agent.told("BackOff")[0] == f'Back-off pulling image "{image}"'
        assert agent.told("Failed")[:2] == [f'Failed to pull image "{image}": {failure.error}', "Error: ErrImagePull"]
        assert "Error: ImagePullBackOff" in agent.told("Failed")
    else:
        message = await agent.until_waiting(submitted, reason)
        told, begins = {
            "ErrImageNeverPull": ("ErrImageNeverPull", f'Container image "{image}" is not present with pull policy of'),
            "InvalidImageName": ("InspectFailed", f'Failed to apply default image tag "{image}": '),
        }[reason]
        assert message.startswith(begins)
        assert (agent.told(told)[0], agent.told("Failed")[0]) == (message, f"Error: {reason}")
    assert agent.worker(submitted).status().phase == "Pending"
    assert status_of(agent.worker(submitted)).restart_count == 0


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(100), "NotWasm"),
        ((GUESTS / "hello.wasm").read_bytes()[:200], "Malformed"),
        (b"\0asm\x01\0\0\0", "NoEntryPoint"),
    ],
)
async def test_programs_that_cannot_be_run_say_why(agent: Agent, content: bytes, cause: str, tmp_path: Path) -> None:
    submitted = bundle(Container(name="main", image=image_of(content, tmp_path)))
    agent.dispatch.submit(submitted)
    message = await agent.until_waiting(submitted, "CreateContainerError")
    failure = agent.worker(submitted).facts.container("main").failure
    assert failure is not None
    assert (failure.cause, failure.fault, failure.message) == (cause, "guest", message)
    assert agent.attempts(submitted) == []


async def test_an_image_that_comes_later_is_started_then(agent: Agent, tmp_path: Path) -> None:
    submitted = bundle(Container(name="main", image=f"file:{tmp_path}/late.wasm"))
    agent.dispatch.submit(submitted)
    await agent.until_waiting(submitted, "ImagePullBackOff")
    (tmp_path / "late.wasm").write_bytes((GUESTS / "hello.wasm").read_bytes())
    assert await agent.until_ended(submitted) == "Succeeded"
    assert agent.attempts(submitted) == [(0, 0)]


async def test_an_image_that_nobody_vouches_for_waits_until_somebody_does(agent: Agent, tmp_path: Path) -> None:
    image = image_of((GUESTS / "hello.wasm").read_bytes(), tmp_path)
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\ndefault: never\n")
    submitted = bundle(Container(name="main", image=image))
    submitted.image_policy = str(policy)
    agent.dispatch.submit(submitted)
    message = await agent.until_waiting(submitted, "SignatureValidationFailed")
    assert message == (
        f"image pull failed for {image} because the signature validation failed: rule default of the image policy "
        f"{policy} lets no such image run; change that rule in {policy}, or use another image"
    )
    waits: list[float] = []

    def again(worker: Worker) -> bool:
        failure = worker.facts.container("main").failure
        assert failure is not None
        assert (failure.stage, failure.shown) == ("image", "SignatureValidationFailed")
        waits.append(failure.retry_at - failure.at)
        return failure.count > 2

    await agent.until(submitted, again)
    assert waits[0] < waits[-1]  # as pulls back off
    told = agent.told("Failed")
    assert told[:2] == [f'Failed to pull image "{image}": {message}', "Error: SignatureValidationFailed"]
    assert agent.worker(submitted).status().phase == "Pending"
    policy.write_text("version: 1\ndefault: always\n")
    assert await agent.until_ended(submitted) == "Succeeded"
    assert agent.attempts(submitted) == [(0, 0)]


async def test_a_failed_start_keeps_the_restart_count(agent: Agent, tmp_path: Path) -> None:
    module = tmp_path / "app.wasm"
    module.write_bytes((GUESTS / "exit.wasm").read_bytes())
    submitted = bundle(Container(name="main", image=f"file:{module}", args=["4"]), restart_policy="Always")
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: agent.attempts(submitted)[-1:] == [(1, 4)])
    module.unlink()
    await agent.until_waiting(submitted, "ImagePullBackOff")
    status = status_of(agent.worker(submitted))
    assert status.last_state.terminated is not None
    assert agent.worker(submitted).status().phase == "Running"
    count = status.restart_count
    module.write_bytes((GUESTS / "sleep.wasm").read_bytes())
    after = await agent.until(
        submitted, lambda worker: worker.facts.container("main").failure is None and status_of(worker).state.running
    )
    assert after
    assert status_of(agent.worker(submitted)).restart_count == count + 1


async def test_a_missing_volume_source_is_waited_for(agent: Agent) -> None:
    volume = Volume(name="config", config_map=ConfigMapVolume(name="settings"))
    submitted = bundle(container("main", "hello"), volumes=[volume])
    agent.dispatch.submit(submitted)
    message = await agent.until_waiting(submitted, "ContainerCreating")
    await eventually(lambda: agent.told("FailedMount"), "FailedMount")
    assert 'configmap "settings" not found' in agent.told("FailedMount")[0]
    del message
    agent.worker(submitted).bundle.config_maps.append(config_map("settings", a="1"))
    assert await agent.until_ended(submitted) == "Succeeded"


async def test_a_bad_memory_limit_is_refused(agent: Agent) -> None:
    submitted = bundle(container("main", "hello", resources=ResourceRequirements(limits={"memory": "lots"})))
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    assert "lots" in agent.worker(submitted).status().message
    assert agent.attempts(submitted) == []


async def test_a_memory_limit_is_kept(agent: Agent) -> None:
    submitted = bundle(container("main", "hello", resources=ResourceRequirements(limits={"memory": "1Ki"})))
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: worker.is_gone or worker.facts.container("main").failure)
    assert agent.output(submitted) == b""


async def test_secrets_are_in_no_news_and_no_log(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    from wasmlet.kube.types import EnvVar, EnvVarSource, KeySelector

    secret = Secret(metadata=ObjectMeta(name="s", namespace="default"), string_data={"k": "hunter2-hunter2"})
    variable = EnvVar(name="PASSWORD", value_from=EnvVarSource(secret_key_ref=KeySelector(name="s", key="k")))
    submitted = bundle(container("main", "env", env=[variable]), secrets=[secret])
    with caplog.at_level("DEBUG"):
        agent.dispatch.submit(submitted)
        assert await agent.until_ended(submitted) == "Succeeded"
    assert b"PASSWORD=hunter2-hunter2\n" in agent.output(submitted)
    assert "hunter2" not in caplog.text
    assert "hunter2" not in str(agent.hub.told)
    for log in agent.directory.rglob("engine.log"):
        assert "hunter2" not in log.read_text()


async def test_four_engines_that_are_full_are_a_failure_that_is_tried_again(agent: Agent) -> None:
    from wasmlet.sandbox.engines import Engines
    from wasmlet.sandbox.refusals import EngineBusyError

    real = Engines.put
    refusals = 4

    async def put(self: Engines, identity: str, spec: object, *, engine: str) -> object:
        nonlocal refusals
        if refusals:
            refusals -= 1
            self._handles[engine].full = True
            raise EngineBusyError("full", reason="Busy")
        return await real(self, identity, spec, engine=engine)  # type: ignore[arg-type]

    agent.engines.put = put.__get__(agent.engines)  # type: ignore[method-assign]
    submitted = bundle(container("main", "sleep"))
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: worker.facts.container("main").failure)
    attempt = await agent.until_running(submitted)
    assert attempt.number == 0


async def test_a_changed_artifact_is_compiled_again(agent: Agent) -> None:
    first = bundle(container("main", "hello"))
    agent.dispatch.submit(first)
    assert await agent.until_ended(first) == "Succeeded"
    (artifact,) = (agent.directory / "cache").rglob("*.cwasm")
    content = bytearray(artifact.read_bytes())
    content[-1] ^= 1
    artifact.unlink()
    artifact.write_bytes(content)
    second = bundle(container("main", "hello"), namespace="other")  # an engine that has not mapped it yet
    agent.dispatch.submit(second)
    assert await agent.until_ended(second) == "Succeeded"
    assert [each.stage for each in agent.hub.progressed].count("compile") == 2


async def test_files_of_an_empty_directory_are_shared_and_then_gone(agent: Agent) -> None:
    mounts = [VolumeMount(name="data", mount_path="/data")]
    submitted = bundle(
        container("read", "files", "cat", "/data/x", volume_mounts=mounts),
        init_containers=[container("write", "files", "write", "/data/x", "shared", volume_mounts=mounts)],
        volumes=[Volume(name="data", empty_dir=EmptyDirVolume())],
    )
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Succeeded"
    assert agent.output(submitted, "read") == b"shared"
    assert not (agent.worker(submitted).places.pod / "volumes").exists()
