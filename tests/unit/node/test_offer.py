"""What the own Node offers to pods."""

import asyncio
from pathlib import Path

import pytest

from tests.support.fake_api import FakeApi, status, times
from wasmlet.base.errors import WasmletError
from wasmlet.kube.client import Client
from wasmlet.kube.types import ObjectMeta
from wasmlet.node.objects import NodeCondition, NodeObject, NodeSpec, NodeStatus, NodeSystemInfo, Taint
from wasmlet.node.offer import Offer, facts_of
from wasmlet.node.settings import Settings
from wasmlet.pods import admission

NODE = NodeObject(
    metadata=ObjectMeta(name="n1", labels={"a": "b"}),
    spec=NodeSpec(taints=[Taint(key="k", value="v", effect="NoExecute")]),
    status=NodeStatus(
        allocatable={"cpu": "2", "pods": "5"},
        conditions=[
            NodeCondition(type="Ready", status="True"),
            NodeCondition(type="MemoryPressure", status="Unknown"),
            NodeCondition(type="DiskPressure", status="True"),
        ],
        node_info=NodeSystemInfo(operating_system="linux"),
        declared_features=["F"],
    ),
)


def settings(directory: Path) -> Settings:
    return Settings(name="n1", directory=directory, pki_directory=directory)


def test_the_node_as_admission_sees_it() -> None:
    found = facts_of(NODE, shares_address=True)
    assert (found.name, found.labels, found.allocatable) == ("n1", {"a": "b"}, {"cpu": "2", "pods": "5"})
    assert found.taints == [admission.Taint("k", "v", "NoExecute")]
    assert found.pressures == ["DiskPressure"]
    assert (found.operating_system, found.declared_features, found.shares_address) == ("linux", ["F"], True)
    assert found.has_supplemental_groups_policy is False


async def test_facts_are_waited_for(client: Client, tmp_path: Path) -> None:
    offer = Offer(client, settings(tmp_path), shares_address=False)
    async with asyncio.TaskGroup() as group:
        early = group.create_task(offer.facts())
        await asyncio.sleep(0)
        assert not early.done()
        assert set(offer.allocatable()) == {"cpu", "memory", "ephemeral-storage", "pods"}, "what the Node will say"
        offer.begin(lambda: NODE)
    assert early.result().name == "n1"
    assert offer.allocatable() == {"cpu": "2", "pods": "5"}


async def test_a_live_look_sees_what_the_watch_has_not_told(api: FakeApi, client: Client, tmp_path: Path) -> None:
    await api.put("nodes", {"metadata": {"name": "n1", "labels": {"new": "yes"}}})
    offer = Offer(client, settings(tmp_path), shares_address=False)
    offer.begin(lambda: NODE)
    assert (await offer.facts()).labels == {"a": "b"}
    assert (await offer.facts(live=True)).labels == {"new": "yes"}
    api.behaviours.append(times(99, lambda: status(403, "Forbidden", "no")))
    assert (await offer.facts(live=True)).labels == {"a": "b"}, "what is known decides"


async def test_without_any_node_the_failure_is_told(api: FakeApi, client: Client, tmp_path: Path) -> None:
    offer = Offer(client, settings(tmp_path), shares_address=False)
    offer.begin(lambda: None)
    api.behaviours.append(times(99, lambda: status(403, "Forbidden", "no")))
    with pytest.raises(WasmletError, match="no"):
        await offer.facts()
