"""The configuration as others read it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import Agent
from tests.unit.server.kubelet_api import Api, served
from wasmlet.images.collection import Policy
from wasmlet.images.settings import Settings as ImageSettings
from wasmlet.node.settings import Settings as NodeSettings
from wasmlet.server.configz import duration, of_images, of_node
from wasmlet.server.kubelet import Settings


async def test_what_this_room_decides(api: Api) -> None:
    status, text = await api.get("/configz")
    assert status == 200
    found = json.loads(text)["kubeletconfig"]
    assert (found["kind"], found["apiVersion"]) == ("KubeletConfiguration", "kubelet.config.k8s.io/v1beta1")
    assert found["authentication"]["anonymous"] == {"enabled": False}
    assert found["authentication"]["webhook"] == {"enabled": True, "cacheTTL": "2m0s"}
    assert found["authorization"]["webhook"] == {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"}


async def test_what_other_rooms_decide(agent: Agent, tmp_path: Path) -> None:
    settings = Settings(configuration={"maxPods": 500, "enableServer": "x"}, debugging_handlers=False)
    async with served(tmp_path, agent.dispatch, agent.hub, settings=settings) as api:
        found = json.loads((await api.get("/configz"))[1])["kubeletconfig"]
    assert (found["maxPods"], found["enableServer"], found["enableDebuggingHandlers"]) == (500, "x", False)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (30, "30s"), (120, "2m0s"), (3600, "1h0m0s"), (3661, "1h1m1s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def node(tmp_path: Path, **changes: Any) -> NodeSettings:
    return NodeSettings(name="n", directory=tmp_path, pki_directory=tmp_path, **changes)


def test_a_nodes_settings(tmp_path: Path) -> None:
    found = of_node(
        node(tmp_path, max_pods=7, reserved={"cpu": "1"}, shutdown_grace_seconds=90.0, shutdown_critical_seconds=20.0),
        healthz_port=10248, client_ca_file="/ca.pem",
    )  # fmt: skip
    assert {
        "port": 10250, "healthzPort": 10248, "healthzBindAddress": "127.0.0.1", "maxPods": 7,
        "systemReserved": {"cpu": "1"}, "nodeStatusUpdateFrequency": "10s", "nodeStatusReportFrequency": "5m0s",
        "nodeLeaseDurationSeconds": 40, "rotateCertificates": True, "serverTLSBootstrap": True,
        "shutdownGracePeriod": "1m30s", "shutdownGracePeriodCriticalPods": "20s", "registerNode": True,
    }.items() <= found.items()  # fmt: skip
    assert found["evictionHard"] == {
        "memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "pid.available": "2%",
    }  # fmt: skip
    assert found["authentication"]["x509"] == {"clientCAFile": "/ca.pem"}  # type: ignore[index]
    assert found["registerWithTaints"] == [
        {"key": "kubernetes.io/arch", "value": "wasm32-wasi", "effect": "NoSchedule"},
        {"key": "kubernetes.io/arch", "value": "wasm32-wasi", "effect": "NoExecute"},
    ]


def test_groups_of_a_shutdown_and_no_healthz(tmp_path: Path) -> None:
    found = of_node(node(tmp_path, shutdown_grace_by_priority=((100, 5.0), (0, 9.0))))
    assert found["shutdownGracePeriodByPodPriority"] == [
        {"priority": 0, "shutdownGracePeriodSeconds": 9}, {"priority": 100, "shutdownGracePeriodSeconds": 5},
    ]  # fmt: skip
    assert found["healthzPort"] == 0
    assert "healthzBindAddress" not in found


def test_when_unused_images_go() -> None:
    assert of_images(Policy(minimum_age_seconds=90), ImageSettings(directory=Path())) == {
        "imageGCHighThresholdPercent": 85, "imageGCLowThresholdPercent": 80, "imageMinimumGCAge": "1m30s",
        "imageMaximumGCAge": "0s", "imagePullCredentialsVerificationPolicy": "NeverVerifyPreloadedImages",
        "preloadedImagesVerificationAllowlist": [], "serializeImagePulls": False, "maxParallelImagePulls": 4,
    }  # fmt: skip
