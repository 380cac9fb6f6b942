"""The summary: what the images take of their file system, and which pods there are."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.agent import Agent
from tests.unit.server.kubelet_api import NODE, Api, served
from tests.unit.server.still_pods import StillPod
from wasmlet.server import summary
from wasmlet.server.summary import Places, Summary


async def test_the_file_systems_and_pods_are_told(
    agent: Agent, tmp_path: Path, still: Callable[..., StillPod], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = still()
    pod.attempt()
    images = tmp_path / "images"
    (images / "blobs").mkdir(parents=True)
    (images / "blobs" / "one").write_bytes(b"x" * 100_000)
    places = Places(node_name=NODE, state=tmp_path, images=images)
    async with served(tmp_path, agent.dispatch, agent.hub, summary=Summary(places, agent.dispatch)) as api:
        status, text = await api.get("/stats/summary")
        assert status == 200
        document = json.loads(text)
        node, (told,) = document["node"], document["pods"]
        meta = pod.bundle.pod.metadata
        assert told["podRef"] == {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
        assert [each["name"] for each in told["containers"]] == ["main"]
        image_fs = node["runtime"]["imageFs"]
        assert node["nodeName"] == NODE
        assert 100_000 <= image_fs["usedBytes"] < 300_000
        assert image_fs["inodesUsed"] == 2
        assert image_fs["capacityBytes"] >= image_fs["availableBytes"] > 0
        assert node["fs"] == node["runtime"]["containerFs"]
        (images / "blobs" / "two").write_bytes(b"x" * 1_000_000)
        kept = json.loads((await api.get("/stats/summary"))[1])["node"]["runtime"]["imageFs"]
        assert kept == image_fs
        monkeypatch.setattr(summary, "KEPT_SECONDS", 0.0)
        grown = json.loads((await api.get("/stats/summary"))[1])["node"]["runtime"]["imageFs"]
        assert grown["usedBytes"] >= 1_100_000
        assert (await api.get("/stats/summary", token=""))[0] == 401


async def test_a_server_without_places_tells_nothing(api: Api) -> None:
    assert (await api.get("/stats/summary"))[0] == 404
