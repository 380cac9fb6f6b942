"""Containers of images of files: which program runs, as what, in which root directory."""

import base64
import json
from typing import Any

import pytest

from tests.support.agent import Agent
from tests.support.file_images import archive, build, files, link, member, put
from tests.support.guests import guest, http_guest
from tests.support.pods import bundle, data_volume
from tests.support.waiting import eventually
from wasmlet.base.errors import GuestError, NotFoundError
from wasmlet.images.application import place
from wasmlet.images.layouts import KRUSTLET_LAYER
from wasmlet.images.manifest import digest_of
from wasmlet.images.spin import APPLICATION
from wasmlet.kube.types import Container, ContainerSecurityContext, EnvVar, VolumeMount
from wasmlet.pods import exec as executing
from wasmlet.pods.bundle import Bundle

FILES, ENV = (guest(name).read_bytes() for name in ("files", "env"))

# (component (import "fermyon:spin/key-value@2.0.0" (instance (export "open" (func))))
#            (import "fermyon:spin/variables@2.0.0" (instance (export "get" (func))))
#            (instance $e) (export "wasi:http/incoming-handler@0.2.0" (instance $e)))
NEEDS_SPIN = (
    "AGFzbQ0AAQAHEQFCAgFAAAEABAAEb3BlbgEACiEBABxmZXJteW9uOnNwaW4va2V5LXZhbHVlQDIuMC4wBQAHEAFCAgFAAAEABAAD"
    "Z2V0AQAKIQEAHGZlcm15b246c3Bpbi92YXJpYWJsZXNAMi4wLjAFAQUDAQEACyYBACB3YXNpOmh0dHAvaW5jb21pbmctaGFuZGxl"
    "ckAwLjIuMAUCAAAWDmNvbXBvbmVudC1uYW1lAQUFAQIBZQ=="
)


# (component
#   (core module $m (func (export "ok")) (func (export "seven") (result i32) i32.const 7)
#     (func (export "takes") (param i32)))
#   (core instance $i (instantiate $m))
#   (func (export "migrate") (result u8) (canon lift (core func $i "seven")))
#   (func (export "check") (canon lift (core func $i "ok")))
#   (func (export "takes") (param "x" u32) (canon lift (core func $i "takes"))))
FUNCTIONS = (
    "AGFzbQ0AAQABTQBhc20BAAAAAQwDYAAAYAABf2ABfwADBAMAAQIHFgMCb2sAAAVzZXZlbgABBXRha2VzAAIKDAMCAAsEAEEHCwIA"
    "CwAJBG5hbWUAAgFtAgQBAAAABwUBQAAAfQYLAQAAAQAFc2V2ZW4IBgEAAAAAAAcFAUAAAQAGCAEAAAEAAm9rCAYBAAABAAEHCAFA"
    "AQF4eQEABgsBAAABAAV0YWtlcwgGAQAAAgACCyEDAAdtaWdyYXRlAQAAAAVjaGVjawEBAAAFdGFrZXMBAgAAHw5jb21wb25lbnQt"
    "bmFtZQEGABEBAAFtAQYAEgEAAWk="
)


def image(agent: Agent, *layers: bytes, name: str = "app", **fields: Any) -> str:
    return put(agent.directory / "images", f"localhost/test/{name}:1", build(*layers, **fields))


def pod(reference: str, **fields: Any) -> Bundle:
    return bundle(Container(name="main", image=reference, image_pull_policy="Never", **fields))


async def output(agent: Agent, submitted: Bundle, phase: str = "Succeeded") -> str:
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == phase
    return agent.output(submitted).decode()


async def test_the_image_says_how_it_starts_and_the_pod_may_say_more(agent: Agent) -> None:
    reference = image(
        agent,
        files({"app.wasm": ENV}),
        Entrypoint=["/app.wasm", "entry"],
        Cmd=["cmd"],
        Env=["FROM_IMAGE=1", "BOTH=image"],
    )

    async def arguments(**fields: Any) -> list[str]:
        lines = (await output(agent, pod(reference, **fields))).splitlines()
        return [line.partition("=")[2] for line in lines if line.startswith("argv")]

    assert await arguments() == ["/app.wasm", "entry", "cmd"]
    assert await arguments(args=["mine"]) == ["/app.wasm", "entry", "mine"]
    assert await arguments(command=["/app.wasm", "own"]) == ["/app.wasm", "own"]
    assert await arguments(command=["/app.wasm"], args=["a b", "$(BOTH)"]) == ["/app.wasm", "a b", "$(BOTH)"]
    variables = await output(agent, pod(reference, env=[EnvVar(name="BOTH", value="pod")]))
    assert "FROM_IMAGE=1\n" in variables
    assert "BOTH=pod\n" in variables


