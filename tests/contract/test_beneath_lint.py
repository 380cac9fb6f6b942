"""Nobody but `base.beneath` follows paths below what a guest can write (design section 3).

Two lists of calls. TREE_CALLS walk or resolve whole trees and are banned in all of wasmlet. NAME_CALLS open or look at
one name, following links: banned in the rooms that handle guests' directories. A file that handles only the agent's
own directories may be excused, with the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "wasmlet"

TREE_CALLS = {
    "shutil.rmtree", "shutil.copytree", "shutil.move", "os.walk", "os.fwalk", "os.removedirs", "os.renames",
    "os.path.realpath", ".rglob", ".walk", ".readlink", "glob.glob", "glob.iglob",
}  # fmt: skip

NAME_CALLS = {
    "open", "io.open", "os.open", "os.stat", "os.chmod", "os.chown", "os.truncate", "os.listdir", "os.scandir",
    "os.mkdir", "os.makedirs", "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.chown", "shutil.disk_usage",
    "os.path.exists", "os.path.isdir", "os.path.isfile", "os.path.getsize",
    ".read_bytes", ".read_text", ".write_bytes", ".write_text", ".iterdir", ".open", ".touch", ".chmod", ".resolve",
    ".exists", ".is_file", ".is_dir", ".stat", ".mkdir", ".unlink", ".rename", ".hardlink_to", ".symlink_to",
}  # fmt: skip

STRICT_ROOMS = {"volumes"}
"""Rooms that hold guest-writable directories. Others follow NAME_CALLS by review."""

MODULES = {"os", "io", "shutil", "glob", "stat", "ast", "re", "removal"}

THE_MODULES = {"base/beneath.py", "base/removal.py"}

ALLOWED: dict[tuple[str, str], str] = {
    ("cli/images.py", "os.path.realpath"): "where the user of the command wants an archive written",
    ("pods/pools.py", "os.path.realpath"): "a path of the node, as volumes/host_path.py names it",
    ("sandbox/engines.py", "shutil.rmtree"): "an engine's run directory (socket, record, log): no guest has it open",
    ("sandbox/launching.py", "shutil.rmtree"): "the same",
    ("volumes/atomic.py", "*"): "these volumes are read-only in every container: the agent wrote all of it",
    ("volumes/host_path.py", "*"): "a path of the node, given by the pod's author; links on it count, as the kubelet's",
    ("volumes/mount.py", ".is_dir"): "the agent's own directories, down to a volume's own",
    ("volumes/mount.py", ".mkdir"): "the same",
    ("volumes/mount.py", ".chmod"): "the same",
    ("volumes/mount.py", ".stat"): "the same",
    ("volumes/mount.py", "os.chmod"): "the same",
    ("volumes/mount.py", "os.chown"): "the same",
    ("volumes/mount.py", "os.listdir"): "the same: names of emptyDir volumes, not what is in them",
    ("volumes/empty_dir.py", ".is_dir"): "the volume's own directory, whose name only the agent can change",
    ("volumes/empty_dir.py", ".mkdir"): "the same",
    ("volumes/empty_dir.py", "os.chmod"): "the same",
    ("volumes/root.py", ".mkdir"): "root/ and termination/ of an attempt: only the agent can change these names",
    ("volumes/root.py", ".chmod"): "the same",
    ("volumes/root.py", ".is_dir"): "a volume's own directory, or a hostPath checked by volumes/host_path.py",
}


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Dotted names of called functions (`os.walk`, `open`), and `.name` for methods of anything else."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if isinstance(node.func, ast.Name):
            yield name, node.lineno
        elif isinstance(node.func, ast.Attribute) and not name.startswith("beneath."):
            # A function of a module goes by its dotted name, anything else is taken for a method of a path.
            module = isinstance(node.func.value, ast.Name) and node.func.value.id in MODULES
            yield name if module or name.startswith("os.path.") else f".{node.func.attr}", node.lineno


def offences(relative: str, text: str) -> list[str]:
    """`file:line call` of what is banned there and not excused."""
    banned = TREE_CALLS | (NAME_CALLS if relative.partition("/")[0] in STRICT_ROOMS else set())
    found = []
    for name, line in calls(ast.parse(text)):
        if name not in banned or (relative, name) in ALLOWED or (relative, "*") in ALLOWED:
            continue
        found.append(f"{relative}:{line} {name}")
    return found


def modules() -> list[str]:
    return sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


@pytest.mark.parametrize("relative", [name for name in modules() if name not in THE_MODULES])
def test_no_ordinary_call_follows_paths_that_a_guest_can_write(relative: str) -> None:
    found = offences(relative, (SOURCE / relative).read_text())
    assert not found, "use wasmlet.base.beneath, or add the file to ALLOWED with its reason"


def test_the_lint_sees_what_it_bans() -> None:
    text = (
        "import os, shutil\nshutil.rmtree(p)\nopen(p)\n(a / b).read_text()\nfor x in os.walk(p): pass\nbeneath.stat(p)"
    )
    assert offences("volumes/new.py", text) == [
        "volumes/new.py:2 shutil.rmtree",
        "volumes/new.py:3 open",
        "volumes/new.py:4 .read_text",
        "volumes/new.py:5 os.walk",
    ]
    assert offences("images/new.py", text) == ["images/new.py:2 shutil.rmtree", "images/new.py:5 os.walk"]


def test_every_excuse_is_still_needed() -> None:
    for relative, name in ALLOWED:
        used = {call for call, _ in calls(ast.parse((SOURCE / relative).read_text()))}
        assert name == "*" or name in used, f"{relative} {name}"
