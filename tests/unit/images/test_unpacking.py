"""Layers become trees: what comes out, what hostile layers are told, and that nothing is written elsewhere."""

import fcntl
import gzip
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.file_images import (
    COMPRESSIONS,
    archive,
    directory,
    files,
    hard_link,
    link,
    member,
)
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.images.configuration import chain_id
from wasmlet.images.filesystem import FileSystem
from wasmlet.images.laying import DamagedTreeError, lay
from wasmlet.images.manifest import digest_of
from wasmlet.images.unpacking import FILES, Inventory, LayerBlob, Task, sweep, unpack

WASM = b"\0asm\x01\0\0\0"
Bytes = Callable[[bytes], bytes]


class Place:
    """A store's directory, and what lies beside it and must not change."""

    def __init__(self, path: Path) -> None:
        self.outside = path / "outside"
        self.outside.mkdir(parents=True)
        (self.outside / "secret").write_text("of the node")
        self.trees = path / "trees"
        self.trees.mkdir()
        self.blobs = path / "blobs"
        self.blobs.mkdir()

    def unpack(self, *archives: bytes, compress: Bytes = lambda content: content, **fields: Any) -> Inventory:
        layers = []
        for number, content in enumerate(archives):
            blob = compress(content)
            (self.blobs / str(number)).write_bytes(blob)
            layers.append(LayerBlob(str(self.blobs / str(number)), digest_of(blob), digest_of(content)))
        chain = chain_id([layer.diff_id for layer in layers])
        return unpack(Task(str(self.trees), chain, tuple(layers), **fields))

    def laid(self, inventory: Inventory, *, writable: bool = True) -> Path:
        root = self.trees.parent / f"root-{os.urandom(4).hex()}"
        root.mkdir()
        lay(inventory.root, self.files(inventory), root, writable=writable)
        return root

    def files(self, inventory: Inventory) -> Path:
        return self.trees / inventory.chain[7:] / FILES

    def is_untouched(self) -> bool:
        beside = sorted(path.name for path in self.trees.parent.iterdir() if not path.name.startswith("root-"))
        return (
            beside == ["blobs", "outside", "trees"]
            and [path.name for path in self.outside.iterdir()] == ["secret"]
            and (self.outside / "secret").read_text() == "of the node"
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


def shown(root: Path) -> dict[str, str]:
    """Paths, and what they are."""
    found = {}
    for at, directories, names in os.walk(root):
        for name in (*directories, *names):
            path = Path(at, name)
            kind = f"-> {path.readlink()}" if path.is_symlink() else "" if path.is_dir() else path.read_text()
            found[str(path.relative_to(root))] = kind
    return found


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_layers_come_out_as_a_container_s_root(place: Place, compression: str) -> None:
    lower = archive(
        [
            directory("./"),
            directory("./etc"),
            member("./etc/motd", b"hello"),
            member("app.wasm", WASM, mode=0o755),
            member("old", b"goes"),
            link("usr/bin/app", "/app.wasm"),
            hard_link("usr/bin/twin", "app.wasm"),
            member("big", b"x" * 300_000),
        ]
    )
    upper = archive([member("etc/motd", b"changed"), member(".wh.old"), link("lib", "usr/lib")])
    inventory = place.unpack(lower, upper, compress=COMPRESSIONS[compression])
    root = place.laid(inventory)
    assert shown(root) == {
        "app.wasm": WASM.decode(),
        "big": "x" * 300_000,
        "etc": "",
        "etc/motd": "changed",
        "lib": "-> usr/lib",
        "usr": "",
        "usr/bin": "",
        "usr/bin/app": "-> ../../app.wasm",
        "usr/bin/twin": WASM.decode(),
    }
    assert (root / "usr/bin/twin").samefile(root / "app.wasm")
    assert (root / "app.wasm").stat().st_mode & 0o777 == 0o777
    assert (root / "etc").stat().st_mode & 0o777 == 0o777
    assert (root / "etc/motd").stat().st_mtime == 1_700_000_000
    assert inventory.size_bytes == 300_000 + len("changed") + len(WASM)
    assert len(list(place.files(inventory).iterdir())) == inventory.files == 3
    assert inventory.root.entries["app.wasm"].digest == digest_of(WASM)  # type: ignore[union-attr]
    assert inventory.left_out == ()


def test_a_read_only_root_shares_files_and_a_writable_one_does_not(place: Place) -> None:
    inventory = place.unpack(files({"a": b"content", "d/b": b""}))
    shared, own = place.laid(inventory, writable=False), place.laid(inventory)
    assert (shared / "a").stat().st_nlink == 2
    assert (shared / "a").stat().st_mode & 0o222 == 0o200
    assert (shared / "d").stat().st_mode & 0o777 == 0o755
    (own / "a").write_text("mine")
    assert (shared / "a").read_text() == "content"
    assert place.laid(inventory).joinpath("a").read_text() == "content"


@pytest.mark.parametrize("harm", ["gone", "shorter", "touched", "a link"])
def test_a_damaged_tree_is_not_used(place: Place, harm: str) -> None:
    inventory = place.unpack(files({"a": b"content"}))
    path = place.files(inventory) / "0"
    if harm == "shorter":
        path.write_bytes(b"c")
    elif harm == "touched":
        path.write_bytes(b"CONTENT")
    else:
        path.unlink()
    if harm == "a link":
        path.symlink_to(place.outside / "secret")
    with pytest.raises((DamagedTreeError, OSError)):
        place.laid(inventory)


def test_what_wasi_has_not_is_left_out_and_told(place: Place) -> None:
    layer = archive(
        [
            member("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
            member("dev/sda", type=tarfile.BLKTYPE),
            member("pipe", type=tarfile.FIFOTYPE),
            member("caf\udce9", b"latin"),
            member("twice", b"1"),
            member("twice", b"2"),
            directory("dir"),
            directory("dir"),
        ]
    )
    inventory = place.unpack(layer)
    assert shown(place.laid(inventory)) == {"twice": "2", "dir": ""}
    notes = "\n".join(inventory.left_out)
    for text in ("dev/null (a device", "dev/sda (a device", "pipe (a pipe", "caf? (a name that is not UTF-8", "twice"):
        assert text in notes
    assert len(inventory.left_out) == 5


def test_extended_attributes_owners_and_set_user_bits_mean_nothing(place: Place) -> None:
    headers = {"SCHILY.xattr.security.capability": "\x01", "uname": "nobody"}
    inventory = place.unpack(archive([member("su", b"x", mode=0o6755, uid=0, pax_headers=headers)]))
    assert (place.laid(inventory) / "su").stat().st_mode & 0o7777 == 0o777


@pytest.mark.parametrize("mtime", [-5.0, 1e300, 1.5])
def test_odd_times_are_taken(place: Place, mtime: float) -> None:
    place.laid(place.unpack(archive([member("a", b"x", mtime=mtime, pax_headers={"mtime": str(mtime)})])))


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([member("../escape", b"x")], "climbs out of the root"),
        ([member("a/../../escape", b"x")], "climbs out of the root"),
        ([hard_link("a", "../outside/secret")], "climbs out"),
        ([hard_link("a", "/etc/hostname")], "hard link a to /etc/hostname: the image has no such file"),
        ([link("out", "/"), hard_link("a", "out/etc/hostname")], "the image has no such file"),
        ([link("a", "a"), member("a/b", b"x")], "no directory"),
        ([member("a", b"x"), member("a/b", b"x")], "below the file a"),
        ([member("n" * 300, b"x")], "name longer than 255"),
    ],
)
def test_layers_that_lead_elsewhere_are_refused(
    place: Place, members: list[tuple[tarfile.TarInfo, bytes]], text: str
) -> None:
    with pytest.raises(UserError, match=f"layer sha256:.* cannot be used: .*{text}"):
        place.unpack(archive(members))
    assert list(place.trees.iterdir()) == []
    assert place.is_untouched()


