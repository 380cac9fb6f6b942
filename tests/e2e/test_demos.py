"""Every demo prints what its expected.txt says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Wasmlet
from tests.support.guests import DEMOS
from tests.support.waiting import eventually_now

MANIFESTS = sorted(path.parent / "pod.yaml" for path in DEMOS.glob("hello-world-*/expected.txt"))
# Those that are built when `make demo` runs have their binary nowhere here, and compile for long.
SERVERS = sorted(each for each in DEMOS.glob("*/request.txt") if not (each.parent / ".gitignore").exists())


def test_the_four_languages_are_there() -> None:
    names = {manifest.parent.name for manifest in MANIFESTS}
    assert {f"hello-world-{each}" for each in ("rust", "c", "assemblyscript", "go")} <= names


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.parent.name)
def test_demo_prints_what_it_should(manifest: Path, wasmlet: Wasmlet) -> None:
    with wasmlet.start("run", manifest) as process:
        output, error = process.communicate(timeout=50)
    assert process.returncode == 0
    expected = (manifest.parent / "expected.txt").read_text().splitlines(keepends=True)
    assert output.decode() == "".join(line for line in expected if "stderr" not in line)
    assert error.decode() == "hello from stderr!\n"


@pytest.mark.parametrize("request_file", SERVERS, ids=lambda path: path.parent.name)
def test_server_answers_what_it_should(request_file: Path, wasmlet: Wasmlet) -> None:
    manifest = request_file.parent / "pod.yaml"
    is_alone = manifest.read_text().count("image:") == 1
    with wasmlet.start("run", manifest) as process:
        assert process.stderr is not None
        address, *_ = [process.stderr.readline().decode().strip() for _ in range(1 if is_alone else 2)]
        assert address.startswith("http://127.88."), address
        path = request_file.read_text().strip()
        with urllib.request.urlopen(address + path.removeprefix("/"), timeout=10) as response:
            answer = response.read().decode()
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=50)
    assert answer == (request_file.parent / "expected.txt").read_text()
    assert (process.returncode, output, error) == (
        0,
        b"greeting wasmlet\n" if is_alone else b"[greeter] greeting wasmlet\n",
        b"",
    )


def test_a_binary_that_is_not_committed_is_built_once_for_its_sources(tmp_path: Path) -> None:
    demo = tmp_path / "demos" / "large"
    demo.mkdir(parents=True)
    shutil.copy(DEMOS / "built.py", demo.parent)
    for name, text in (("main.py", "1"), ("pod.yaml", "first"), (".gitignore", "*.wasm")):
        (demo / name).write_text(text)
    script = demo / "rebuild.sh"
    script.write_text(
        '#!/bin/sh\ncd "$(dirname "$0")"\n[ "$(cat main.py)" = 3 ] && exit 69\ncp main.py "$1/large.wasm"\n'
        '{ sha256sum main.py; cd "$1"; sha256sum large.wasm; } >"$1/SOURCE.sha256"\n'
    )
    script.chmod(0o755)

    def folder() -> tuple[int, str, bool]:
        result = subprocess.run(
            [sys.executable, demo.parent / "built.py", "large"], env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        return result.returncode, result.stdout.strip(), "building" in result.stderr

    place = tmp_path / "wasmlet" / "demos" / "large"
    assert folder() == (0, str(place), True)
    (demo / "pod.yaml").write_text("second")
    assert folder() == (0, str(place), False)
    assert (place / "pod.yaml").read_text() == "second"
    (demo / "main.py").write_text("2")
    assert folder() == (0, str(place), True)
    assert (place / "large.wasm").read_text() == "2"
    (demo / "main.py").write_text("3")
    assert folder() == (69, "", True)


def test_an_image_built_from_a_dockerfile_runs(wasmlet: Wasmlet, tmp_path: Path) -> None:
    demo = DEMOS / "image-of-files"
    name = "localhost/image-of-files:1"
    archive = subprocess.run(
        [sys.executable, str(DEMOS / "image.py"), str(demo), name], stdout=subprocess.PIPE, check=True
    ).stdout
    (tmp_path / "image.tar").write_bytes(archive)
    assert wasmlet("load", "--input", tmp_path / "image.tar").stdout.decode() == f"{name}\n"
    for _ in range(2):  # what the first one wrote was its own
        assert wasmlet("run", demo / "pod.yaml").stdout.decode() == (demo / "expected.txt").read_text()
    assert name in wasmlet("images").stdout.decode()
    assert wasmlet("rmi", name).returncode == 0


def test_one_pipe_for_both_streams_keeps_their_order(wasmlet: Wasmlet) -> None:
    demo = DEMOS / "hello-world-c"
    with subprocess.Popen(
        ["python3", str(DEMOS / "run.py"), "false"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as failing:
        assert failing.wait(timeout=50) == 1, "the runner tells a demo that fails"
    result = wasmlet("run", demo / "pod.yaml")
    assert result.stdout.decode().startswith("hello from stdout!\n")


def test_broken_programs_end_as_they_should(wasmlet: Wasmlet) -> None:
    demo = DEMOS / "breaks-on-purpose"
    pod = wasmlet("run", "--detach", demo / "pod.yaml").stdout.decode().strip()

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(wasmlet("inspect", pod).stdout)["pod"]["status"]
        return found

    eventually_now(lambda: status()["phase"] == "Failed", "the end of all", seconds=50)
    ends = {each["name"]: each["state"]["terminated"] for each in status()["containerStatuses"]}
    shown = [f"{name} {end['exitCode']} {end['reason']}" for name, end in ends.items()]
    assert shown == (demo / "ends.txt").read_text().splitlines()
    cause, *backtrace = ends["traps"]["message"].splitlines()
    assert cause == "wasm trap: integer divide by zero"
    assert [line.rpartition("!")[2] for line in backtrace][:3] == ["divide", "share_out", "main"]
    assert ends["takes-memory"]["message"].startswith("out of memory: it asked for ")
    assert "its limit is 33554432" in ends["takes-memory"]["message"]
    assert "DeadlineExceeded" in wasmlet("ps").stdout.decode()
    wasmlet("rm", pod)


def test_only_the_signed_image_runs(wasmlet: Wasmlet) -> None:
    demo = DEMOS / "signed-image"
    command = [sys.executable, str(demo / "run.py"), str(Path(sys.executable).parent / "wasmlet")]
    shown = subprocess.run(command, env=wasmlet.environment, capture_output=True, text=True, timeout=50, check=False)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, (demo / "expected.txt").read_text(), "")


def test_what_cannot_run_is_refused(wasmlet: Wasmlet) -> None:
    with wasmlet.start("run", DEMOS / "breaks-on-purpose" / "refused.yaml") as process:
        output, error = process.communicate(timeout=50)
    assert (process.returncode, output) == (126, b"")
    assert b"the module imports linux.fork, which no host of this engine provides" in error
