"""What a terminal, a pipe and a shell expect of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Wasmlet
from tests.support.guests import guest

ONE_READER = """
apiVersion: v1
kind: Pod
metadata: { name: reader }
spec:
  restartPolicy: Never
  containers: [{ name: reader, image: "file:IMAGE", stdin: true }]
"""


def test_a_slow_reader_gets_every_byte(wasmlet: Wasmlet) -> None:
    """Ninety megabytes: more than all the log files that are kept together."""
    with wasmlet.start("run", guest("lines"), "--", "900000", "99") as process:
        assert process.stdout is not None
        count, last = 0, b""
        for line in process.stdout:
            count, last = count + 1, line
            if count == 1:
                assert process.poll() is None
        assert process.wait(timeout=50) == 0
    assert count == 900000
    assert last.startswith(b"00899999")


def test_a_full_disk_behind_stdout_is_said(wasmlet: Wasmlet) -> None:
    for arguments in (["run", str(guest("hello"))], ["ps"]):
        with Path("/dev/full").open("wb") as full:
            result = subprocess.run(
                [sys.executable, "-m", "wasmlet", *arguments],
                stdout=full, stderr=subprocess.PIPE,
                env=wasmlet.environment, cwd=wasmlet.folder, timeout=50, check=False,
            )  # fmt: skip
        assert result.returncode == 1
        assert result.stderr == b"wasmlet: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_standard_streams(wasmlet: Wasmlet, closed: int) -> None:
    script = f'exec "$0" -m wasmlet run "$1" {closed}>&-'
    result = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, str(guest("echo"))],
        env=wasmlet.environment, cwd=wasmlet.folder, timeout=50, input=b"x\n", capture_output=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0
    assert b"Traceback" not in result.stderr
    assert result.stdout == (b"" if closed != 2 else b"x\n")


def test_the_end_of_stdin_is_the_guests(wasmlet: Wasmlet) -> None:
    manifest = wasmlet.folder / "pod.yaml"
    manifest.write_text(ONE_READER.replace("IMAGE", str(guest("echo"))))
    assert wasmlet("run", manifest, stdin=b"some bytes\x00\n").stdout == b"some bytes\x00\n"
    assert wasmlet("run", "-", stdin=manifest.read_bytes()).stdout == b""


def test_bytes_that_are_no_text_are_refused(wasmlet: Wasmlet) -> None:
    result = wasmlet("run", guest("env"), "--", os.fsdecode(b"\xff"), status=2)
    assert b"UTF-8" in result.stderr


def test_a_bare_name_means_the_default_namespace(wasmlet: Wasmlet) -> None:
    for namespace in ("default", "other"):
        wasmlet("run", "-d", "-n", namespace, "--name", "twin", guest("sleep"))
    refused = wasmlet("run", "-d", "-n", "other", "--name", "twin", guest("sleep"), status=2)
    assert b"wasmlet rm other/twin" in refused.stderr
    wasmlet("rm", "twin")
    assert b"other" in wasmlet("ps").stdout
    wasmlet("rm", "twin")  # the only one left of that name
    assert wasmlet("ps").stdout.count(b"\n") == 1


def test_a_volume_at_the_root_gets_nothing_of_ours(wasmlet: Wasmlet) -> None:
    folder = wasmlet.folder / "host"
    folder.mkdir()
    wasmlet("run", "-v", "../work/host:/", guest("hello"))
    assert list(folder.iterdir()) == []


def test_an_engine_that_is_lost_is_told(wasmlet: Wasmlet) -> None:
    with wasmlet.start("run", guest("sleep")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        engines = subprocess.run(["pgrep", "-f", f"serve --directory {wasmlet.state}"], capture_output=True, check=True)
        os.kill(int(engines.stdout.split()[0]), 9)
        _, error = process.communicate(timeout=50)
    assert process.returncode == 137
    assert b"The engine that ran this container ended" in error