def test_links_to_the_outside_stay_inside(place: Place) -> None:
    layer = archive(
        [
            link("up", "../../../../outside"),
            member("up/secret", b"the image's own"),
            link("absolute", str(place.outside)),
            member("absolute/secret", b"this too"),
        ]
    )
    root = place.laid(place.unpack(layer))
    assert (root / "up/secret").read_text() == "the image's own"
    assert (root / "absolute/secret").read_text() == "this too"
    assert (root / "up").resolve().is_relative_to(root.resolve())
    assert (root / "absolute").resolve().is_relative_to(root.resolve())
    assert place.is_untouched()


def broken(harm: str) -> tuple[bytes, Bytes]:
    """An archive and what is done to it on its way to a blob."""
    good = files({"a": bytes(range(256)) * 400, "b": b"x" * 2000})
    third = len(good) // 3
    return {
        "truncated gzip": (good, lambda content: gzip.compress(content)[:-40]),
        "truncated zstd": (good, lambda content: COMPRESSIONS["+zstd"](content)[:-40]),
        "gzip with a wrong sum": (good, lambda content: gzip.compress(content)[:-8] + bytes(8)),
        "gzip and garbage": (good, lambda content: gzip.compress(content) + b"garbage"),
        "ends in a file": (good[:third], lambda content: content),
        "ends in a header": (good[: 512 + 102400 + 100], lambda content: content),
        "a broken header": (good[:102912] + b"\1" * 512 + good[103424:], lambda content: content),
        "no archive": (b"\x7fELF" * 400, lambda content: content),
        "nothing": (b"", lambda content: content),
    }[harm]


