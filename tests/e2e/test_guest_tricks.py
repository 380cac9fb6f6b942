"""Guests that try to reach out of their volumes by way of the agent, and disks that are full."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Wasmlet
from tests.support.guests import guest
from tests.support.processes import end_all

LINKED_TERMINATION_LOG = """
apiVersion: v1
kind: Pod
metadata: { name: tricks }
spec:
  restartPolicy: Never
  initContainers:
    - name: plant
      image: "file:files.wasm"
      args: [link, PLANTED, /work/escape]
      volumeMounts: [{ name: work, mountPath: /work }]
  containers:
    - name: use
      image: "file:files.wasm"
      args: [write, /inner/owned, gotcha]
      volumeMounts: [{ name: work, mountPath: /inner, subPath: escape }]
  volumes: [{ name: work, emptyDir: {} }]
"""


def test_a_planted_link_is_not_followed_by_a_sub_path(tmp_path: Path, wasmlet: Wasmlet) -> None:
    shutil.copy(guest("files"), wasmlet.folder)
    outside = tmp_path / "outside"
    outside.mkdir()
    for target in ("../" * 12 + str(outside).lstrip("/"), "../../../.."):
        manifest = wasmlet.folder / "pod.yaml"
        manifest.write_text(LINKED_TERMINATION_LOG.replace("PLANTED", target))
        result = wasmlet("run", manifest, status=None)
        assert result.returncode != 0
    assert list(outside.iterdir()) == []


def test_removing_a_pod_leaves_what_planted_links_point_to(tmp_path: Path, wasmlet: Wasmlet) -> None:
    shutil.copy(guest("files"), wasmlet.folder)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("precious")
    target = "../" * 12 + str(kept).lstrip("/")
    manifest = wasmlet.folder / "pod.yaml"
    text = LINKED_TERMINATION_LOG.replace("PLANTED", target).replace(", subPath: escape", "")
    manifest.write_text(text.replace("[write, /inner/owned, gotcha]", "[ls, /inner]"))
    assert b"escape" in wasmlet("run", manifest).stdout
    assert (kept / "file").read_text() == "precious"
    assert list((wasmlet.state / "pods").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(path: Path) -> None:
    """Write until the disk takes no byte more."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, b"\0" * 4096)
    finally:
        os.close(descriptor)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(small_disk: Path, wasmlet: Wasmlet) -> None:
    wasmlet.environment["WASMLET_STATE"] = str(small_disk)
    wasmlet.state = small_disk
    wasmlet("run", guest("hello"))
    filler = small_disk / "filler"
    fill(filler)
    full = wasmlet("run", guest("env"), status=None)
    assert full.returncode in (1, 125)
    assert b"space" in full.stderr.lower()
    filler.unlink()
    wasmlet("run", guest("exit"), "--", "5", status=5)
    assert json.loads(wasmlet("ps", "-o", "json").stdout)["items"] == []
    end_all(small_disk)
