"""What a confined process can do, tried by one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.guests import ROOT

TRIES = """
import socket, sys
from pathlib import Path
from wasmlet.images import landlock
base = Path(sys.argv[1])
if not landlock.confine(read=[base / "blob", base / "gone", *landlock.interpreter()], write=base / "trees"):
    sys.exit("no Landlock")
def tried(what):
    try:
        return str(what())
    except OSError as error:
        return type(error).__name__
def moved():
    (base / "trees/a").rename(base / "trees/b/a")
    return (base / "trees/b/a").read_text()
print(tried((base / "blob").read_text))
print(tried(lambda: (base / "blob").write_text("x")))
print(tried((base / "secret").read_text))
print(tried(lambda: list(base.iterdir())))
print(tried(lambda: (base / "made").write_text("x")))
(base / "trees/b").mkdir()
print(tried(lambda: (base / "trees/a").write_text("made")))
print(tried(moved))
print(tried(lambda: (base / "trees/out").symlink_to(base / "secret")))
print(tried((base / "trees/out").read_text))
print(tried(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])))))
import wsgiref.simple_server  # nobody has imported it before
"""


def test_only_what_is_named_is_left(tmp_path: Path) -> None:
    (tmp_path / "trees").mkdir()
    for name in ("blob", "secret"):
        (tmp_path / name).write_text(name)
    done = subprocess.run(
        [sys.executable, "-c", TRIES, str(tmp_path), "9"], env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "no Landlock" in done.stderr:
        pytest.skip("this kernel has no Landlock")
    assert done.returncode == 0, done.stderr
    denied = "PermissionError"
    *files, connected = done.stdout.splitlines()
    assert files == ["blob", denied, denied, denied, denied, "4", "made", "None", denied]
    assert connected in (denied, "ConnectionRefusedError"), "kernels before 6.7 know no ports"
    assert (tmp_path / "blob").read_text() == "blob"
