"""Pairs on disk: never half of one, never somebody else's to read."""

import stat
from pathlib import Path

import pytest

from wasmlet.base.errors import UserError
from wasmlet.node.store import Store


def test_the_link_moves_to_the_newest_pair_and_old_ones_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "pki", "wasmlet-client")
    assert store.load() is None
    for number in range(4):
        path = store.save(b"certificate %d\n" % number, b"key\n", now=1e9 + number)
        assert path == store.current
        assert path.is_symlink()
        assert store.load() == b"certificate %d\nkey\n" % number
    assert len(list((tmp_path / "pki").iterdir())) == 3
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "pki").glob("*-2*.pem")} == {0o600}


def test_two_purposes_share_a_directory(tmp_path: Path) -> None:
    client, server = Store(tmp_path, "wasmlet-client"), Store(tmp_path, "wasmlet-server")
    client.save(b"c\n", b"k\n", now=1.0)
    for number in range(3):
        server.save(b"s\n", b"k\n", now=float(number))
    assert client.load() == b"c\nk\n"


def test_a_key_is_awaited_until_its_pair_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path, "x")
    assert store.awaited_key(b"first") == b"first"
    assert Store(tmp_path, "x").awaited_key(b"second") == b"first"
    store.save(b"stands in", b"other key", now=1.0, is_awaiting=True)
    assert store.awaited_key(b"second") == b"first"
    store.save(b"certificate", b"first", now=2.0)
    assert store.awaited_key(b"second") == b"second"
    store.forget_key()
    store.forget_key()
    assert store.awaited_key(b"third") == b"third"


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot keep certificates"):
        Store(tmp_path / "file", "x").save(b"", b"", now=0.0)