@pytest.mark.parametrize(
    ("execution", "fields"),
    [
        ({"Cmd": ["/app.wasm"]}, {}),
        ({"Cmd": ["app.wasm"]}, {}),
        ({"Entrypoint": ["./app.wasm"]}, {}),
        ({"Entrypoint": ["tool"]}, {}),
        ({"Entrypoint": ["tool"], "Env": ["PATH=/nowhere:/opt"]}, {}),
        ({"Entrypoint": ["../app.wasm"], "WorkingDir": "/usr"}, {}),
        ({"Entrypoint": ["app.wasm"]}, {"working_dir": "/"}),
        ({"Entrypoint": ["/nothing.wasm"]}, {"command": ["/sbin/tool"]}),
        ({}, {"command": ["tool"], "env": [EnvVar(name="PATH", value="/opt")]}),
        ({}, {"args": ["/app.wasm"]}),
    ],
)
async def test_the_first_word_names_the_program(agent: Agent, execution: Any, fields: Any) -> None:
    layer = archive(
        [member("app.wasm", ENV), link("usr/bin/tool", "/app.wasm"), link("sbin", "usr/bin"), member("opt/tool", ENV)]
    )
    assert "argv[0]=" in await output(agent, pod(image(agent, layer, **execution), **fields))


async def test_a_container_has_the_image_s_files_and_writes_to_its_own_copy(agent: Agent) -> None:
    layer = archive([member("app.wasm", FILES), member("data/motd", b"of the image"), link("link", "/data/motd")])
    reference = image(agent, layer, Entrypoint=["/app.wasm"], WorkingDir="/data")
    assert await output(agent, pod(reference, args=["cat", "/data/motd"])) == "of the image"
    assert await output(agent, pod(reference, args=["cat", "/link"])) == "of the image"
    assert await output(agent, pod(reference, args=["write", "/data/motd", "changed"])) == ""
    assert await output(agent, pod(reference, args=["append", "/new", "x"])) == ""
    assert await output(agent, pod(reference, args=["ls", "/"])) == "app.wasm\ndata\ndev\netc\nlink\n"
    assert await output(agent, pod(reference, args=["cat", "/data/motd"])) == "of the image"


async def test_a_read_only_root_has_the_same_files_and_takes_no_writes(agent: Agent) -> None:
    context = ContainerSecurityContext(read_only_root_filesystem=True)
    reference = image(agent, files({"app.wasm": FILES, "motd": b"of the image"}), Entrypoint=["/app.wasm"])
    assert await output(agent, pod(reference, args=["cat", "/motd"], security_context=context)) == "of the image"
    await output(agent, pod(reference, args=["write", "/motd", "x"], security_context=context), "Failed")
    await output(agent, pod(reference, args=["append", "/motd", "x"], security_context=context), "Failed")
    assert await output(agent, pod(reference, args=["cat", "/motd"])) == "of the image"
    hosts = await output(agent, pod(reference, args=["cat", "/etc/hosts"], security_context=context))
    assert "Kubernetes-managed" in hosts


async def test_volumes_are_mounted_over_the_image_s_files(agent: Agent) -> None:
    reference = image(agent, files({"app.wasm": FILES, "data/motd": b"of the image"}), Entrypoint=["/app.wasm"])
    submitted = pod(reference, args=["ls", "/data"], volume_mounts=[VolumeMount(name="data", mount_path="/data")])
    submitted.pod.spec.volumes.append(data_volume())
    assert await output(agent, submitted) == ""


async def test_a_restart_gets_the_image_s_files_again(agent: Agent) -> None:
    reference = image(agent, files({"app.wasm": FILES, "motd": b"1"}), Entrypoint=["/app.wasm"])
    submitted = bundle(
        Container(name="main", image=reference, image_pull_policy="Never", args=["append", "/motd", "2"]),
        restart_policy="Always",
    )
    agent.dispatch.submit(submitted)
    attempts = agent.directory / "pools" / "default" / submitted.uid / "containers" / "main"
    await agent.until(submitted, lambda _: (attempts / "1" / "root" / "motd").exists())
    assert (attempts / "0" / "root" / "motd").read_text() == "12"
    await eventually(lambda: (attempts / "1" / "root" / "motd").read_text() == "12", "the second one's own file")


