"""What somebody reads who waits for a cluster, on a virtual clock."""

import logging
from typing import cast

import pytest

from tests.unit.node import virtual
from wasmlet.base.errors import RetryableError
from wasmlet.kube.client import Client
from wasmlet.kube.errors import UnauthorizedError, UnreachableError
from wasmlet.node.waiting import until_answered


class Server:
    """Raises its answers one after the other, the last one again and again."""

    def __init__(self, *answers: RetryableError | str) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def ask(self) -> str:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            return answer
        raise answer


class Seen:
    """A client that has told of an outage, or of none."""

    def __init__(self, *, is_away: bool) -> None:
        self.is_away = is_away

    def level(self, usual: int) -> int:
        return logging.DEBUG if self.is_away else usual


def wait(server: Server, *, is_away: bool) -> str:
    client = cast("Client", Seen(is_away=is_away))
    return virtual.run(until_answered(server.ask, client, server="the server", seconds=100, retry_seconds=5))


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="wasmlet.node.waiting")
    return caplog


def lines(told: pytest.LogCaptureFixture) -> list[tuple[str, str, int]]:
    return [(each.levelname, each.getMessage(), vars(each)["left_seconds"]) for each in told.records]


def test_a_server_that_is_away_is_told_each_half_minute_until_it_is_given_up(told: pytest.LogCaptureFixture) -> None:
    server = Server(UnreachableError("connection refused", hint="a hint"))
    with pytest.raises(UnreachableError, match=r"^connection refused \(tried for 100 s\); a hint$"):
        wait(server, is_away=True)
    assert lines(told) == [
        ("INFO", "waiting for the cluster", 100),
        ("INFO", "waiting for the cluster: connection refused; a hint", 70),
        ("INFO", "waiting for the cluster: connection refused; a hint", 40),
        ("INFO", "waiting for the cluster: connection refused; a hint", 10),
    ]
    assert server.asked == 20
    assert vars(told.records[0])["retry_seconds"] == 5


def test_what_a_server_that_is_there_says_is_a_warning_when_it_is_new(told: pytest.LogCaptureFixture) -> None:
    starting, unknown = RetryableError("status 500"), UnauthorizedError("not known")
    assert wait(Server(starting, starting, unknown, "here"), is_away=False) == "here"
    assert lines(told) == [
        ("WARNING", "waiting for the cluster: status 500", 100),
        ("WARNING", "waiting for the cluster: not known", 90),
    ]


def test_reasons_that_change_while_nobody_answers_are_not_told_one_by_one(told: pytest.LogCaptureFixture) -> None:
    refused, lost = UnreachableError("refused"), UnreachableError("no such name")
    assert wait(Server(refused, lost, refused, lost, "here"), is_away=True) == "here"
    assert lines(told) == [("INFO", "waiting for the cluster", 100)]


def test_an_answer_at_once_says_nothing(told: pytest.LogCaptureFixture) -> None:
    assert wait(Server("here"), is_away=False) == "here"
    assert lines(told) == []
