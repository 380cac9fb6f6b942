"""Mode `podcidr`: when pods get addresses, and what is said while they do not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.networks import Lab, ask, laboratory, listening, needs_root, run
from tests.support.waiting import eventually
from wasmlet.base.errors import RetryableError
from wasmlet.sandbox import pod_cidr
from wasmlet.sandbox.namespace import Namespace
from wasmlet.sandbox.pod_cidr import NO_RANGE, PodCidr

pytestmark = needs_root


@pytest.fixture
def lab(state_directory: Path) -> Iterator[Lab]:
    with laboratory(state_directory) as made:
        yield made


class Elsewhere(Namespace):
    """Does its work on the lab's machine instead of the test's own."""

    def __init__(self, lab: Lab, state: Path) -> None:
        super().__init__(state, node="node")
        self.lab = lab
        self.made = 0

    def make(self, ranges, *, strays=()):  # type: ignore[no-untyped-def]  # as Namespace
        self.made += 1
        self.lab.node.do(lambda: Namespace.make(self, ranges, strays=strays))


@contextlib.asynccontextmanager
async def running(mode: PodCidr) -> AsyncIterator[None]:
    task = asyncio.get_running_loop().create_task(mode.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def claimed(mode: PodCidr, uid: str) -> tuple[str, ...] | None:
    with contextlib.suppress(RetryableError):
        return mode.claim(uid)
    return None


async def test_pods_wait_for_the_range_and_get_addresses_of_it(lab: Lab, state_directory: Path) -> None:
    mode = PodCidr(Elsewhere(lab, state_directory))
    told: list[object] = []
    mode.on_change = lambda: told.append(mode.problem)
    async with running(mode):
        with pytest.raises(RetryableError, match="network is not ready: the Node has no podCIDR") as caught:
            mode.claim("a")
        assert caught.value.reason == "NetworkNotReady"
        mode.offer(["10.77.0.0/24", "fd77::/64"])
        await eventually(lambda: mode.problem is None, mode)
        assert mode.claim("a") == ("10.77.0.2", "fd77::2")
        mode.offer([])
        await eventually(lambda: mode.problem is NO_RANGE, mode)
        assert claimed(mode, "b") is None
    assert told == [None, NO_RANGE]
    with listening(Path(mode.namespace), "10.77.0.2", 80):  # it goes on without the agent
        assert ask(lab.node.path, "10.77.0.2", 80) == "172.30.0.1"


async def test_the_next_agent_knows_what_is_held_and_another_range_adds_pods(lab: Lab, state_directory: Path) -> None:
    first = PodCidr(Elsewhere(lab, state_directory))
    first.offer(["10.77.0.0/24"])
    async with running(first):
        await eventually(lambda: first.problem is None, first)
        assert first.claim("a") == ("10.77.0.2",)
    second = PodCidr(Elsewhere(lab, state_directory), host_ips=["172.30.0.1"])
    second.adopt("a", ["10.77.0.2"])
    second.adopt("of mode host", ["172.30.0.1"])
    run("ip", "netns", "delete", Path(second.namespace).name)  # as a reboot does
    await second.restore()
    assert second.problem is None  # the Node's condition does not flap while the API server is not heard
    assert second.claim("b") == ("10.77.0.3",)
    with listening(Path(second.namespace), "10.77.0.2", 80):
        assert ask(lab.node.path, "10.77.0.2", 80) == "172.30.0.1"
    second.release("b")
    second.offer(["10.78.0.0/24"])
    assert claimed(second, "b") is None
    async with running(second):
        await eventually(lambda: second.problem is None, second)
        assert (second.claim("a"), second.claim("b")) == (("10.77.0.2",), ("10.78.0.2",))
        with listening(Path(second.namespace), "10.77.0.2", 80):
            assert ask(lab.node.path, "10.77.0.2", 80) == "172.30.0.1"
    assert "172.30.0.1" not in run("ip", "-n", Path(second.namespace).name, "route", "show", "table", "local")


async def test_a_failure_is_told_tried_again_and_over(
    lab: Lab, state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_cidr, "RETRY_SECONDS", 0.05)
    lab.node.ip("route", "add", "10.77.0.0/24", "via", "172.30.0.2")
    mode = PodCidr(Elsewhere(lab, state_directory))
    mode.offer(["10.77.0.0/24"])
    async with running(mode):
        await eventually(lambda: mode.problem is not None and mode.problem.reason == "PodCIDRInUse", mode)
        assert mode.problem is not None
        assert "--network host" in mode.problem.message
        assert claimed(mode, "a") is None
        lab.node.ip("route", "delete", "10.77.0.0/24")
        await eventually(lambda: claimed(mode, "a") == ("10.77.0.2",), mode)


async def test_what_was_made_is_looked_at_now_and_then(
    lab: Lab, state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_cidr, "CHECK_SECONDS", 0.05)
    mode = PodCidr(Elsewhere(lab, state_directory))
    mode.offer(["10.77.0.0/24"])
    async with running(mode):
        await eventually(lambda: mode.problem is None, mode)
        lab.node.ip("route", "delete", "10.77.0.0/24")
        await eventually(lambda: "10.77.0.0/24" in lab.node.ip("route", "show"), mode)


@pytest.mark.parametrize("cidr", ["nonsense", "10.0.0.0/31", "10.0.0.1/24"])
async def test_a_range_of_no_use_is_a_problem_with_its_name(state_directory: Path, cidr: str) -> None:
    mode = PodCidr(Namespace(state_directory, node="node"))
    mode.offer([cidr])
    async with running(mode):
        await eventually(lambda: mode.problem is not None and cidr in mode.problem.message, mode)
    assert mode.problem is not None
    assert mode.problem.reason == "NoPodNetwork"
