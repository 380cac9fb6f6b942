"""Every kind of volume through the facade: contract 6.4."""

from __future__ import annotations

import base64
import os
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wasmlet.base.errors import NotFoundError, RetryableError, UserError
from wasmlet.kube.objects import Documents
from wasmlet.kube.types import ConfigMap, Pod, Secret, ServiceAccountTokenProjection, Volume
from wasmlet.volumes import mount
from wasmlet.volumes.fields import PodFields
from wasmlet.volumes.volume import HostVolume

POD = {
    "metadata": {
        "name": "p", "namespace": "n", "uid": "u",
        "labels": {"b": 'two "quoted"\n', "a": "one"}, "annotations": {"note": "tab\tü\x01\u200b"},
    },
    "spec": {"containers": [{"name": "main", "resources": {"limits": {"cpu": "250m", "memory": "64Mi"}}}]},
}  # fmt: skip


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def documents() -> Documents:
    return Documents(
        config_maps=[
            msgspec.convert(
                {"metadata": {"name": "c", "namespace": "n"}, "data": {"k": "v", "l": "w"},
                 "binaryData": {"bin": encoded(b"\xff")}},
                ConfigMap,
            )
        ],
        secrets=[
            msgspec.convert(
                {"metadata": {"name": "s", "namespace": "n"}, "data": {"password": encoded(b"hunter2\xff")}}, Secret
            )
        ],
    )  # fmt: skip


def pod(**spec: Any) -> Pod:
    return msgspec.convert({**POD, "spec": {**POD["spec"], **spec}}, Pod)  # type: ignore[dict-item]


async def set_up(directory: Path, source: dict[str, Any], *, of: Pod | None = None, **options: Any) -> HostVolume:
    volume = msgspec.convert({"name": "v", **source}, Volume)
    options.setdefault("objects", documents())
    options.setdefault("fields", PodFields(allocatable={"memory": "1Gi", "cpu": "2"}))
    return await mount.set_up(of or pod(), volume, directory=directory, **options)


def content(volume: HostVolume) -> dict[str, bytes]:
    return {
        path.relative_to(volume.path).as_posix(): path.read_bytes()
        for name in os.listdir(volume.path)
        if not name.startswith("..")
        for path in [volume.path / name, *(volume.path / name).rglob("*")]
        if path.is_file()
    }


# --- configMap and secret ---------------------------------------------------------------------------------------------


async def test_a_config_map_is_a_read_only_directory_of_its_data_and_binary_data(tmp_path: Path) -> None:
    volume = await set_up(tmp_path, {"configMap": {"name": "c"}})
    assert volume == HostVolume(tmp_path / "volumes/kubernetes.io~configmap/v", read_only=True, foreign=False)
    assert content(volume) == {"k": b"v", "l": b"w", "bin": b"\xff"}
    assert (volume.path / "k").stat().st_mode & 0o777 == 0o644


async def test_items_select_rename_and_set_modes(tmp_path: Path) -> None:
    items = [{"key": "k", "path": "deep/key"}, {"key": "l", "path": "l", "mode": 0o400}]
    volume = await set_up(tmp_path, {"configMap": {"name": "c", "items": items, "defaultMode": 0o600}})
    assert content(volume) == {"deep/key": b"v", "l": b"w"}
    assert (volume.path / "deep" / "key").stat().st_mode & 0o777 == 0o600
    assert (volume.path / "l").stat().st_mode & 0o777 == 0o400


