"""The end of a machine: who goes when, and what is left behind."""

import asyncio
from typing import Any

import pytest

from tests.unit.node import virtual
from tests.unit.node.samples import settings
from wasmlet.node.shutdown import GracefulShutdown, Group, ShutdownPod, Step, groups, is_machine_stopping, plan

CRITICAL = 2_000_000_000
BOTH: dict[str, Any] = {"shutdown_grace_seconds": 30.0, "shutdown_critical_seconds": 10.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        (BOTH, (Group(priority=0, seconds=20.0), Group(priority=CRITICAL, seconds=10.0))),
        (
            {"shutdown_grace_by_priority": ((100, 5.0), (0, 9.0))},
            (Group(priority=0, seconds=9.0), Group(priority=100, seconds=5.0)),
        ),
    ],
)
def test_groups(changes: dict[str, Any], expected: tuple[Group, ...]) -> None:
    assert groups(settings(**changes)) == expected


def pod(uid: str, priority: int = 0, grace_seconds: float | None = None) -> ShutdownPod:
    return ShutdownPod(uid=uid, priority=priority, grace_seconds=grace_seconds)


def test_the_lowest_go_first_each_with_the_shorter_grace() -> None:
    among = (Group(priority=0, seconds=20.0), Group(priority=100, seconds=5.0), Group(priority=CRITICAL, seconds=10.0))
    pods = [pod("below", -5, 3), pod("plain"), pod("edge", 100, 60), pod("between", 99, 60), pod("top", CRITICAL + 5)]
    assert plan(pods, among) == [
        Step(seconds=20.0, pods=(("below", 3.0), ("plain", 20.0), ("between", 20.0))),
        Step(seconds=5.0, pods=(("edge", 5.0),)),
        Step(seconds=10.0, pods=(("top", 10.0),)),
    ]


def test_a_group_without_pods_takes_no_time() -> None:
    assert plan([pod("top", CRITICAL)], groups(settings(**BOTH))) == [Step(seconds=10.0, pods=(("top", 10.0),))]
    assert plan([], groups(settings(**BOTH))) == []
    assert plan([pod("a")], ()) == []


def test_each_group_has_its_time_and_no_more() -> None:
    ended: list[tuple[str, float]] = []

    async def story() -> float:
        loop = asyncio.get_running_loop()

        async def terminate(uid: str, grace_seconds: float) -> None:
            await asyncio.sleep({"quick": 1.0, "stuck": 1000.0, "critical": 2.0}[uid])
            ended.append((uid, loop.time()))

        pods = [pod("critical", CRITICAL), pod("quick"), pod("stuck")]
        ending = GracefulShutdown(settings(**BOTH), pods=lambda: pods, terminate=terminate)
        assert ending.is_enabled
        assert not ending.is_active
        await ending.run()
        assert ending.is_active
        return loop.time()

    assert virtual.run(story()) == pytest.approx(22.0)
    assert ended == [("quick", 1.0), ("critical", 22.0)]


def test_a_pod_that_cannot_be_ended_keeps_nobody() -> None:
    async def terminate(uid: str, grace_seconds: float) -> None:
        raise OSError(uid)

    async def story() -> float:
        pods = [pod("a"), pod("b")]
        await GracefulShutdown(settings(**BOTH), pods=lambda: pods, terminate=terminate).run()
        return asyncio.get_running_loop().time()

    assert virtual.run(story()) == 0.0


def test_off_by_default() -> None:
    async def terminate(uid: str, grace_seconds: float) -> None:
        raise AssertionError

    ending = GracefulShutdown(settings(), pods=lambda: [pod("a")], terminate=terminate)
    assert not ending.is_enabled
    virtual.run(ending.run())


@pytest.mark.parametrize(("answer", "expected"), [("stopping", True), ("running", False)])
async def test_systemd_is_asked(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, answer: str, expected: bool) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\necho {answer}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert await is_machine_stopping() is expected
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert await is_machine_stopping() is False
