"""Contract 6.1: variables, command, arguments, working directory, subPathExpr."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.base.errors import NotFoundError, RetryableError, UserError, WasmletError
from wasmlet.kube.objects import Documents
from wasmlet.kube.types import ConfigMap, Container, Pod, Secret, VolumeMount
from wasmlet.pods.environment import (
    Environment,
    EnvVar,
    Text,
    build_command,
    build_environment,
    expand_sub_path,
    working_directory,
)
from wasmlet.volumes.fields import PodFields
from wasmlet.volumes.volume import HostVolume

FIELDS = PodFields(
    node_name="node-1",
    host_ips=("10.0.0.1", "fd00::1"),
    pod_ips=("10.1.0.5", "fd00::5"),
    allocatable={"cpu": "2", "memory": "1Gi", "ephemeral-storage": "10G"},
)


def documents() -> Documents:
    def secret(name: str, **data: bytes) -> Secret:
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        return msgspec.convert({"metadata": {"name": name, "namespace": "n"}, "data": encoded}, Secret)

    def config_map(name: str, **data: str) -> ConfigMap:
        return msgspec.convert({"metadata": {"name": name, "namespace": "n"}, "data": data}, ConfigMap)

    return Documents(
        config_maps=[config_map("c", A="config-a", B="config-b"), config_map("d", B="later-b")],
        secrets=[secret("s", password=b"hunter2", A="sécret".encode()), secret("binary", raw=b"hunter2\xff")],
    )


def make_pod(container: dict[str, Any], **spec: Any) -> tuple[Pod, Container]:
    pod = msgspec.convert(
        {
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "x"}, "annotations": {"k": "v"}},
            "spec": {"serviceAccountName": "sa", "containers": [{"name": "main", **container}], **spec},
        },
        Pod,
    )
    return pod, pod.spec.containers[0]


async def build(container: dict[str, Any], *, spec: dict[str, Any] | None = None, **options: Any) -> Environment:
    pod, main = make_pod(container, **(spec or {}))
    options.setdefault("objects", documents())
    return await build_environment(pod, main, fields=FIELDS, **options)


async def values(env: list[dict[str, Any]], **options: Any) -> dict[str, str]:
    return {variable.name: variable.value for variable in (await build({"env": env}, **options)).variables}


async def failure(container: dict[str, Any], **options: Any) -> WasmletError:
    with pytest.raises(WasmletError) as caught:
        await build(container, **options)
    assert caught.value.reason == "CreateContainerConfigError"
    assert "hunter2" not in repr(caught.value) + str(caught.value)
    return caught.value


def ref(kind: str, **selector: Any) -> dict[str, Any]:
    return {"valueFrom": {kind: selector}}


# --- order ------------------------------------------------------------------------------------------------------------


async def test_the_order_is_image_hostname_env_from_env_and_services_fill_gaps() -> None:
    built = await build(
        {
            "envFrom": [
                {"configMapRef": {"name": "c"}},
                {"prefix": "P_", "configMapRef": {"name": "c"}},
                {"configMapRef": {"name": "d"}},
            ],
            "env": [{"name": "A", "value": "env"}, {"name": "SVC_SET", "value": "env"}],
        },
        image_env=["A=image", "IMAGE=i=mage", "HOSTNAME=image", "SVC_HOST=image", "FLAG"],
        hostname="host",
        service_variables={"SVC_SET": "service", "SVC_HOST": "1.2.3.4"},
    )
    assert {variable.name: variable.value for variable in built.variables} == {
        "A": "env",
        "B": "later-b",
        "P_A": "config-a",
        "P_B": "config-b",
        "IMAGE": "i=mage",
        "FLAG": "",
        "HOSTNAME": "host",
        "SVC_SET": "env",
        "SVC_HOST": "1.2.3.4",
    }
    assert [variable.name for variable in built.variables] == sorted(variable.name for variable in built.variables)


async def test_nothing_is_inherited_or_invented() -> None:
    assert await values([]) == {}


async def test_expansion_sees_what_was_defined_before() -> None:
    env = [
        {"name": "EARLY", "value": "$(LATE)"},
        {"name": "LATE", "value": "late"},
        {"name": "ALL", "value": "$(LATE) $(A) $(SVC) $$(A) $(HOSTNAME) $(IMAGE) $(NONE)"},
        {"name": "AGAIN", "value": "$(EARLY)"},
        {"name": "EMPTY", "value": ""},
    ]
    built = await build(
        {"env": env, "envFrom": [{"configMapRef": {"name": "c"}}]},
        image_env=["IMAGE=i"],
        hostname="h",
        service_variables={"SVC": "s"},
    )
    found = {variable.name: variable.value for variable in built.variables}
    assert found["EARLY"] == "$(LATE)"
    assert found["ALL"] == "late config-a s $(A) $(HOSTNAME) $(IMAGE) $(NONE)"
    assert found["AGAIN"] == "$(LATE)"
    assert found["EMPTY"] == ""


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "n"),
        ("metadata.uid", "u"),
        ("metadata.labels['app']", "x"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['k']", "v"),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "sa"),
        ("status.hostIP", "10.0.0.1"),
        ("status.hostIPs", "10.0.0.1,fd00::1"),
        ("status.podIP", "10.1.0.5"),
        ("status.podIPs", "10.1.0.5,fd00::5"),
    ],
)
async def test_every_field(path: str, value: str) -> None:
    assert await values([{"name": "X", **ref("fieldRef", fieldPath=path)}]) == {"X": value}


async def test_an_unknown_field_is_an_error() -> None:
    error = await failure({"env": [{"name": "X", **ref("fieldRef", fieldPath="spec.secret")}]})
    assert error.message == "unsupported fieldPath: spec.secret"


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", None, "1"),
        ("limits.cpu", "1m", "250"),
        ("requests.cpu", "1m", "100"),
        ("limits.memory", None, "1073741824"),
        ("limits.memory", "1Mi", "1024"),
        ("requests.memory", None, "0"),
        ("limits.ephemeral-storage", "1G", "10"),
        ("limits.hugepages-2Mi", "1Mi", "4"),
        ("requests.hugepages-2Mi", None, "0"),
        ("limits.cpu", "0", "1"),
    ],
)
async def test_resources_are_divided_rounded_up_and_missing_limits_are_the_nodes(
    resource: str, divisor: str | None, value: str
) -> None:
    container = {
        "resources": {"limits": {"cpu": "250m", "hugepages-2Mi": "4Mi"}, "requests": {"cpu": "100m"}},
        "env": [{"name": "X", **ref("resourceFieldRef", resource=resource, divisor=divisor)}],
    }
    assert [variable.value for variable in (await build(container)).variables] == [value]


async def test_resources_of_another_container_and_of_the_pod() -> None:
    env = [
        {"name": "X", **ref("resourceFieldRef", resource="limits.cpu", containerName="other")},
        {"name": "Y", **ref("resourceFieldRef", resource="limits.memory", divisor="1Mi")},
    ]
    spec = {
        "initContainers": [{"name": "other", "resources": {"limits": {"cpu": 3}}}],
        "resources": {"limits": {"memory": "64Mi"}},
    }
    assert await values(env, spec=spec) == {"X": "3", "Y": "64"}


async def test_keys_of_config_maps_and_secrets() -> None:
    env = [
        {"name": "X", **ref("configMapKeyRef", name="c", key="A")},
        {"name": "Y", **ref("secretKeyRef", name="s", key="password")},
        {"name": "O1", **ref("configMapKeyRef", name="none", key="A", optional=True)},
        {"name": "O2", **ref("secretKeyRef", name="s", key="none", optional=True)},
    ]
    assert await values(env) == {"X": "config-a", "Y": "hunter2"}


@pytest.mark.parametrize(
    ("container", "kind", "message"),
    [
        (
            {"env": [{"name": "X", **ref("configMapKeyRef", name="x", key="k")}]},
            NotFoundError,
            'configmap "x" not found',
        ),
        ({"env": [{"name": "X", **ref("secretKeyRef", name="x", key="k")}]}, NotFoundError, 'secret "x" not found'),
        (
            {"env": [{"name": "X", **ref("configMapKeyRef", name="c", key="k")}]},
            UserError,
            "couldn't find key k in ConfigMap n/c",
        ),
        (
            {"env": [{"name": "X", **ref("secretKeyRef", name="s", key="k")}]},
            UserError,
            "couldn't find key k in Secret n/s",
        ),
        ({"envFrom": [{"configMapRef": {"name": "x"}}]}, NotFoundError, 'configmap "x" not found'),
        ({"envFrom": [{"secretRef": {"name": "x"}}]}, NotFoundError, 'secret "x" not found'),
        (
            {"env": [{"name": "X", "valueFrom": {}}]},
            UserError,
            "variable X has a valueFrom of a kind wasmlet does not know",
        ),
    ],
)
async def test_what_is_missing_is_told_as_the_kubelet_does(
    container: dict[str, Any], kind: type[UserError], message: str
) -> None:
    error = await failure(container)
    assert (type(error), str(error)) == (kind, message)


async def test_optional_sources_may_be_missing() -> None:
    sources = [{"configMapRef": {"name": "x", "optional": True}}, {"secretRef": {"name": "x", "optional": True}}]
    assert (await build({"envFrom": sources})).variables == []


async def test_an_api_server_that_is_away_is_worth_a_retry() -> None:
    class Away(Documents):
        async def config_map(self, namespace: str, name: str) -> ConfigMap:
            raise RetryableError("the API server is away", retry_after_seconds=3)

    error = await failure({"envFrom": [{"configMapRef": {"name": "c", "optional": True}}]}, objects=Away())
    assert isinstance(error, RetryableError)
    assert error.retry_after_seconds == 3


async def test_an_object_is_asked_for_once() -> None:
    class Counting(Documents):
        asked = 0

        async def config_map(self, namespace: str, name: str) -> ConfigMap:
            Counting.asked += 1
            return msgspec.convert({"data": {"k": str(Counting.asked)}}, ConfigMap)

    env = [{"name": name, **ref("configMapKeyRef", name="c", key="k")} for name in "XYZ"]
    assert set((await values(env, objects=Counting())).values()) == {"1"}


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_what_a_secret_contributed_to_is_marked_through_any_expansion() -> None:
    built = await build(
        {
            "envFrom": [{"prefix": "S_", "secretRef": {"name": "s"}}],
            "env": [
                {"name": "DIRECT", **ref("secretKeyRef", name="s", key="password")},
                {"name": "URL", "value": "http://u:$(DIRECT)@host"},
                {"name": "TWICE", "value": "$(URL)"},
                {"name": "ESCAPED", "value": "$$(URL)"},
                {"name": "OPEN", **ref("configMapKeyRef", name="c", key="A")},
            ],
        }
    )
    secret = {variable.name: variable.secret for variable in built.variables}
    assert secret == {
        "S_password": True,
        "S_A": True,
        "DIRECT": True,
        "URL": True,
        "TWICE": True,
        "ESCAPED": False,
        "OPEN": False,
    }
    assert "hunter2" not in repr(built)
    assert "config-a" in repr(built)
    assert built.expand("--password=$(TWICE)") == Text("--password=http://u:hunter2@host", secret=True)
    assert built.expand("$(OPEN)") == Text("config-a")


async def test_a_later_plain_value_is_no_secret() -> None:
    built = await build({"envFrom": [{"secretRef": {"name": "s"}}], "env": [{"name": "password", "value": "plain"}]})
    assert EnvVar("password", "plain") in built.variables


@pytest.mark.parametrize(
    "container",
    [
        {"envFrom": [{"secretRef": {"name": "binary"}}]},
        {"env": [{"name": "raw", **ref("secretKeyRef", name="binary", key="raw")}]},
    ],
)
async def test_bytes_that_are_no_text_name_the_variable_only(container: dict[str, Any]) -> None:
    error = await failure(container)
    assert error.message == "variable raw is not UTF-8, which WASI strings must be"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("", "x", "cannot be the name"), ("A=B", "x", "cannot be the name"), ("A", "x\0y", "variable A holds a NUL")],
)
async def test_what_no_environment_can_hold(name: str, value: str, message: str) -> None:
    assert message in (await failure({"env": [{"name": name, "value": value}]})).message


async def test_any_printable_name_is_fine() -> None:
    name = "".join(map(chr, range(0x20, 0x7F))).replace("=", "")
    assert await values([{"name": name, "value": "x"}]) == {name: "x"}


# --- fileKeyRef -------------------------------------------------------------------------------------------------------


async def test_a_key_of_a_file_in_an_empty_dir(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A='one'\nB='two\nlines'\n")
    spec = {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/x"}}]}
    options: dict[str, Any] = {
        "spec": spec,
        "volumes": {name: HostVolume(tmp_path, read_only=False, foreign=False) for name in "vh"},
    }

    def file(**selector: Any) -> list[dict[str, Any]]:
        return [{"name": "X", **ref("fileKeyRef", **{"volumeName": "v", "path": "env", "key": "B", **selector})}]

    assert await values(file(), **options) == {"X": "two\nlines"}
    assert await values(file(key="C", optional=True), **options) == {}
    assert await values(file(path="none", optional=True), **options) == {}
    for selector, message in (
        ({"key": "C"}, 'environment variable key "C" not found in file "env"'),
        ({"path": "none"}, 'environment variable file "none" does not exist'),
        ({"volumeName": "w"}, 'cannot find the volume "w" referenced by FileKeyRef'),
        ({"volumeName": "h"}, 'the volume "h" of a FileKeyRef must be an emptyDir'),
        ({"path": "../../etc/passwd"}, "must not contain '..'"),
    ):
        assert message in (await failure({"env": file(**selector)}, **options)).message
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert "link" in (await failure({"env": file(path="link")}, **options)).message
    (tmp_path / "big").write_bytes(b"#" * ((1 << 20) + 1))
    assert "larger than" in (await failure({"env": file(path="big")}, **options)).message


# --- command, directory, subPathExpr ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "command", "args"),
    [
        ({}, ["/entry"], ["image", "args"]),
        ({"args": ["own"]}, ["/entry"], ["own"]),
        ({"command": ["/own"]}, ["/own"], []),
        ({"command": ["/own", "$(A)"], "args": ["$(A)", "$$(A)", "$(NONE)"]}, ["/own", "a"], ["a", "$(A)", "$(NONE)"]),
    ],
)
def test_command_and_args_over_entrypoint_and_cmd(
    container: dict[str, Any], command: list[str], args: list[str]
) -> None:
    built = build_command(
        make_pod(container)[1], Environment([], {"A": Text("a")}), entrypoint=["/entry"], cmd=["image", "args"]
    )
    assert [text.value for text in built.command] == command
    assert [text.value for text in built.args] == args


def test_the_images_own_words_are_not_expanded_and_secrets_are_marked() -> None:
    environment = Environment([], {"A": Text("hunter2", secret=True)})
    assert build_command(make_pod({})[1], environment, entrypoint=["$(A)"]).command == (Text("$(A)"),)
    built = build_command(make_pod({"args": ["-p", "$(A)"]})[1], environment)
    assert built.args == (Text("-p"), Text("hunter2", secret=True))
    assert "hunter2" not in repr(built)


@pytest.mark.parametrize(
    ("own", "image", "result"),
    [("", "", "/"), ("", "/image", "/image"), ("/own/", "/image", "/own"), ("rel/../x", "", "/x"), ("//a", "", "/a")],
)
def test_the_working_directory(own: str, image: str, result: str) -> None:
    container = make_pod({"workingDir": own})[1]
    assert working_directory(container, image_working_directory=image) == result


ENVIRONMENT = Environment(
    [], {"POD": Text("p"), "EMPTY": Text(""), "UP": Text(".."), "ABS": Text("/x"), "S": Text("/hunter2", secret=True)}
)


@pytest.mark.parametrize(
    ("mount", "result"),
    [({}, ""), ({"subPath": "a/$(POD)"}, "a/$(POD)"), ({"subPathExpr": "a/$(POD)/$$(POD)"}, "a/p/$(POD)")],
)
def test_sub_paths(mount: dict[str, str], result: str) -> None:
    assert expand_sub_path(msgspec.convert(mount, VolumeMount), ENVIRONMENT) == result


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ({"subPathExpr": "$(NONE)/$(EMPTY)"}, "missing value for EMPTY, NONE"),
        ({"subPathExpr": "$(ABS)"}, "error SubPath `/x` must not be an absolute path"),
        ({"subPathExpr": "a/$(UP)"}, "unable to provision SubPath `a/..`: must not contain '..'"),
        ({"subPath": "/x"}, "error SubPath `/x` must not be an absolute path"),
        ({"subPathExpr": "$(S)"}, "error SubPath `$(S)` must not be an absolute path"),
    ],
)
def test_sub_paths_that_cannot_be(mount: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        expand_sub_path(msgspec.convert(mount, VolumeMount), ENVIRONMENT)
    assert (str(caught.value), caught.value.reason) == (message, "CreateContainerConfigError")


@given(st.text(), st.text())
def test_a_secret_shows_in_no_repr(name: str, value: str) -> None:
    secret = f"hunter2{value}"
    shown = repr(EnvVar(name, secret, secret=True)) + repr(Text(secret, secret=True))
    assert secret not in shown