@pytest.mark.parametrize(
    "harm",
    [
        "truncated gzip", "truncated zstd", "gzip with a wrong sum", "gzip and garbage", "ends in a file",
        "ends in a header", "a broken header", "no archive", "nothing",
    ],
)  # fmt: skip
def test_what_is_no_whole_archive_is_refused(place: Place, harm: str) -> None:
    content, compress = broken(harm)
    with pytest.raises(UserError, match=r"no whole tar archive|the archive ends"):
        place.unpack(content, compress=compress)
    assert list(place.trees.iterdir()) == []


def test_another_archive_than_the_config_says_is_refused(place: Place) -> None:
    content = files({"a": b"x"})
    (place.blobs / "0").write_bytes(content)
    layer = LayerBlob(str(place.blobs / "0"), digest_of(content), digest_of(b"another"))
    with pytest.raises(UserError, match=f"unpacks to {digest_of(content)}, but .* says {digest_of(b'another')}"):
        unpack(Task(str(place.trees), digest_of(b"another"), (layer,)))


@pytest.mark.parametrize("content", [files({"a": b"x"}), b"broken"])
def test_a_blob_that_changed_in_the_store_is_called_damaged(place: Place, content: bytes) -> None:
    (place.blobs / "0").write_bytes(content)
    layer = LayerBlob(str(place.blobs / "0"), digest_of(b"as it was"), digest_of(content))
    with pytest.raises(RetryableError, match="damaged") as caught:
        unpack(Task(str(place.trees), digest_of(content), (layer,)))
    assert caught.value.reason == "DamagedBlob"


def test_bytes_after_the_archive_s_end_count(place: Place) -> None:
    inventory = place.unpack(files({"a": b"x"}) + bytes(20_000))
    assert shown(place.laid(inventory)) == {"a": "x"}


# --- bombs ------------------------------------------------------------------------------------------------------------


def test_a_layer_that_grows_too_much_is_refused_early(place: Place) -> None:
    bomb = archive([member("zeros", bytes(80 << 20))])
    with pytest.raises(UserError, match="more than 250 times its size"):
        place.unpack(bomb, compress=gzip.compress)
    with pytest.raises(UserError, match="more than 250 times its size"):
        place.unpack(bomb, compress=COMPRESSIONS["+zstd"])
    with pytest.raises(UserError, match="unpacks to more than 1000000 bytes"):
        place.unpack(files({"a": bytes(900_000)}), files({"b": bytes(900_000)}), content_bytes=1_000_000)
    assert list(place.trees.iterdir()) == []


def test_too_many_entries_are_refused(place: Place) -> None:
    with pytest.raises(UserError, match="more than 50 entries"):
        place.unpack(archive(directory(f"d{number}") for number in range(60)), members=50)


def test_a_size_that_only_the_header_has_is_refused(place: Place) -> None:
    info = tarfile.TarInfo("huge")
    info.size = 1 << 60
    with pytest.raises(UserError, match="unpacks to more than"):
        place.unpack(info.tobuf() + bytes(1024))


