"""Facts on disk."""

from pathlib import Path

import pytest

from wasmlet.pods import facts
from wasmlet.pods.facts import (
    Attempt,
    Deletion,
    Facts,
    Failure,
    Stopping,
    Unhealthy,
    Verdict,
    sandbox_id,
)


def whole() -> Facts:
    made = Facts(
        uid="u", seen_at=1.5, pod_ips=["127.0.0.1"], admitted_at=2.0, volumes_at=3.0, restart_all_at=4.0, ended_at=5.0,
        deletion=Deletion(at=1.0, grace_seconds=2.0, remove=False),
        verdict=Verdict(phase="Failed", reason="r", message="m", at=1.0),
    )  # fmt: skip
    own = made.container("c")
    own.failure = Failure(
        stage="image", shown="ErrImagePull", message="m", cause="c", fault="user", at=1, count=2, retry_at=3
    )
    own.attempts.append(
        Attempt(
            number=3, id="i", engine="e", created_at=1, started_at=2, finished_at=3, exit_code=137, message="\0ü",
            stopping=Stopping(at=1, grace_seconds=2, reason="deleted"), unhealthy=Unhealthy(probe="liveness", at=1),
        )
    )  # fmt: skip
    return made


def test_facts_go_round(tmp_path: Path) -> None:
    facts.save(tmp_path, whole())
    assert facts.load(tmp_path) == whole()
    assert (tmp_path / facts.FILE_NAME).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"uid": 3}', b"\xff", b'{"uid":"u"}'])
def test_what_cannot_be_read_counts_as_absent(tmp_path: Path, content: bytes) -> None:
    (tmp_path / facts.FILE_NAME).write_bytes(content)
    assert facts.load(tmp_path) is None


def test_absence(tmp_path: Path) -> None:
    assert facts.load(tmp_path) is None


def test_facts_of_a_later_release_are_read(tmp_path: Path) -> None:
    (tmp_path / facts.FILE_NAME).write_bytes(b'{"uid":"u","seenAt":1,"ofTheFuture":{}}')
    assert facts.load(tmp_path) == Facts(uid="u", seen_at=1)


def test_two_facts_share_nothing() -> None:
    one, two = Facts(uid="a", seen_at=1), Facts(uid="b", seen_at=1)
    one.container("c").attempts.append(Attempt(number=0, id="i", engine="e", created_at=1))
    assert two.containers == {}
    assert two.container("c").attempts == []


def test_ids_are_known_before_and_differ() -> None:
    ids = {sandbox_id(uid, name, number) for uid in ("a", "b") for name in ("a", "b") for number in (0, 1)}
    assert len(ids) == 8
    assert sandbox_id("u", "c", 0) == sandbox_id("u", "c", 0)
    assert all(len(each) == 40 and each.isalnum() and each.islower() for each in ids)