@pytest.mark.parametrize(
    ("execution", "fields", "cause", "text"),
    [
        ({"Entrypoint": ["/gone.wasm"]}, {}, "NotFoundError", "there is no program /gone.wasm in the image; it holds"),
        ({}, {}, "UserError", "no command specified"),
        ({}, {"command": ["/bin/sh"]}, "NotWasm", "/bin/sh cannot be run: it is not a WebAssembly binary but an ELF"),
        ({}, {"command": ["/bin"]}, "NotFoundError", "there is no program /bin"),
        ({}, {"command": ["sh", "-c", "true"]}, "NotWasm", "/bin/sh cannot be run"),
        ({}, {"command": ["/empty.wasm"]}, "NotWasm", "but empty"),
        ({}, {"command": ["/reactor.wasm"]}, "NoEntryPoint", "_start"),
    ],
)
async def test_programs_that_are_none(agent: Agent, execution: Any, fields: Any, cause: str, text: str) -> None:
    contents = {"app.wasm": ENV, "bin/sh": b"\x7fELF....", "empty.wasm": b"", "reactor.wasm": b"\0asm\x01\0\0\0"}
    submitted = pod(image(agent, files(contents), **execution), **fields)
    agent.dispatch.submit(submitted)
    message = await agent.until_waiting(submitted, "CreateContainerError")
    failure = agent.worker(submitted).facts.container("main").failure
    assert failure is not None
    assert failure.cause == cause
    assert text in message


async def test_a_server_listens_where_the_image_says_or_the_pod(agent: Agent) -> None:
    reference = image(
        agent, files({"app.wasm": http_guest().read_bytes()}), Cmd=["/app.wasm"], ExposedPorts={"3000": {}}
    )
    submitted = pod(reference)
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: agent.attempts(submitted))
    attempt = agent.worker(submitted).facts.container("main").last
    assert attempt is not None
    assert [":3000" in each for each in attempt.serves] == [True]


async def test_exec_finds_programs_of_the_image(agent: Agent) -> None:
    layer = archive(
        [
            member("app.wasm", guest("sleep").read_bytes()),
            member("work/tool.wasm", ENV),
            member("bin/env", ENV),
            link("bin/alias", "/bin/env"),
            member("bin/elf", b"\x7fELF...."),
        ]
    )
    submitted = pod(image(agent, layer, Entrypoint=["/app.wasm"], Env=["PATH=/bin"], WorkingDir="/work"))
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    worker = agent.worker(submitted)
    for command in ("/work/tool.wasm", "tool.wasm", "./tool.wasm", "env", "alias", "../bin/env"):
        finished = await executing.execute(worker._rooms, worker, "main", [command, "x"])
        assert f"argv[0]={command}\nargv[1]=x" in finished.output
    with pytest.raises(NotFoundError, match="sh is not in container"):
        await executing.execute(worker._rooms, worker, "main", ["sh", "-c", "true"])
    with pytest.raises(GuestError, match="ELF"):
        await executing.execute(worker._rooms, worker, "main", ["elf"])


async def test_exec_calls_the_function_that_is_named(agent: Agent) -> None:
    other = ENV.replace(b"\6_start", b"\6_other")
    contents = {"app.wasm": guest("sleep").read_bytes(), "bin/tool": other, "bin/odd#name": ENV}
    contents["bin/functions"] = base64.b64decode(FUNCTIONS)
    submitted = pod(image(agent, files(contents), Entrypoint=["/app.wasm#_start"], Env=["PATH=/bin"]))
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    worker = agent.worker(submitted)

    async def executed(command: str) -> executing.Finished:
        return await executing.execute(worker._rooms, worker, "main", [command])

    for command in ("/bin/tool#_other", "tool#_other", "/bin/odd#name", "odd#name"):
        assert f"argv[0]={command}" in (await executed(command)).output
    assert [(await executed(f"functions#{name}")).exit_code for name in ("migrate", "check")] == [7, 0]
    with pytest.raises(GuestError, match="exports no function none") as raised:
        await executed("/bin/tool#none")
    assert raised.value.reason == "NoEntryPoint"
    with pytest.raises(NotFoundError, match=r"/bin/none#_start is not in container") as absent:
        await executed("/bin/none#_start")
    assert absent.value.reason == executing.COMMAND_NOT_FOUND


