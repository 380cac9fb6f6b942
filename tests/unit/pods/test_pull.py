"""Images for a pod: when they are pulled, and with which logins."""

import pytest

from tests.support.agent import Agent
from tests.support.pods import bundle, container
from wasmlet.kube.types import LocalObjectReference
from wasmlet.pods.pull import duration, pull_policy


@pytest.mark.parametrize(
    ("image", "policy", "expected"),
    [
        ("r/app", "", "Always"),
        ("r/app:latest", "", "Always"),
        ("r:5000/app", "", "Always"),
        ("r/app:1", "", "IfNotPresent"),
        ("r/app:latest@sha256:" + "0" * 64, "", "IfNotPresent"),
        ("r/app:1", "Always", "Always"),
        ("r/app", "IfNotPresent", "IfNotPresent"),
        ("r/app", "Never", "Never"),
    ],
)
def test_pull_policies(image: str, policy: str, expected: str) -> None:
    assert pull_policy(image, policy) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0004, "0s"), (0.007, "7ms"), (1, "1s"), (1.0509, "1.05s"), (10, "10s"), (120.5, "2m0.5s"),
     (3600, "1h0m0s")],
)  # fmt: skip
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def test_a_missing_pull_secret_is_told_and_passed_over(agent: Agent) -> None:
    submitted = bundle(container("main", "hello"), image_pull_secrets=[LocalObjectReference(name="missing")])
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Succeeded"
    assert "missing" in agent.told("FailedToRetrieveImagePullSecret")[0]