def test_a_header_that_would_fill_the_memory_is_refused(place: Place) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with pytest.raises(UserError, match="header in it is longer than 65536"):
        place.unpack(info.tobuf() + bytes(1 << 20))


def test_a_sparse_file_counts_with_its_holes(place: Place) -> None:
    headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 50), "GNU.sparse.numblocks": "1"}
    with pytest.raises(UserError, match="unpacks to more than"):
        place.unpack(archive([member("sparse", b"x", pax_headers=headers)]))
    small = {**headers, "GNU.sparse.size": "5000"}
    inventory = place.unpack(archive([member("sparse", b"x", pax_headers=small)]))
    assert (place.laid(inventory) / "sparse").read_bytes() == b"x" + bytes(4999)


# --- whatever comes ---------------------------------------------------------------------------------------------------

NAMES = st.lists(
    st.sampled_from(
        ["a", "b", "..", ".", "", "/", ".wh.a", ".wh..wh..opq", ".wh...", "outside", "secret", "é", "x" * 99]
    ),
    min_size=1,
    max_size=6,
).map("/".join)
TYPES = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    kind = draw(TYPES)
    content = draw(st.binary(max_size=20)) if kind == tarfile.REGTYPE else b""
    return member(draw(NAMES), content, type=kind, linkname=draw(NAMES), mode=draw(st.integers(0, 0o7777)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=st.lists(st.lists(members(), max_size=12), min_size=1, max_size=3), writable=st.booleans())
def test_nothing_is_ever_written_outside(
    tmp_path: Path, layers: list[list[tuple[tarfile.TarInfo, bytes]]], writable: bool
) -> None:
    place = Place(tmp_path / os.urandom(6).hex())
    archives = [archive(layer) for layer in layers]
    try:
        inventory = place.unpack(*archives)
    except UserError:
        assert list(place.trees.iterdir()) == []
    else:
        root = place.laid(inventory, writable=writable)
        for path in root.rglob("*"):
            assert path.is_symlink() or path.is_dir() or path.is_file()
            if path.is_symlink():
                assert not path.readlink().is_absolute()
        tree = FileSystem(inventory.root)
        assert {path for path, _ in tree.files()} == {
            f"/{path.relative_to(root)}" for path in root.rglob("*") if path.is_file() and not path.is_symlink()
        }
    assert place.is_untouched()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), compression=st.sampled_from(sorted(COMPRESSIONS)))
def test_any_damage_is_an_error_that_wasmlet_knows(tmp_path: Path, data: st.DataObject, compression: str) -> None:
    place = Place(tmp_path / os.urandom(6).hex())
    content = bytearray(COMPRESSIONS[compression](files({"a": b"hello" * 50, "b/c": b"world"})))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    blob = bytes(content[: data.draw(st.integers(0, len(content)))])
    (place.blobs / "0").write_bytes(blob)
    layer = LayerBlob(str(place.blobs / "0"), digest_of(blob), digest_of(blob))
    try:
        unpack(Task(str(place.trees), digest_of(blob), (layer,)))
    except (UserError, RetryableError):
        assert list(place.trees.iterdir()) == []
    assert place.is_untouched()


# --- the helper's end -------------------------------------------------------------------------------------------------


def test_what_a_killed_helper_left_is_swept_and_what_a_living_one_makes_is_not(place: Place) -> None:
    (place.trees / ".new-dead" / "files").mkdir(parents=True)
    living = place.trees / ".new-living"
    living.mkdir()
    descriptor = os.open(living, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    sweep(place.trees)
    assert [path.name for path in place.trees.iterdir()] == [".new-living"]
    os.close(descriptor)
    sweep(place.trees)
    assert list(place.trees.iterdir()) == []


def test_of_two_helpers_at_once_the_first_one_s_tree_stays(place: Place) -> None:
    content = files({"a": b"x"})
    inventory = place.unpack(content)
    before = place.files(inventory).stat().st_ino
    assert place.unpack(content) == inventory
    assert place.files(inventory).stat().st_ino == before
    assert [path.name for path in place.trees.iterdir()] == [inventory.chain[7:]]