async def test_a_function_of_a_module_may_be_named(agent: Agent) -> None:
    module = ENV.replace(b"\6_start", b"\6_other")
    reference = image(agent, files({"app.wasm": module, "odd#name": ENV}), Entrypoint=["/app.wasm#_other", "x"])
    assert "argv[0]=/app.wasm#_other" in await output(agent, pod(reference))
    assert "argv[2]=y" in await output(agent, pod(reference, args=["y"]))
    assert "argv[0]=/odd#name" in await output(agent, pod(reference, command=["/odd#name"]))
    submitted = pod(reference, command=["/app.wasm#nothing"])
    agent.dispatch.submit(submitted)
    message = await agent.until_waiting(submitted, "CreateContainerError")
    assert "the module exports no function nothing; it exports memory, _other" in message


async def test_a_function_of_an_image_of_one_module(agent: Agent) -> None:
    module = ENV.replace(b"\6_start", b"\6_other")
    reference = image(agent, extra_layers=[("application/wasm", module)], Entrypoint=["app.wasm#_other"])
    assert "argv[0]=app.wasm#_other" in await output(agent, pod(reference))


async def test_a_function_of_a_component_may_be_named(agent: Agent) -> None:
    layer = files({"app.wasm": base64.b64decode(FUNCTIONS)})
    reference = image(agent, layer, Entrypoint=["/app.wasm#migrate"])
    submitted = pod(reference)
    await output(agent, submitted, "Failed")
    assert agent.attempts(submitted)[-1][1] == 7
    await output(agent, pod(reference, command=["/app.wasm#check"]))
    for function, text in (
        ("takes", "the component's takes is no function that can be called as a program"),
        ("none", "the component exports no function none; it exports migrate, check, takes"),
    ):
        submitted = pod(reference, command=[f"/app.wasm#{function}"])
        agent.dispatch.submit(submitted)
        assert text in await agent.until_waiting(submitted, "CreateContainerError")


async def test_a_spin_application_serves_and_sees_its_files(agent: Agent) -> None:
    component = http_guest().read_bytes()
    locked = {
        "spin_lock_version": 1,
        "triggers": [{"trigger_type": "http", "trigger_config": {"component": "hello", "route": "/..."}}],
        "components": [
            {
                "id": "hello",
                "source": {"content": {"digest": digest_of(component)}},
                "files": [{"content": {"inline": "dGlueQ=="}, "path": "site/tiny"}],
            }
        ],
    }
    layers = [(KRUSTLET_LAYER, component), (APPLICATION, json.dumps(locked).encode())]
    submitted = pod(image(agent, extra_layers=layers))
    agent.dispatch.submit(submitted)
    attempt = agent.directory / "pools" / "default" / submitted.uid / "containers" / "main" / "0"
    await agent.until(submitted, lambda _: agent.attempts(submitted))
    assert (attempt / "components" / place(0, "site/tiny")).read_text() == "tiny"


async def test_what_a_spin_component_needs_of_spin_alone_is_named(agent: Agent) -> None:
    component = base64.b64decode(NEEDS_SPIN)
    locked = {
        "triggers": [{"trigger_type": "http", "trigger_config": {"component": "hello"}}],
        "components": [{"id": "hello", "source": {"content": {"digest": digest_of(component)}}}],
    }
    layers = [(KRUSTLET_LAYER, component), (APPLICATION, json.dumps(locked).encode())]
    submitted = pod(image(agent, extra_layers=layers))
    agent.dispatch.submit(submitted)
    message = await agent.until_waiting(submitted, "CreateContainerError")
    assert "component hello: the component imports fermyon:spin/key-value@2.0.0, fermyon:spin/var" in message


async def test_a_spin_application_that_does_not_serve_says_what_it_is(agent: Agent) -> None:
    component = b"\0asm\x0d\0\x01\0"
    locked = {
        "triggers": [{"trigger_type": "redis", "trigger_config": {"component": "hello"}}],
        "components": [{"id": "hello", "source": {"content": {"digest": digest_of(component)}}}],
    }
    layers = [(KRUSTLET_LAYER, component), (APPLICATION, json.dumps(locked).encode())]
    submitted = pod(image(agent, extra_layers=layers))
    agent.dispatch.submit(submitted)
    message = await agent.until_waiting(submitted, "ImagePullBackOff")
    assert "it is a Spin application with triggers of type redis; wasmlet serves those of type http" in message
