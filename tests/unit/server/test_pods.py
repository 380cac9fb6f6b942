"""Lists of pods."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.agent import Agent
from tests.support.pods import bundle, container
from tests.unit.server.kubelet_api import Api
from tests.unit.server.still_pods import StillPod
from wasmlet.kube.types import EnvVar, EnvVarSource, KeySelector, ObjectMeta, Secret


async def listed(api: Api, path: str) -> list[Any]:
    status, text = await api.get(path)
    assert status == 200
    document = json.loads(text)
    assert (document["kind"], document["apiVersion"], document["metadata"]) == ("PodList", "v1", {})
    return list(document["items"])


@pytest.mark.parametrize("path", ["/pods", "/runningpods", "/runningpods/"])
async def test_no_pods(api: Api, path: str) -> None:
    assert await listed(api, path) == []


async def test_pods_have_their_status(api: Api, still: Callable[..., StillPod]) -> None:
    pods = [still(), still()]
    pods[0].attempt()
    items = await listed(api, "/pods")
    assert [item["metadata"]["uid"] for item in items] == [pod.bundle.uid for pod in pods]
    assert [item["status"]["phase"] for item in items] == ["Running", "Pending"]
    assert items[0]["spec"]["containers"][0]["name"] == "main"


async def test_running_pods_have_names_and_images_only(api: Api, still: Callable[..., StillPod]) -> None:
    pod, ended, waiting = still(container("a"), container("b"), container("c")), still(), still()
    pod.attempt("a")
    pod.attempt("b", ended=1)
    pod.attempt("c", started=False)
    ended.attempt(ended=0)
    waiting.fail("ErrImagePull")
    meta = pod.bundle.pod.metadata
    assert await listed(api, "/runningpods/") == [
        {
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "spec": {"containers": [{"name": "a", "image": container("a").image, "resources": {}}]},
            "status": {},
        }
    ]


async def test_no_secret_is_shown(api: Api, agent: Agent) -> None:
    reference = EnvVarSource(secret_key_ref=KeySelector(name="s", key="k"))
    main = container("main", "sleep", env=[EnvVar(name="PASSWORD", value_from=reference)])
    secret = Secret(metadata=ObjectMeta(name="s", namespace="default"), string_data={"k": "hunter2"})
    pod = bundle(main, secrets=[secret])
    agent.dispatch.submit(pod)
    await agent.until_running(pod)
    status, text = await api.get("/pods")
    assert status == 200
    assert '"name":"PASSWORD"' in text
    assert "hunter2" not in text
    [item] = await listed(api, "/runningpods/")
    assert item["metadata"]["uid"] == pod.uid
