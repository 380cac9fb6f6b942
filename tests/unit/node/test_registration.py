"""Making the Node, and agreeing with one that is there."""

import itertools

import pytest

from tests.unit.node import virtual
from tests.unit.node.samples import settings
from wasmlet.base.errors import ConflictError, RetryableError, UserError, WasmletError
from wasmlet.kube.errors import ForbiddenError, InvalidError
from wasmlet.node.objects import NODES, NodeObject, NodeStatus, Taint
from wasmlet.node.registration import initial_node, reconciliation, register
from wasmlet.node.settings import Settings, parse_taint


def registered(chosen: Settings) -> NodeObject:
    return initial_node(chosen, NodeStatus())


def test_a_new_node_is_what_krustlets_manifests_look_for() -> None:
    node = initial_node(
        settings(labels={"example.com/a": "b"}, provider_id="x://1", is_schedulable=False), NodeStatus()
    )
    assert node.metadata.labels == {
        "example.com/a": "b", "kubernetes.io/hostname": "n",
        "kubernetes.io/arch": "wasm32-wasi", "beta.kubernetes.io/arch": "wasm32-wasi",
        "kubernetes.io/os": "wasi", "beta.kubernetes.io/os": "wasi",
    }  # fmt: skip
    assert node.metadata.annotations["volumes.kubernetes.io/controller-managed-attach-detach"] == "true"
    assert (node.spec.provider_id, node.spec.unschedulable) == ("x://1", True)
    assert [each.effect for each in node.spec.taints] == ["NoSchedule", "NoExecute"]


def test_one_that_agrees_is_left_alone() -> None:
    assert reconciliation(registered(settings()), settings()) == {}


def test_labels_and_annotations_are_put_back_and_others_stay() -> None:
    node = registered(settings())
    node.metadata.labels |= {"kubernetes.io/os": "linux", "somebody.else/x": "y"}
    del node.metadata.annotations["volumes.kubernetes.io/controller-managed-attach-detach"]
    assert reconciliation(node, settings(labels={"example.com/new": "1"})) == {
        "metadata": {
            "labels": {"kubernetes.io/os": "wasi", "example.com/new": "1"},
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        }
    }


def test_os_label_linux_is_a_setting() -> None:
    patch = reconciliation(registered(settings()), settings(os_label="linux"))
    assert patch == {"metadata": {"labels": {"kubernetes.io/os": "linux", "beta.kubernetes.io/os": "linux"}}}


def test_another_agents_node_is_not_taken() -> None:
    node = registered(settings())
    node.status.node_info.container_runtime_version = "containerd://2.0"
    with pytest.raises(ConflictError, match="another agent's"):
        reconciliation(node, settings())
    node.status.node_info.container_runtime_version = "wasmlet://0.0.1"
    assert reconciliation(node, settings()) == {}


def test_a_provider_id_is_set_once() -> None:
    node = registered(settings())
    assert reconciliation(node, settings(provider_id="x://1")) == {"spec": {"providerID": "x://1"}}
    node.spec.provider_id = "x://2"
    with pytest.raises(UserError, match=r"kubectl delete node n"):
        reconciliation(node, settings(provider_id="x://1"))
    assert reconciliation(node, settings()) == {}


OTHER = "example.com/wasm=yes:NoSchedule"


@pytest.mark.parametrize(
    ("taints", "command"),
    [
        (
            [OTHER],
            f"kubectl taint nodes n {OTHER} kubernetes.io/arch:NoExecute- kubernetes.io/arch:NoSchedule- --overwrite",
        ),
        ([], "kubectl taint nodes n kubernetes.io/arch:NoExecute- kubernetes.io/arch:NoSchedule-"),
        (
            ["kubernetes.io/arch=other:NoSchedule", "kubernetes.io/arch=wasm32-wasi:NoExecute"],
            "kubectl taint nodes n kubernetes.io/arch=other:NoSchedule --overwrite",
        ),
    ],
)
def test_changed_taints_are_an_error_that_shows_the_command(taints: list[str], command: str) -> None:
    node = registered(settings())
    wanted = settings(taints=tuple(parse_taint(each) for each in taints))
    with pytest.raises(UserError) as caught:
        reconciliation(node, wanted)
    assert str(caught.value).endswith(f"an administrator can: {command}")
    # Once somebody did so, the new set counts as registered.
    node.spec.taints = [*wanted.taints, Taint(key="node.kubernetes.io/not-ready", effect="NoSchedule")]
    assert set(reconciliation(node, wanted)["metadata"]) == {"annotations"}


def test_what_an_administrator_does_to_taints_is_left_alone() -> None:
    node = registered(settings())
    node.spec.taints = [Taint(key="maintenance", effect="NoSchedule")]
    assert reconciliation(node, settings()) == {}


def test_a_node_made_beforehand_without_our_taints_is_an_error() -> None:
    node = registered(settings())
    node.metadata.annotations = {}
    node.spec.taints = []
    with pytest.raises(UserError, match=r"kubectl taint nodes n kubernetes.io/arch=wasm32-wasi:NoSchedule"):
        reconciliation(node, settings())


# --- register ---------------------------------------------------------------------------------------------------------


def test_it_tries_until_it_is_registered() -> None:
    api = virtual.Api()
    left = 9

    def failures(call: virtual.Call) -> WasmletError | None:
        nonlocal left
        left -= 1
        return RetryableError("away") if left >= 0 else None

    api.failures = failures
    node, is_new = virtual.run(register(api.client, settings(), NodeStatus()))
    assert node.metadata.uid
    assert is_new
    at = api.times("create")
    waits = [after - before for before, after in itertools.pairwise(at)]
    for wait, expected in zip(waits, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 7.0, 7.0], strict=True):
        assert expected <= wait <= expected * 1.1 + 1e-9


def test_an_existing_node_is_reconciled() -> None:
    api = virtual.Api()
    former = registered(settings())
    former.metadata.labels = {}
    api.put(NODES, former)
    node, is_new = virtual.run(register(api.client, settings(), NodeStatus()))
    assert node.metadata.labels["kubernetes.io/arch"] == "wasm32-wasi"
    assert [each.verb for each in api.calls] == ["create", "get", "patch"]
    assert not is_new


def test_forbidden_to_create_but_there() -> None:
    api = virtual.Api()
    api.put(NODES, registered(settings()))
    api.failures = lambda call: ForbiddenError("no") if call.verb == "create" else None
    node, is_new = virtual.run(register(api.client, settings(), NodeStatus()))
    assert (node.metadata.name, is_new) == ("n", False)


def test_what_the_server_finds_wrong_is_the_operators() -> None:
    api = virtual.Api()
    api.failures = lambda _: InvalidError("metadata.labels: too long")
    with pytest.raises(UserError, match="too long"):
        virtual.run(register(api.client, settings(), NodeStatus()))


def test_a_node_that_comes_back_asks_for_its_pod_range() -> None:
    former = registered(settings())
    former.spec.pod_cidr, former.spec.pod_cidrs = "10.1.0.0/24", ["10.1.0.0/24"]
    api = virtual.Api()
    made, _ = virtual.run(register(api.client, settings(), NodeStatus(), former=former))
    assert made.spec.pod_cidrs == ["10.1.0.0/24"]
