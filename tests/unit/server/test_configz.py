"""The configuration as others read it."""

import json
from pathlib import Path

import pytest

from tests.support.agent import Agent
from tests.unit.server.kubelet_api import Api, served
from wasmlet.server.configz import duration
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
