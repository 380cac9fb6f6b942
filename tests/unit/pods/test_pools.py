"""Which pods share an engine, and what becomes of them when there are too many for one."""

from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from tests.support.agent import Agent, running_agent
from tests.support.pods import bundle, container
from wasmlet.pods.bundle import Bundle

Isolation = Literal["namespace", "node", "pod"]


async def engines_of(agent: Agent, pods: list[Bundle]) -> list[str]:
    for each in pods:
        agent.dispatch.submit(each)
    return [(await agent.until_running(each)).engine for each in pods]


@pytest.mark.parametrize(("isolation", "groups"), [("namespace", [2, 1, 1]), ("node", [3, 1]), ("pod", [1, 1, 1, 1])])
async def test_isolation(state_directory: Path, engine_program: Path, isolation: Isolation, groups: list[int]) -> None:
    async with running_agent(state_directory, program=engine_program, isolation=isolation) as agent:
        pods = [bundle(container("main", "sleep")) for _ in range(4)]
        pods[2].pod.metadata.namespace = "other"
        pods[3].pod.spec.runtime_class_name = "wasmlet-isolated"
        found = await engines_of(agent, pods)
        assert sorted(Counter(found).values(), reverse=True) == groups
        assert Counter(found)[found[3]] == 1


async def test_a_pool_is_split_before_an_engine_meets_its_limits(
    state_directory: Path, engine_program: Path, tmp_path: Path
) -> None:
    narrow = tmp_path / "wasmlet-engine"
    narrow.write_text(f'#!/bin/sh\n[ "$1" = serve ] && ulimit -n 100\nexec {engine_program} "$@"\n')
    narrow.chmod(0o755)
    async with running_agent(state_directory, program=narrow) as agent:
        # One after the other: the connections of a burst alone would be more than 30 % of so few.
        found = [(await engines_of(agent, [bundle(container("main", "sleep"))]))[0] for _ in range(60)]
        assert len(set(found)) >= 2
        for handle in agent.engines.handles:
            engine = await handle.client.engine()
            assert engine.descriptors.limit == 100
            assert engine.descriptors.used < 90, "70 %, and the few that are the engine's own"
            assert handle.running == found.count(handle.record.id)
