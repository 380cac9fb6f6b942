"""The status: what it says, and what of it is sent."""

from typing import Any

import msgspec
import pytest

from tests.unit.node.samples import GIB, IDENTITY, amounts, settings
from wasmlet import __version__
from wasmlet.node.objects import NodeCondition, NodeStatus, NodeSwap, RuntimeHandler
from wasmlet.node.settings import Settings
from wasmlet.node.status import (
    Image,
    Knowledge,
    advertised_version,
    capacity_and_allocatable,
    changes,
    patch_body,
    render,
)

READY = [NodeCondition(type="Ready", status="True", last_heartbeat_time="t1", last_transition_time="t0")]


def status(chosen: Settings | None = None, **changed: Any) -> NodeStatus:
    values: dict[str, Any] = {
        "identity": IDENTITY, "amounts": amounts(), "addresses": ("192.0.2.7",), "conditions": READY,
        "kubelet_version": "v1.36.3",
    }  # fmt: skip
    return render(Knowledge(**(values | changed)), chosen or settings())


def wire(found: NodeStatus) -> Any:
    return msgspec.json.decode(msgspec.json.encode(found))


def test_a_status_on_the_wire() -> None:
    found = wire(status())
    assert found["addresses"] == [
        {"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "n"},
    ]  # fmt: skip
    assert found["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}
    assert found["nodeInfo"] == {
        "machineID": "m", "systemUUID": "s", "bootID": "b", "kernelVersion": "6.1", "osImage": "Debian",
        "containerRuntimeVersion": f"wasmlet://{__version__}", "kubeletVersion": "v1.36.3",
        "operatingSystem": "linux", "architecture": "wasm-wasi",
    }  # fmt: skip
    assert found["features"] == {"supplementalGroupsPolicy": False}
    assert found["runtimeHandlers"] == [
        {"features": {"recursiveReadOnlyMounts": True}},
        {"name": "wasmlet", "features": {"recursiveReadOnlyMounts": True}},
        {"name": "wasmlet-isolated", "features": {"recursiveReadOnlyMounts": True}},
    ]
    assert found["declaredFeatures"] == ["RestartAllContainersOnContainerExits"]


def test_capacity_is_what_there_is_and_allocatable_what_is_left() -> None:
    capacity, allocatable = capacity_and_allocatable(amounts(), settings())
    assert capacity == {
        "cpu": "4", "memory": f"{8 << 20}Ki", "ephemeral-storage": f"{100 << 20}Ki", "pods": "110",
    }  # fmt: skip
    assert allocatable == {
        "cpu": "4", "memory": f"{(8 << 20) - (100 << 10)}Ki", "ephemeral-storage": str(90 * GIB), "pods": "110",
    }  # fmt: skip


def test_reserved_is_taken_away_down_to_nothing() -> None:
    chosen = settings(reserved={"cpu": "1500m", "memory": "1Ti", "ephemeral-storage": "10Gi"}, max_pods=5)
    _, allocatable = capacity_and_allocatable(amounts(), chosen)
    assert allocatable == {"cpu": "2500m", "memory": "0Ki", "ephemeral-storage": str(80 * GIB), "pods": "5"}


def test_images_are_the_largest_and_named_by_digest_first() -> None:
    images = [Image((f"r/{number}:tag",), number) for number in range(60)]
    images.append(Image(("r/x:1", "r/x:2", "r/x:3", "r/x:4", "r/x:5", "r/x@sha256:aa"), 1000))
    found = status(images=images).images
    assert len(found) == 50
    assert found[0].names == ["r/x@sha256:aa", "r/x:1", "r/x:2", "r/x:3", "r/x:4"]
    assert found[1].size_bytes == 59
    assert len(status(settings(max_images=-1), images=images).images) == 61


def test_heartbeats_are_no_change() -> None:
    before = status()
    later = [msgspec.structs.replace(READY[0], last_heartbeat_time="t2")]
    assert changes(before, status(conditions=later)) == {}
    foreign = msgspec.structs.replace(before, conditions=[*READY, NodeCondition(type="FrequentRestart")])
    assert changes(foreign, status()) == {}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"addresses": ("192.0.2.8",)}, {"addresses"}),
        ({"amounts": amounts(memory=GIB)}, {"capacity", "allocatable"}),
        ({"images": [Image(("a@sha256:1",), 1)]}, {"images"}),
        ({"volumes_in_use": ["b", "a"]}, {"volumesInUse"}),
        ({"kubelet_version": "v1.37.0"}, {"nodeInfo"}),
        ({"conditions": [msgspec.structs.replace(READY[0], status="False")]}, {"conditions"}),
    ],
)
def test_a_change_is_found(changed: dict[str, Any], expected: set[str]) -> None:
    assert set(changes(status(), status(**changed))) == expected


def test_what_became_empty_is_sent_as_empty() -> None:
    assert changes(status(images=[Image(("a@sha256:1",), 1)]), status()) == {"images": []}
    former = status()
    former.capacity = {**former.capacity, "hugepages-2Mi": "0"}
    assert changes(former, status())["capacity"]["hugepages-2Mi"] is None
    former = status()
    former.node_info.swap = NodeSwap(capacity=1)
    assert changes(former, status())["nodeInfo"]["swap"] is None


def test_volumes_not_known_yet_are_kept() -> None:
    before = status(volumes_in_use=["v"])
    assert changes(before, status(), keeps_volumes=True) == {}
    assert changes(before, status()) == {"volumesInUse": []}


def test_addresses_are_replaced_as_a_whole_and_heartbeats_always_go_along() -> None:
    body = patch_body(changes(status(), status(addresses=("192.0.2.8", "fd00::8"))), READY)
    assert body["status"]["addresses"][-1] == {"$patch": "replace"}
    assert [each.get("address") for each in body["status"]["addresses"]] == ["192.0.2.8", "fd00::8", "n", None]
    assert [each["type"] for each in body["status"]["conditions"]] == ["Ready"]
    assert set(patch_body({}, READY)["status"]) == {"conditions"}


def test_runtime_handlers_and_features_are_as_the_settings_say() -> None:
    chosen = settings(runtime_handlers=(RuntimeHandler(name="x"),), declared_features=("B", "A"))
    assert wire(status(chosen))["runtimeHandlers"] == [{"name": "x"}]
    assert wire(status(chosen))["declaredFeatures"] == ["A", "B"]


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("v1.36.3", "v1.36.3"),
        ("v1.37.0", "v1.36.3"),
        ("v1.34.2-gke.100", "v1.34.2"),
        ("", "v1.36.3"),
        ("odd", "v1.36.3"),
    ],
)
def test_a_node_is_never_newer_than_its_server(server: str, expected: str) -> None:
    assert advertised_version("v1.36.3", server) == f"{expected}+wasmlet.{__version__}"


def test_a_condition_that_is_to_go_is_named() -> None:
    body = patch_body({}, READY, abandoned=["NetworkUnavailable"])
    assert body["status"]["conditions"][-1] == {"type": "NetworkUnavailable", "$patch": "delete"}
