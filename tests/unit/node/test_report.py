"""Cadence and content of status reports, hours of them."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from tests.unit.node import virtual
from tests.unit.node.samples import amounts, settings
from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.node import addresses, machine
from wasmlet.node.machine import Amounts
from wasmlet.node.objects import NODES, NodeCondition, NodeObject, NodeStatus
from wasmlet.node.own import OwnNode
from wasmlet.node.registration import initial_node
from wasmlet.node.report import Reporter, Sources
from wasmlet.node.status import Image


class World:
    """A node that is registered, and what a test changes about it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api = virtual.Api()
        self.problems: Sequence[str] = ()
        self.images: Sequence[Image] = ()
        self.amounts = amounts()
        self.found: list[tuple[str, ...]] = []
        self.address: Callable[[], str] = lambda: "192.0.2.7"
        self.events: list[str] = []
        monkeypatch.setattr(machine, "amounts", lambda _: self.amounts)
        monkeypatch.setattr(addresses, "find", self._find)

    async def _find(self, **_: Any) -> tuple[str, ...]:
        return (self.address(),)

    async def _images(self) -> Sequence[Image]:
        return self.images

    def reporter(self, **changes: Any) -> Reporter:
        chosen = settings(**changes)

        async def register() -> NodeObject:
            raise AssertionError

        own = OwnNode(self.api.client, "n", register=register)
        own.offer(self.api.put(NODES, initial_node(chosen, NodeStatus())))
        return Reporter(
            self.api.client, chosen, Sources(problems=lambda: self.problems, images=self._images), own,
            record=lambda event: self.events.append(event.reason), on_addresses=self.found.append, now=virtual.now,
        )  # fmt: skip

    def run(self, seconds: float, *also: Callable[[Reporter], Awaitable[None]], **changes: Any) -> list[float]:
        """Report for so long; the times of the patches."""

        async def story() -> None:
            reporter = self.reporter(**changes)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(reporter.run())
                for each in also:
                    await each(reporter)
                await asyncio.sleep(seconds - asyncio.get_running_loop().time())
                task.cancel()

        virtual.run(story())
        return self.api.times("patch")

    @property
    def node(self) -> NodeObject:
        found: NodeObject = self.api.objects["nodes", "n"]
        return found


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_nothing_new_is_sent_each_five_minutes(world: World) -> None:
    at = world.run(3600)
    waits = [after - before for before, after in itertools.pairwise(at)]
    assert 150 <= waits[0] <= 461  # after a change it is moved by up to a half
    assert all(300 <= each <= 311 for each in waits[1:])
    assert set(world.api.calls[-1].body["status"]) == {"conditions"}
    ready = world.node.condition("Ready")
    assert ready is not None
    assert ready.status == "True"


def test_a_change_is_sent_within_ten_seconds(world: World) -> None:
    async def later(_: Reporter) -> None:
        await asyncio.sleep(100)
        world.images = (Image(("a@sha256:1",), 5),)

    at = world.run(150, later)
    assert len(at) == 2
    assert 100 <= at[1] <= 110.4
    assert [each.names for each in world.node.status.images] == [["a@sha256:1"]]


def test_the_first_ready_is_sent_at_once(world: World) -> None:
    world.problems = ("the pods were never listed",)

    async def later(_: Reporter) -> None:
        await asyncio.sleep(3.02)
        world.problems = ()

    at = world.run(30, later)
    assert at == pytest.approx([0.0, 3.1], abs=0.001)
    assert world.events == ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"]


def test_what_is_solved_while_a_status_is_sent_is_in_the_next(world: World) -> None:
    world.problems = ("the pods were never listed",)

    def solve(_: virtual.Call) -> None:
        world.problems = ()

    world.api.failures = solve
    assert world.run(30) == pytest.approx([0.0, 0.0], abs=0.001)
    ready = world.node.condition("Ready")
    assert ready is not None
    assert ready.status == "True"


def test_it_hurries_for_two_minutes_only(world: World) -> None:
    world.problems = ("x",)

    async def later(_: Reporter) -> None:
        await asyncio.sleep(200.001)
        world.problems = ()

    at = world.run(215, later)
    assert 200.1 < at[-1] <= 210.5


