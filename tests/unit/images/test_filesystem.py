"""Layers as operations on a value: replacing, whiteouts, links that stay inside, paths that do not."""

import pytest

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.images.filesystem import MAX_DEPTH, Directory, File, FileSystem, Link, inside


def layered(*layers: list[str]) -> FileSystem:
    """`a` is a file, `a/` a directory, `a -> b` a link, `a = b` a hard link; whiteouts are what they are."""
    tree, number = FileSystem(), 0
    for layer in layers:
        tree.begin_layer()
        for line in layer:
            name, _, target = line.partition(" ")
            if target.startswith("->"):
                tree.add_link(name, target[3:])
            elif target.startswith("="):
                tree.add_hard_link(name, target[2:])
            elif tree.take_away(name):
                continue
            elif name.endswith("/"):
                tree.add_directory(name)
            else:
                number += 1
                tree.add_file(name, File(number))
    return tree


def names(tree: FileSystem, directory: Directory | None = None, path: str = "") -> list[str]:
    found = []
    for name, entry in sorted((directory or tree.root).entries.items()):
        if isinstance(entry, Directory):
            found += [f"{path}{name}/", *names(tree, entry, f"{path}{name}/")] if entry.entries else [f"{path}{name}/"]
        else:
            found.append(f"{path}{name}" + (f" -> {entry.target}" if isinstance(entry, Link) else ""))
    return found


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        ([["a", "b/c"]], ["a", "b/", "b/c"]),
        ([["/a", "./b", "c/../d"]], ["a", "b", "d"]),
        ([["a"], ["a/", "a/b"]], ["a/", "a/b"]),
        ([["a/", "a/b"], ["a"]], ["a"]),
        ([["a/b"], ["a/"]], ["a/", "a/b"]),
        ([["a", "b"], [".wh.a"]], ["b"]),
        ([["a/b", "a/c"], ["a/.wh.b"]], ["a/", "a/c"]),
        ([["a/b", "a/c"], [".wh.a"]], []),
        ([["a/b"], [".wh.a", "a/c"]], ["a/", "a/c"]),
        ([["a/b"], ["a/c", ".wh.a"]], ["a/", "a/c"]),
        ([["a/b", "a/c/d"], ["a/.wh..wh..opq", "a/e"]], ["a/", "a/e"]),
        ([["a/b", "a/c/d"], ["a/e", "a/.wh..wh..opq"]], ["a/", "a/e"]),
        ([["a"], [".wh.a", "a"]], ["a"]),
        ([["a", ".wh.a"]], ["a"]),
        ([["a"], [".wh.nothing", "x/.wh.y", ".wh..wh.plnk", ".wh..wh..tmp"]], ["a"]),
        ([["usr/lib/", "lib -> usr/lib"], ["lib/x"]], ["lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/x"]),
        ([["run/", "var/run -> /run"], ["var/run/x"]], ["run/", "run/x", "var/", "var/run -> /run"]),
        ([["etc/", "out -> ../../../etc"], ["out/x"]], ["etc/", "etc/x", "out -> ../../../etc"]),
        ([["out -> /new/place"], ["out/x"]], ["new/", "new/place/", "new/place/x", "out -> /new/place"]),
        ([["lib -> usr/lib", "usr/lib/x"], ["lib/"]], ["lib/", "usr/", "usr/lib/", "usr/lib/x"]),
        ([["usr/lib/x", "lib -> usr/lib"], ["lib/.wh.x"]], ["lib -> usr/lib", "usr/", "usr/lib/"]),
        ([["a", "b = a"], [".wh.a"]], ["b"]),
        ([["a", "b -> a", "c = b"]], ["a", "b -> a", "c -> a"]),
    ],
)
def test_layers_one_upon_the_other(layers: list[list[str]], left: list[str]) -> None:
    assert names(layered(*layers)) == left


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["../a"], "climbs out"),
        (["a/../../b"], "climbs out"),
        (["/../a"], "climbs out"),
        ([".wh..."], "names nothing"),
        ([".wh."], "names nothing"),
        (["a", "a/b"], "below the file a"),
        (["a", "b -> a", "b/c"], "below the file a"),
        (["a -> a", "a/b"], "no directory"),
        (["a -> b", "b -> a", "a/b"], "no directory"),
        (["a = /etc/passwd"], "hard link a to /etc/passwd: the image has no such file"),
        (["a = ../../etc/passwd"], "climbs out"),
        (["out -> /etc", "a = out/passwd"], "the image has no such file"),
        (["d/", "a = d"], "that is a directory"),
        (["."], "root directory"),
        (["x" * 256], "name longer than 255"),
        (["/".join(["x"] * 2100)], "longer than 4096"),
        (["/".join(["x"] * (MAX_DEPTH + 1))], "no directory"),
        (["a\0b"], "NUL"),
    ],
)
def test_paths_that_no_image_may_have(lines: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        layered(lines)


def test_hard_links_are_one_content() -> None:
    tree = layered(["a", "b = a"], ["c/d = b", "a"])
    numbers = {path: file.number for path, file in tree.files()}
    assert numbers["/b"] == numbers["/c/d"] != numbers["/a"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/app.wasm", "/app.wasm"),
        ("app.wasm", "/app.wasm"),
        ("/bin/../../app.wasm", "/app.wasm"),
        ("/../../app.wasm", "/app.wasm"),
        ("/bin/tool", "/usr/bin/tool"),
        ("/bin/alias", "/app.wasm"),
        ("/bin/../bin/./tool", "/usr/bin/tool"),
        ("/bin/..", "/usr"),
        ("/", "/"),
    ],
)
def test_a_program_sees_what_links_lead_to(path: str, found: str) -> None:
    tree = layered(["app.wasm", "usr/bin/tool", "bin -> usr/bin", "usr/bin/alias -> ../../../../app.wasm"])
    assert tree.find(path)[0] == found


@pytest.mark.parametrize("path", ["/nothing", "/app.wasm/x", "/loop", "/dangling", "/app.wasm/..", "/nothing/.."])
def test_what_is_not_there(path: str) -> None:
    tree = layered(["app.wasm", "loop -> loop", "dangling -> /nowhere"])
    with pytest.raises(NotFoundError):
        tree.find(path)


@pytest.mark.parametrize(
    ("target", "depth", "expected"),
    [
        ("b", 0, "b"),
        ("/b/c", 0, "b/c"),
        ("/b/c", 2, "../../b/c"),
        ("/", 1, ".."),
        ("/", 0, "."),
        ("../b", 1, "../b"),
        ("../../b", 1, "../b"),
        ("../../../..", 0, "."),
        ("x/../y", 1, "x/../y"),
        ("/../../etc", 1, "../etc"),
    ],
)
def test_targets_are_said_so_that_guests_can_follow_them(target: str, depth: int, expected: str) -> None:
    assert inside(target, depth) == expected