async def test_updates_come_by_setting_up_again(tmp_path: Path) -> None:
    objects = documents()
    volume = await set_up(tmp_path, {"configMap": {"name": "c"}}, objects=objects)
    objects.put_config_map(
        msgspec.convert({"metadata": {"name": "c", "namespace": "n"}, "data": {"k": "new"}}, ConfigMap)
    )
    assert await set_up(tmp_path, {"configMap": {"name": "c"}}, objects=objects) == volume
    assert content(volume) == {"k": b"new"}


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ({"configMap": {"name": "x"}}, NotFoundError, 'configmap "x" not found'),
        ({"secret": {"secretName": "x"}}, NotFoundError, 'secret "x" not found'),
        (
            {"configMap": {"name": "c", "items": [{"key": "z", "path": "z"}]}},
            UserError,
            "configmap references non-existent config key: z",
        ),
        (
            {"secret": {"secretName": "s", "items": [{"key": "z", "path": "z"}]}},
            UserError,
            "references non-existent secret key: z",
        ),
    ],
)
async def test_what_is_missing_fails_the_volume_with_the_kubelets_text(
    tmp_path: Path, source: dict[str, Any], kind: type[UserError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        await set_up(tmp_path, source)
    assert str(caught.value) == message


async def test_optional_objects_and_keys_leave_an_empty_volume_that_fills_later(tmp_path: Path) -> None:
    objects = Documents()
    source = {"secret": {"secretName": "s", "optional": True, "items": [{"key": "password", "path": "p"}]}}
    volume = await set_up(tmp_path, source, objects=objects)
    assert content(volume) == {}
    assert content(await set_up(tmp_path, source)) == {"p": b"hunter2\xff"}


async def test_secrets_are_closed_to_others_and_silent(tmp_path: Path) -> None:
    volume = await set_up(tmp_path, {"secret": {"secretName": "s", "defaultMode": 0o400}})
    assert (volume.path / "password").stat().st_mode & 0o777 == 0o400
    for parent in (volume.path.parent, volume.path.parent.parent):
        assert parent.stat().st_mode & 0o007 == 0
    with pytest.raises(UserError) as caught:
        await set_up(tmp_path, {"secret": {"secretName": "s", "items": [{"key": "password", "path": "../p"}]}})
    assert "hunter2" not in repr(caught.value) + str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
async def test_fs_group_owns_the_files(tmp_path: Path) -> None:
    of = pod(securityContext={"fsGroup": 4321})
    volume = await set_up(tmp_path, {"secret": {"secretName": "s", "defaultMode": 0o400}}, of=of)
    status = (volume.path / "password").stat()
    assert (status.st_gid, status.st_mode & 0o777) == (4321, 0o440)
    assert volume.path.parent.stat().st_gid == 4321


# --- downwardAPI and projected ----------------------------------------------------------------------------------------


async def test_downward_files_hold_metadata_and_resources(tmp_path: Path) -> None:
    def field(path: str) -> dict[str, Any]:
        return {"path": path.replace("['", ".").replace("']", ""), "fieldRef": {"fieldPath": path}}

    names = ["metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels['a']", "metadata.labels['none']"]
    items = [field(name) for name in [*names, "metadata.labels", "metadata.annotations"]]
    items.append({"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu"}})
    items.append({"path": "mem", "resourceFieldRef": {"containerName": "main", "resource": "limits.memory",
                                                      "divisor": "1Mi"}, "mode": 0o400})  # fmt: skip
    volume = await set_up(tmp_path, {"downwardAPI": {"items": items}})
    assert content(volume) == {
        "metadata.name": b"p", "metadata.namespace": b"n", "metadata.uid": b"u",
        "metadata.labels.a": b"one", "metadata.labels.none": b"",
        "metadata.labels": b'a="one"\nb="two \\"quoted\\"\\n"',
        "metadata.annotations": 'note="tab\\tü\\x01\\u200b"'.encode(),
        "cpu": b"1", "mem": b"64",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"fieldRef": {"fieldPath": "status.podIP"}}, "unsupported fieldPath: status.podIP"),
        ({"fieldRef": {"fieldPath": "spec.x['y']"}}, "does not support subscript"),
        ({"resourceFieldRef": {"resource": "limits.cpu"}}, "needs a containerName"),
        ({"resourceFieldRef": {"resource": "limits.cpu", "containerName": "x"}}, "container x not found"),
        ({"resourceFieldRef": {"resource": "limits.gpu", "containerName": "main"}}, "Unsupported container resource"),
        ({}, "neither fieldRef nor resourceFieldRef"),
    ],
)
async def test_downward_files_that_cannot_be(tmp_path: Path, item: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        await set_up(tmp_path, {"downwardAPI": {"items": [{"path": "f", **item}]}})


async def test_projected_sources_share_a_directory_and_the_later_wins(tmp_path: Path) -> None:
    sources: list[dict[str, Any]] = [
        {"configMap": {"name": "c", "items": [{"key": "k", "path": "same"}, {"key": "l", "path": "l"}]}},
        {"secret": {"name": "s", "items": [{"key": "password", "path": "same", "mode": 0o400}]}},
        {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    volume = await set_up(tmp_path, {"projected": {"sources": sources, "defaultMode": 0o600}})
    assert content(volume) == {"same": b"hunter2\xff", "l": b"w", "ns": b"n"}
    assert (volume.path / "same").stat().st_mode & 0o777 == 0o400
    assert (volume.path / "ns").stat().st_mode & 0o777 == 0o600


async def test_projected_errors_are_told_together(tmp_path: Path) -> None:
    missing = [{"configMap": {"name": "x"}}, {"secret": {"name": "y"}}]
    with pytest.raises(UserError) as caught:
        await set_up(tmp_path, {"projected": {"sources": missing}})
    assert str(caught.value) == '[configmap "x" not found, secret "y" not found]'
    with pytest.raises(NotFoundError, match='configmap "x" not found'):
        await set_up(tmp_path, {"projected": {"sources": missing[:1]}})


async def test_an_api_server_that_is_away_makes_a_projected_volume_worth_a_retry(tmp_path: Path) -> None:
    class Away(Documents):
        async def secret(self, namespace: str, name: str) -> Secret:
            raise RetryableError("the API server is away")

    sources = [{"configMap": {"name": "x"}}, {"secret": {"name": "y"}}]
    with pytest.raises(RetryableError):
        await set_up(tmp_path, {"projected": {"sources": sources}}, objects=Away())


async def test_service_account_tokens_need_a_cluster(tmp_path: Path) -> None:
    source = {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    with pytest.raises(UserError, match=r"needs a cluster.*automountServiceAccountToken"):
        await set_up(tmp_path, source)

    class Tokens:
        async def token(self, pod: Pod, projection: ServiceAccountTokenProjection) -> str:
            return f"{pod.metadata.name}:{projection.path}"

    assert content(await set_up(tmp_path, source, tokens=Tokens())) == {"token": b"p:token"}


# --- emptyDir ---------------------------------------------------------------------------------------------------------


async def test_an_empty_dir_is_open_and_keeps_what_was_written(tmp_path: Path) -> None:
    volume = await set_up(tmp_path, {"emptyDir": {}})
    assert volume == HostVolume(tmp_path / "volumes/kubernetes.io~empty-dir/v", read_only=False, foreign=False)
    assert volume.path.stat().st_mode & 0o777 == 0o777
    (volume.path / "kept").write_text("")
    await set_up(tmp_path, {"emptyDir": {}})
    assert os.listdir(volume.path) == ["kept"]


async def test_memory_is_a_tmpfs_of_the_smallest_bound_until_tear_down(tmp_path: Path) -> None:
    source = {"emptyDir": {"medium": "Memory", "sizeLimit": "100Mi"}}
    volume = await set_up(tmp_path, source)
    try:
        if not os.path.ismount(volume.path):
            pytest.skip("may not mount")
        await set_up(tmp_path, source)
        status = os.statvfs(volume.path)
        assert status.f_blocks * status.f_frsize == 64 << 20  # the container's limit is below sizeLimit
        assert f"tmpfs {volume.path} tmpfs" in Path("/proc/mounts").read_text()
        (volume.path / "file").write_text("")
    finally:
        await mount.tear_down(tmp_path)
    assert os.listdir(tmp_path) == []
    await mount.tear_down(tmp_path)


async def test_without_the_right_to_mount_memory_is_a_directory_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        def mount(self, *arguments: object) -> int:
            return -1

    monkeypatch.setattr("wasmlet.volumes.empty_dir.ctypes.CDLL", lambda *_, **__: Refusing())
    monkeypatch.setattr("wasmlet.volumes.empty_dir.ctypes.get_errno", lambda: 1)
    volume = await set_up(tmp_path, {"emptyDir": {"medium": "Memory"}})
    assert volume.path.is_dir()
    assert "needs root" in caplog.text


async def test_tear_down_never_follows_what_a_guest_planted(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    volume = await set_up(tmp_path / "pod", {"emptyDir": {}})
    (volume.path / "link").symlink_to("../../../../outside")
    await mount.tear_down(tmp_path / "pod")
    assert os.listdir(outside) == ["kept"]
    assert os.listdir(tmp_path / "pod") == []


# --- hostPath ---------------------------------------------------------------------------------------------------------


async def test_host_paths_are_foreign_and_follow_the_nodes_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    volume = await set_up(tmp_path / "pod", {"hostPath": {"path": str(tmp_path / "link"), "type": "Directory"}})
    assert volume == HostVolume(tmp_path / "real", read_only=False, foreign=True)
    assert not (tmp_path / "pod").exists()


@pytest.mark.parametrize("kind", ["", "DirectoryOrCreate"])
async def test_missing_directories_are_made(tmp_path: Path, kind: str) -> None:
    await set_up(tmp_path, {"hostPath": {"path": str(tmp_path / "a/b"), "type": kind}})
    assert (tmp_path / "a/b").is_dir()


async def test_missing_files_are_made(tmp_path: Path) -> None:
    await set_up(tmp_path, {"hostPath": {"path": str(tmp_path / "f"), "type": "FileOrCreate"}})
    assert (tmp_path / "f").read_bytes() == b""
    with pytest.raises(NotFoundError, match="directory is missing"):
        await set_up(tmp_path, {"hostPath": {"path": str(tmp_path / "x/f"), "type": "FileOrCreate"}})


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("file", "Directory", "file is not a directory"),
        ("file", "DirectoryOrCreate", "file is not a directory"),
        ("dir", "File", "dir is not a file"),
        ("dir", "FileOrCreate", "dir is not a file"),
        ("missing", "File", "missing is not a file"),
        ("missing", "Directory", "missing is not a directory"),
        ("file", "Socket", "file is not a socket file"),
        ("file", "CharDevice", "file is not a character device"),
        ("file", "BlockDevice", "file is not a block device"),
        ("file", "Nonsense", "Nonsense is an invalid volume type"),
        ("socket", "Socket", "WASI opens directories and regular files only"),
        ("socket", "", "WASI opens directories and regular files only"),
        ("/dev/null", "CharDevice", "WASI opens directories and regular files only"),
        ("../file", "", "must be an absolute path"),
    ],
)
async def test_host_paths_of_another_kind_are_refused(tmp_path: Path, path: str, kind: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dir").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        full = path if path.startswith(("/", "..")) else str(tmp_path / path)
        with pytest.raises(UserError, match=message):
            await set_up(tmp_path, {"hostPath": {"path": full, "type": kind}})


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ({"persistentVolumeClaim": {"claimName": "x"}}, "persistentVolumeClaim"), ({"csi": {}}, "csi"),
        ({"nfs": {}}, "nfs"), ({"ephemeral": {}}, "ephemeral"), ({"iscsi": {}}, "iscsi"),
        ({}, "no source"), ({"glusterfs": {}}, "no source"),
    ],
)  # fmt: skip
async def test_a_pod_never_starts_without_a_volume_that_wasmlet_does_not_know(
    tmp_path: Path, source: dict[str, Any], kind: str
) -> None:
    with pytest.raises(UserError, match=f'volume "v".*{kind}') as caught:
        await set_up(tmp_path, source)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_volume_names_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        mount.volume_directory(tmp_path, "empty_dir", name)
