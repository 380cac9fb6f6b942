"""The local store on the command line, beside pods that use it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.disks import small_disk
from tests.support.guests import guest
from tests.support.waiting import eventually_now
from tests.unit.images.fake_registry import FakeRegistry, on, status
from tests.unit.images.test_store import add_image
from wasmlet.images.store import Store

USED, UNUSED, MOUNTED = "example.test/used:v1", "example.test/unused:v1", "example.test/mounted:v1"


def test_images_go_through_a_file_from_one_store_to_another(command: Command, tmp_path: Path) -> None:
    add_image(Store(command.state / "images"), USED, guest("exit").read_bytes())
    archive = tmp_path / "images.tar"
    command.succeed("save", USED, "--output", str(archive))
    command.succeed("rmi", USED)
    assert command.succeed("load", "--input", str(archive)).strip() == USED
    assert command.run("run", USED, "--", "0").returncode == 0
    called = command.succeed("load", "--input", str(archive), "--name", "called")
    assert called.strip() == "docker.io/library/called:latest"
    refused = command.run("save", "nowhere", "--output", str(tmp_path / "none.tar"))
    assert refused.returncode == 1
    assert b"is not in the store" in refused.stderr
    assert sorted(each.name for each in tmp_path.glob("*.tar*")) == ["images.tar"]
    archive.write_bytes(b"something else")
    refused = command.run("load", "--input", str(archive))
    assert refused.returncode == 2
    assert b"images.tar: it cannot be read as an archive" in refused.stderr


def test_an_archive_for_a_full_disk(command: Command) -> None:
    add_image(Store(command.state / "images"), USED, guest("exit").read_bytes() + bytes(100_000))
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            command.arguments("save", USED), stdout=full, stderr=subprocess.PIPE, env=command.environment, check=False
        )
    error = b"wasmlet: cannot write to standard output: No space left on device\n"
    assert (result.returncode, result.stderr) == (1, error)


def test_an_archive_goes_where_links_lead_and_into_pipes(command: Command, tmp_path: Path) -> None:
    add_image(Store(command.state / "images"), USED, guest("exit").read_bytes())
    archive = command.run("save", USED).stdout
    (tmp_path / "link.tar").symlink_to("linked.tar")
    command.succeed("save", USED, "-o", str(tmp_path / "link.tar"))
    assert (tmp_path / "link.tar").is_symlink()
    assert (tmp_path / "linked.tar").read_bytes() == archive
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE) as reader:
        try:
            command.succeed("save", USED, "-o", str(tmp_path / "pipe"))
            assert (tmp_path / "pipe").is_fifo()
            assert reader.communicate(timeout=30)[0] == archive
        finally:
            reader.kill()
    assert command.run("save", USED, "-o", "-", cwd=tmp_path).stdout == archive
    assert command.run("load", "-i", "-", input=archive, cwd=tmp_path).stdout == f"{USED}\n".encode()
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_an_archive_that_was_broken_off(command: Command, tmp_path: Path, number: int) -> None:
    add_image(Store(command.state / "images"), USED, bytes(1 << 20))
    program = (  # a disk that takes all the time in the world
        "import sys, time, wasmlet.cli as cli; from wasmlet.images import archives;"
        "archives.save = lambda store, names, stream: (stream.write(b'half'), stream.flush(), time.sleep(60));"
        "sys.exit(cli.main())"
    )
    words = ["--state", str(command.state), "save", USED, "-o", str(tmp_path / "images.tar")]
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], env=command.environment, stderr=subprocess.PIPE
    ) as process:
        eventually_now(lambda: any(each.stat().st_size for each in tmp_path.glob(".images.tar.*")), process)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert not list(tmp_path.glob("*images.tar*"))


def test_what_is_no_archive_and_no_image(command: Command, tmp_path: Path) -> None:
    missing = command.run("load", "-i", str(tmp_path / "none.tar"))
    assert (missing.returncode, missing.stderr) == (1, f"wasmlet: no such file: {tmp_path}/none.tar\n".encode())
    file = command.run("pull", f"file:{guest('hello')}")
    assert file.returncode == 2
    assert b"a local file is not an image in a registry" in file.stderr


@pytest.mark.parametrize(("refusal", "said"), [(401, b"wants a login for"), (403, b"denies anonymous users access to")])
async def test_a_registry_that_refuses_is_no_wrong_usage(command: Command, refusal: int, said: bytes) -> None:
    async with FakeRegistry.running() as registry:
        registry.behaviours.append(on("/v2/", status(refusal)))
        name = f"{registry.address}/a/b:c"
        for arguments in (("pull", name), ("push", str(guest("hello")), name)):
            result = await asyncio.to_thread(command.run, *arguments)
            assert (result.returncode, said in result.stderr) == (1, True), result


def test_an_image_is_removed_by_its_id(command: Command) -> None:
    store = Store(command.state / "images")
    for name in (USED, UNUSED):
        add_image(store, name, guest("sleep").read_bytes())
    identity = store.entries()[0].resolved_digest
    command.succeed("run", "--detach", "--name", "user", USED)
    assert b"2 references" in command.run("rmi", identity).stderr
    assert b"pod user uses example.test/used:v1" in command.run("rmi", "--force", identity).stderr
    command.succeed("rm", "user")
    assert len(store.entries()) == 2
    command.succeed("rmi", UNUSED)
    assert command.succeed("rmi", identity[:19]) == f"{USED}\n"
    assert store.entries() == []


def test_prune_keeps_what_pods_use(command: Command, tmp_path: Path) -> None:
    store = Store(command.state / "images")
    add_image(store, USED, guest("sleep").read_bytes())
    add_image(store, MOUNTED, guest("exit").read_bytes())
    add_image(store, UNUSED, b"unused" * 1000)
    (tmp_path / "pod.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: user}\n"
        f"spec:\n  containers: [{{name: main, image: '{USED}'}}]\n"
        f"  volumes: [{{name: tools, image: {{reference: '{MOUNTED}'}}}}]\n"
    )
    command.succeed("run", "--detach", str(tmp_path / "pod.yaml"))
    assert command.succeed("prune") == "0.0 kB freed\n"
    assert command.succeed("prune", "--all").splitlines()[0] == UNUSED
    assert sorted(entry.name for entry in store.entries()) == [MOUNTED, USED]
    for each in (USED, MOUNTED):
        assert f"pod user uses {each}".encode() in command.run("rmi", each).stderr
    command.succeed("rm", "user")
    assert sorted(command.succeed("prune", "--all").splitlines()[:2]) == [MOUNTED, USED]
    assert store.entries() == []


def test_a_node_clears_its_full_disk_of_what_no_pod_uses(command: Command, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="8m") as disk:
        store = Store(command.state / "images")
        command.state.mkdir(exist_ok=True)
        (disk / "images").mkdir()
        (command.state / "images").symlink_to(disk / "images")
        add_image(store, USED, guest("sleep").read_bytes())
        command.config.write_text("image-minimum-gc-age-seconds = 0\n")
        add_image(store, UNUSED, bytes(7 << 20))
        command.succeed("run", "--detach", "--name", "user", USED)
        command.kill_agent()
        assert len(store.entries()) == 2
        with command.started("node"):
            eventually_now(lambda: len(store.entries()) == 1, store.entries)
        assert [entry.name for entry in store.entries()] == [USED]
        command.succeed("rm", "user")
        command.kill_agent()


def test_thresholds_that_contradict_each_other_end_a_node_before_it_starts(command: Command) -> None:
    command.config.write_text("image-gc-low-threshold-percent = 90\n")
    refused = command.run("node")
    assert refused.returncode == 2
    assert b"the low threshold of image garbage collection (90 %) must be below the high one (85 %)" in refused.stderr
