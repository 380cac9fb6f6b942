"""The range of users that pools of engines have, and where it cannot be."""

import os
from pathlib import Path

import pytest

from tests.support.disks import passable_directory
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.sandbox import users
from wasmlet.sandbox.users import DEFAULT, Range

ALL = "0 0 4294967295\n"
EVERY_CAPABILITY = "CapEff:\t000001ffffffffff\n"


def test_ranges_are_read() -> None:
    assert users.parse("") == DEFAULT
    assert users.parse("none") is None
    assert users.parse("5:2") == Range(5, 2)
    assert str(DEFAULT) == "1880000000:65536"
    assert users.parse(str(DEFAULT)) == DEFAULT


@pytest.mark.parametrize(
    "text", ["5", "5:", ":5", "0:5", "5:0", "-1:5", "5:-1", "a:b", "2147483647:2", "1:2:3", " 1:2"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="uid-range"):
        users.parse(text)


def test_numbers_are_given_once_and_rest_after_that() -> None:
    small = Range(10, 3)
    assert [10 in small, 12 in small, 13 in small, 9 in small] == [True, True, False, False]
    assert small.free(set(), after=0) == 10
    assert small.free({11}, after=10) == 12
    assert small.free({12}, after=12) == 10
    assert small.free({10, 12}, after=11) == 11
    with pytest.raises(RetryableError, match="all 3 users of 10:3 are given"):
        small.free({10, 11, 12}, after=11)


def process(directory: Path, *, uids: str = ALL, gids: str = ALL, status: str = EVERY_CAPABILITY) -> Path:
    """What /proc says of an agent."""
    (directory / "uid_map").write_text(uids)
    (directory / "gid_map").write_text(gids)
    (directory / "status").write_text(f"Name:\tx\n{status}")
    return directory


@pytest.mark.skipif(os.geteuid() != 0, reason="others have no users to give")
def test_what_is_in_the_way_is_told(tmp_path: Path) -> None:
    with passable_directory() as state:
        assert users.problem(DEFAULT, state, process=process(tmp_path)) == ""
        assert list(state.iterdir()) == []
        rootless = process(tmp_path, uids="0 1000 1\n1 100000 65536\n")
        assert "user namespace does not have 1880000000:65536 (uid_map)" in users.problem(
            DEFAULT, state, process=rootless
        )
        without = process(tmp_path, status="CapEff:\t0000000000000403\n")
        assert users.problem(DEFAULT, state, process=without) == "the agent lacks CAP_FOWNER, CAP_SETGID, CAP_SETUID"
        (state / "closed" / "state").mkdir(parents=True)
        (state / "closed").chmod(0o700)
        problem = users.problem(DEFAULT, state / "closed" / "state", process=process(tmp_path))
        assert problem == f"{state}/closed, above the state directory, is closed to other users"
    gone = users.problem(DEFAULT, state, process=process(tmp_path))
    assert gone == f"{state} cannot hold files of other groups: No such file or directory"


def test_an_ordinary_user_s_agent_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert users.problem(DEFAULT, tmp_path) == "the agent is not root"
