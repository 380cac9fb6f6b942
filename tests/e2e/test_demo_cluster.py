"""`make demo-cluster`: the announcement's session, walked by a script that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import program
from tests.support.guests import DEMO_LANGUAGES, DEMOS
from tests.support.waiting import eventually_now

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180, func_only=True)]

SECONDS = 170.0


@pytest.fixture
def started(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The script, with everything that it makes below `tmp_path`."""
    command = [sys.executable, "-u", str(DEMOS / "cluster.py"), str(Path(sys.executable).parent / "wasmlet")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [*command, str(program())], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        yield process
        process.kill()


def test_the_session_prints_what_the_announcement_says(started: subprocess.Popen[str], tmp_path: Path) -> None:
    output, _ = started.communicate(timeout=SECONDS)
    assert started.returncode == 0, output
    rows = [line.split() for line in output.splitlines()]
    assert any(row[:2] == ["wasmlet", "Ready"] and row[-1].startswith("wasmlet://") for row in rows)
    for language in DEMO_LANGUAGES:
        demo = f"hello-world-{language}"
        assert f"$ kubectl apply -f {demo}.yaml\n" in output
        assert f"$ kubectl logs hello-world-wasi-{language}\n{(DEMOS / demo / 'expected.txt').read_text()}" in output
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(started: subprocess.Popen[str], tmp_path: Path, ending: signal.Signals) -> None:
    assert started.stdout is not None
    for line in started.stdout:
        if line.startswith("$ kubectl apply"):
            break
    assert left_over(tmp_path) != [], "a control plane, a registry and an agent run"
    started.send_signal(ending)
    output, _ = started.communicate(timeout=SECONDS)
    assert started.returncode == 130, output
    eventually_now(lambda: left_over(tmp_path) == [], "processes and files")


def left_over(directory: Path) -> list[str]:
    """Files in `directory`, and processes that were started with it as their TMPDIR."""
    found = [str(path) for path in directory.iterdir()]
    wanted = b"TMPDIR=" + os.fsencode(directory)
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
            if wanted in environment.split(b"\0"):
                found.append((entry / "cmdline").read_text())
        except OSError:  # ended, or another user's
            continue
    return found
