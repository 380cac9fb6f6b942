"""A kubelet API on an agent's rooms, and pods that stand still."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import Agent
from tests.support.pods import bundle, container
from tests.unit.server.kubelet_api import Api, served
from tests.unit.server.still_pods import StillPod


@pytest.fixture
async def api(agent: Agent, tmp_path: Path) -> AsyncIterator[Api]:
    async with served(tmp_path, agent.dispatch, agent.hub) as api:
        yield api


@pytest.fixture
def still(agent: Agent) -> Callable[..., StillPod]:
    """Makes a pod that stands still; its container is `main` unless others are given."""

    def make(*containers: Any, **spec: Any) -> StillPod:
        return StillPod(agent, bundle(*(containers or (container("main"),)), **spec))

    return make
