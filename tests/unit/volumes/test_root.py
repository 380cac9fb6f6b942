"""What a container sees: the root directory with files placed in it, and the ordered mounts (design section 2)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wasmlet.base import beneath
from wasmlet.base.errors import UserError
from wasmlet.volumes.atomic import PayloadFile, write
from wasmlet.volumes.root import (
    ContainerMount,
    GuestMount,
    RootFile,
    TerminationFile,
    build_root,
    read_termination_message,
)
from wasmlet.volumes.volume import HostVolume

LOG = "/dev/termination-log"
HOSTS = {"/etc/hosts": RootFile(b"hosts"), "/etc/resolv.conf": RootFile(b"resolv", 0o600)}


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    directory = tmp_path / "attempt"
    directory.mkdir()
    return directory


def volume(tmp_path: Path, name: str = "data", *, read_only: bool = False) -> HostVolume:
    (tmp_path / name).mkdir(exist_ok=True)
    return HostVolume(tmp_path / name, read_only=read_only, foreign=False)


def test_a_plain_container_gets_a_writable_root_with_its_files(attempt: Path) -> None:
    built = build_root(attempt, files=HOSTS, directories=["/work/dir"], termination_path=LOG)
    root = attempt / "root"
    assert built.mounts == (ContainerMount(root, "/", read_only=False),)
    assert (root / "etc/hosts").read_bytes() == b"hosts"
    assert (root / "etc/resolv.conf").stat().st_mode & 0o777 == 0o600
    assert (root / "work/dir").is_dir()
    assert built.termination == TerminationFile(root, "dev/termination-log")
    assert (root / "dev/termination-log").stat().st_mode & 0o777 == 0o666
    assert built.left_out == ()


def test_building_again_empties_the_log_and_replaces_files(attempt: Path) -> None:
    build_root(attempt, files=HOSTS, termination_path=LOG)
    (attempt / "root/dev/termination-log").write_text("old")
    built = build_root(attempt, files={"/etc/hosts": RootFile(b"new")}, termination_path=LOG)
    assert built.termination is not None
    assert read_termination_message(built.termination) == ""
    assert (attempt / "root/etc/hosts").read_bytes() == b"new"


def test_directory_mounts_come_after_the_root_outer_before_inner(tmp_path: Path, attempt: Path) -> None:
    outer, inner, config = volume(tmp_path), volume(tmp_path, "inner"), volume(tmp_path, "config", read_only=True)
    built = build_root(
        attempt,
        mounts=[
            GuestMount("/data/inner", inner),
            GuestMount("data//./", outer, read_only=True),
            GuestMount("/etc/../config", config),
            GuestMount("/data-2", outer, sub_path="sub"),
        ],
    )
    assert [(mount.guest_path, mount.host_path, mount.read_only) for mount in built.mounts] == [
        ("/", attempt / "root", False),
        ("/config", config.path, True),
        ("/data", outer.path, True),
        ("/data/inner", inner.path, False),
        ("/data-2", outer.path / "sub", False),
    ]
    assert sorted(os.listdir(attempt / "root")) == ["config", "data", "data-2"]
    assert os.listdir(attempt / "root/data") == []
    assert sorted(os.listdir(outer.path)) == ["sub"]


def test_a_volume_at_the_root_replaces_everything(tmp_path: Path, attempt: Path) -> None:
    whole = volume(tmp_path)
    built = build_root(attempt, mounts=[GuestMount("/", whole)], files=HOSTS, termination_path=LOG)
    assert built.mounts == (ContainerMount(whole.path, "/", read_only=False),)
    assert built.left_out == ("/etc/hosts", "/etc/resolv.conf")
    assert built.termination == TerminationFile(whole.path, "dev/termination-log")
    closed = build_root(attempt, mounts=[GuestMount("/", whole, read_only=True)], termination_path=LOG)
    assert closed.termination is None


def test_a_sub_path_file_of_a_writable_volume_is_the_same_file(tmp_path: Path, attempt: Path) -> None:
    data = volume(tmp_path)
    (data.path / "file").write_text("before")
    build_root(attempt, mounts=[GuestMount("/etc/app.conf", data, sub_path="file")])
    (attempt / "root/etc/app.conf").write_text("guest")
    assert (data.path / "file").read_text() == "guest"


def test_a_sub_path_file_of_a_config_map_is_a_copy(tmp_path: Path, attempt: Path) -> None:
    config = volume(tmp_path, read_only=True)
    write(config.path, {"key": PayloadFile(b"one", 0o640)})
    build_root(attempt, mounts=[GuestMount("/etc/app.conf", config, sub_path="key")])
    placed = attempt / "root/etc/app.conf"
    assert not placed.is_symlink()
    assert (placed.read_bytes(), placed.stat().st_mode & 0o777) == (b"one", 0o640)
    placed.write_text("guest")
    assert (config.path / "key").read_bytes() == b"one"


def test_a_host_path_of_a_file_is_placed(tmp_path: Path, attempt: Path) -> None:
    (tmp_path / "host.conf").write_text("host")
    host = HostVolume(tmp_path / "host.conf", read_only=False, foreign=True)
    build_root(attempt, mounts=[GuestMount("/host.conf", host, read_only=True)])
    assert (attempt / "root/host.conf").read_text() == "host"
    assert (attempt / "root/host.conf").stat().st_nlink == 1


def test_a_writable_file_that_cannot_be_linked_is_refused(
    tmp_path: Path, attempt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = volume(tmp_path)
    (data.path / "file").write_text("")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(beneath, "link_file", refuse)
    with pytest.raises(UserError, match=r"hard linked.*readOnly: true"):
        build_root(attempt, mounts=[GuestMount("/file", data, sub_path="file")])


def test_a_pods_own_mount_wins_over_the_agents_file(tmp_path: Path, attempt: Path) -> None:
    config = volume(tmp_path, read_only=True)
    write(config.path, {"hosts": PayloadFile(b"own")})
    built = build_root(
        attempt, mounts=[GuestMount("/etc/hosts", config, sub_path="hosts")], files=HOSTS, termination_path=LOG
    )
    assert (attempt / "root/etc/hosts").read_bytes() == b"own"
    assert (attempt / "root/etc/resolv.conf").read_bytes() == b"resolv"
    assert built.left_out == ()


def test_agents_files_inside_a_volume_are_left_out_and_pods_files_refused(tmp_path: Path, attempt: Path) -> None:
    etc, config = volume(tmp_path, "etc"), volume(tmp_path, "config")
    (config.path / "file").write_text("")
    built = build_root(attempt, mounts=[GuestMount("/etc", etc)], files=HOSTS)
    assert built.left_out == ("/etc/hosts", "/etc/resolv.conf")
    assert os.listdir(etc.path) == []
    with pytest.raises(UserError, match=r"/etc/file, inside the volume mounted at /etc.*projected"):
        build_root(attempt, mounts=[GuestMount("/etc", etc), GuestMount("/etc/file", config, sub_path="file")])


def test_a_read_only_root_keeps_a_writable_place_for_the_log(attempt: Path) -> None:
    built = build_root(attempt, files=HOSTS, termination_path=LOG, read_only=True)
    assert built.mounts == (
        ContainerMount(attempt / "root", "/", read_only=True),
        ContainerMount(attempt / "termination", "/dev", read_only=False),
    )
    assert built.termination == TerminationFile(attempt / "termination", "termination-log")
    assert (attempt / "root/dev").is_dir()


def test_files_beside_the_log_of_a_read_only_root_are_placed_there_too(attempt: Path) -> None:
    built = build_root(attempt, files=HOSTS, termination_path="/etc/log", read_only=True)
    assert built.left_out == ()
    assert (attempt / "termination/hosts").read_bytes() == b"hosts"


def test_a_log_directly_in_a_read_only_root_is_left_out(attempt: Path) -> None:
    built = build_root(attempt, termination_path="/log", read_only=True)
    assert built.mounts == (ContainerMount(attempt / "root", "/", read_only=True),)
    assert built.termination is None


def test_a_log_inside_a_volume_lies_there(tmp_path: Path, attempt: Path) -> None:
    data = volume(tmp_path)
    built = build_root(attempt, mounts=[GuestMount("/data", data)], termination_path="/data/log", read_only=True)
    assert built.termination == TerminationFile(data.path, "log")
    assert len(built.mounts) == 2


def test_two_mounts_at_one_path_are_refused(tmp_path: Path, attempt: Path) -> None:
    with pytest.raises(UserError, match="two volumes are mounted at /a"):
        build_root(attempt, mounts=[GuestMount("/a", volume(tmp_path)), GuestMount("/a/", volume(tmp_path, "b"))])


def test_a_pipe_in_a_volume_is_no_mount(tmp_path: Path, attempt: Path) -> None:
    data = volume(tmp_path)
    os.mkfifo(data.path / "pipe")
    with pytest.raises(UserError, match="neither a directory nor a regular file"):
        build_root(attempt, mounts=[GuestMount("/a", data, sub_path="pipe")])


def test_links_of_the_image_lead_nowhere(tmp_path: Path, attempt: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (attempt / "root").mkdir()
    for name in ("etc", "dev", "work", "mnt"):
        (attempt / "root" / name).symlink_to("../../outside")
    built = build_root(
        attempt,
        mounts=[GuestMount("/mnt/data", volume(tmp_path))],
        files=HOSTS,
        directories=["/work/dir"],
        termination_path=LOG,
    )
    assert built.left_out == ("/etc/hosts", "/etc/resolv.conf")
    assert built.termination is None
    assert os.listdir(outside) == []


def test_an_images_own_link_in_last_place_is_replaced(attempt: Path) -> None:
    (attempt / "root" / "etc").mkdir(parents=True)
    (attempt / "root" / "etc" / "resolv.conf").symlink_to("../run/resolv.conf")
    build_root(attempt, files=HOSTS)
    assert (attempt / "root/etc/resolv.conf").read_bytes() == b"resolv"


def test_the_termination_message_is_the_end_of_the_file(attempt: Path) -> None:
    file = build_root(attempt, termination_path=LOG).termination
    assert file is not None
    path = file.root / file.relative
    path.write_bytes(b"x" * 5000 + b"end")
    assert read_termination_message(file) == "x" * 4093 + "end"
    path.write_bytes(b"\xff!")
    assert read_termination_message(file) == "\ufffd!"
    path.unlink()
    assert read_termination_message(file) == ""


def test_a_termination_message_is_never_read_through_a_guests_link_or_pipe(attempt: Path) -> None:
    file = build_root(attempt, termination_path=LOG).termination
    assert file is not None
    path = file.root / file.relative
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert read_termination_message(file).startswith("Error on reading termination log")
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in read_termination_message(file)


def test_contents_stay_out_of_repr() -> None:
    assert "hunter2" not in repr(RootFile(b"hunter2"))
