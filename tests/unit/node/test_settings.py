"""What an operator writes: understood, or refused with the next step."""

from typing import Any

import pytest

from tests.unit.node.samples import settings
from wasmlet.base.errors import UserError
from wasmlet.node.settings import DEFAULT_TAINTS, parse_label, parse_priorities, parse_reserved, parse_taint


def test_the_default_taints_are_krustlets() -> None:
    assert [str(each) for each in DEFAULT_TAINTS] == [
        "kubernetes.io/arch=wasm32-wasi:NoSchedule", "kubernetes.io/arch=wasm32-wasi:NoExecute",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["a=b:NoSchedule", "example.com/a:NoExecute", "a=:PreferNoSchedule"])
def test_taints(text: str) -> None:
    assert str(parse_taint(text)) == text.replace("=:", ":")


@pytest.mark.parametrize("text", ["", "a", "a=b", "a=b:Never", ":NoSchedule", "a b:NoSchedule"])
def test_no_taints(text: str) -> None:
    with pytest.raises(UserError, match="is no taint"):
        parse_taint(text)


@pytest.mark.parametrize(
    "text",
    ["example.com/zone=a", "plain=", "topology.kubernetes.io/zone=z", "node.kubernetes.io/pool=x",
     "a.kubelet.kubernetes.io/x=y"],
)  # fmt: skip
def test_labels_a_node_may_set(text: str) -> None:
    assert "=".join(parse_label(text)) == text


@pytest.mark.parametrize(
    "text", ["node-restriction.kubernetes.io/x=y", "kubernetes.io/role=x", "a.k8s.io/x=y", "kubernetes.io/arch/x=y"]
)
def test_labels_that_the_api_server_would_refuse(text: str) -> None:
    with pytest.raises(UserError):
        parse_label(text)


@pytest.mark.parametrize("text", ["a", "=b", "a=b c", "-a=b", "UPPER.example/-=b"])
def test_no_labels(text: str) -> None:
    with pytest.raises(UserError, match="is no label"):
        parse_label(text)


def test_reserved() -> None:
    assert parse_reserved(["cpu=500m", "memory=1Gi"]) == {"cpu": "500m", "memory": "1Gi"}
    for text in ("gpu=1", "cpu=much", "cpu=-1", "cpu"):
        with pytest.raises(UserError):
            parse_reserved([text])


@pytest.mark.parametrize(
    "changes",
    [
        {"port": 0},
        {"certificate_seconds": 599},
        {"shutdown_grace_seconds": 10.0, "shutdown_critical_seconds": 11.0},
        {"shutdown_grace_seconds": 10.0, "shutdown_grace_by_priority": ((0, 5.0),)},
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="node: "):
        settings(**changes)


@pytest.mark.parametrize(
    "changes", [{"name": "Upper"}, {"name": "a_b"}, {"name": ""}, {"labels": {"kubernetes.io/x": "y"}},
                {"node_ips": ("127.0.0.1",)}]
)  # fmt: skip
def test_settings_that_an_operator_must_change(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        settings(**changes)


def test_priorities() -> None:
    assert parse_priorities([("2000000000", "10"), ("0", 20.5)]) == ((0, 20.5), (2000000000, 10.0))


@pytest.mark.parametrize("pair", [("high", "1"), ("0", ""), ("", "1"), ("1.5", "1")])
def test_no_priorities(pair: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="is no group"):
        parse_priorities([pair])