def test_whoever_wakes_it_is_heard_at_once(world: World) -> None:
    async def later(reporter: Reporter) -> None:
        await asyncio.sleep(50)
        reporter.local_problems = ("node is shutting down",)
        reporter.wake()

    assert world.run(55, later)[-1] == pytest.approx(50.0)
    ready = world.node.condition("Ready")
    assert ready is not None
    assert (ready.status, ready.reason, ready.message) == ("False", "KubeletNotReady", "node is shutting down")
    assert world.events[-1] == "NodeNotReady"


def test_a_failed_report_asks_what_is_there_and_events_come_once(world: World) -> None:
    world.api.failures = lambda call: RetryableError("away") if call.verb == "patch" and call.at < 25 else None
    at = world.run(45)
    assert len([each for each in at if each < 25]) == 15
    assert len([each for each in at if each > 25]) == 1
    assert len(world.api.times("get")) >= 12
    assert world.events.count("NodeHasSufficientMemory") == 1


def test_what_the_server_drops_is_not_sent_again_and_again(world: World) -> None:
    put = world.api.put

    def dropping(resource: Any, item: Any) -> Any:
        item.status.declared_features = []
        return put(resource, item)

    world.api.put = dropping  # type: ignore[method-assign]
    assert len(world.run(140, declared_features=("New",))) == 1


def test_labels_are_put_back(world: World) -> None:
    async def later(reporter: Reporter) -> None:
        await asyncio.sleep(5)
        changed = world.node
        changed.metadata.labels = {"kubernetes.io/os": "linux", "example.com/a": "b"}
        reporter._own.offer(world.api.put(NODES, changed))

    world.run(25, later)
    assert world.node.metadata.labels["kubernetes.io/os"] == "wasi"
    assert world.node.metadata.labels["example.com/a"] == "b"


def test_addresses_are_looked_for_each_minute_and_kept_while_they_are_away(world: World) -> None:
    def address() -> str:
        if asyncio.get_running_loop().time() > 100:
            raise UserError("node IP 192.0.2.7 is on no interface of this machine")
        return "192.0.2.7"

    world.address = address
    world.run(150)
    assert set(world.found) == {("192.0.2.7",)}
    assert [each.address for each in world.node.status.addresses] == ["192.0.2.7", "n"]
    ready = world.node.condition("Ready")
    assert ready is not None
    assert "on no interface" in ready.message


def test_a_pressure_becomes_a_condition_and_stays_for_five_minutes(world: World) -> None:
    async def later(_: Reporter) -> None:
        await asyncio.sleep(100)
        world.amounts = amounts(memory_available=1)
        await asyncio.sleep(20)
        world.amounts = amounts()
        await asyncio.sleep(270)
        pressure = world.node.condition("MemoryPressure")
        assert pressure is not None
        assert pressure.status == "True"

    world.run(450, later)
    pressure = world.node.condition("MemoryPressure")
    assert pressure is not None
    assert pressure.status == "False"
    assert "NodeHasInsufficientMemory" in world.events


def test_a_machine_that_cannot_be_read_any_more_is_a_reason_against_ready(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = "the state directory /s cannot be used: No such file or directory"

    def unreadable(_: object) -> Amounts:
        raise WasmletError(lost)

    async def story(reporter: Reporter) -> None:
        await asyncio.sleep(1)
        monkeypatch.setattr(machine, "amounts", unreadable)
        world.problems = (lost,)
        await asyncio.sleep(20)
        ready = ready_of(world)
        assert (ready.status, ready.message) == ("False", lost)
        monkeypatch.setattr(machine, "amounts", lambda _: amounts())
        world.problems = ()
        await asyncio.sleep(20)
        assert ready_of(world).status == "True"

    world.run(60, story)


def ready_of(world: World) -> NodeCondition:
    node: NodeObject = world.api.objects["nodes", "n"]
    (found,) = [each for each in node.status.conditions if each.type == "Ready"]
    return found


def test_a_node_that_is_gone_is_the_watchs_to_make_again(world: World) -> None:
    async def later(_: Reporter) -> None:
        await asyncio.sleep(5)
        world.api.objects.clear()

    world.run(700, later)
    assert world.api.times("create") == []
