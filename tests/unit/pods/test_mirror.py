"""Mirror pods (kubelet-contract section 3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.agent import Agent
from tests.support.fake_api import status as failed
from tests.support.fake_api import times
from tests.support.joined import Joined, joined_agent
from tests.support.pods import container, pod
from tests.support.waiting import eventually
from tests.unit.pods.test_static import manifest
from wasmlet.kube.types import Pod
from wasmlet.pods.mirror import MIRROR_ANNOTATION, Owner, Static, due, is_mirror, mirror_of
from wasmlet.pods.static import read

OWNER = Owner(name="n", uid="node-uid")


def static(name: str = "web") -> Pod:
    return read(manifest(name), file="f", node_name="n", seen=0.0)


def named(*pods: Pod) -> dict[tuple[str, str], Pod]:
    return {(each.metadata.namespace, each.metadata.name): each for each in pods}


def statics(*pods: Pod, is_ending: bool = False) -> dict[tuple[str, str], Static]:
    return {name: Static(each, is_ending) for name, each in named(*pods).items()}


def test_a_mirror_says_whose_it_is_and_belongs_to_the_node() -> None:
    pod = static()
    made = mirror_of(pod, OWNER)
    assert made.metadata.annotations[MIRROR_ANNOTATION] == pod.metadata.uid
    assert made.metadata.uid == ""
    document = json.loads(json.dumps(__import__("msgspec").to_builtins(made)))
    assert document["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "node-uid", "controller": True}
    ]
    assert document["spec"]["nodeName"] == "n"
    assert is_mirror(made)
    assert not is_mirror(pod)
    assert due(statics(pod), named(made), OWNER) == ([], [])


def test_what_differs_is_deleted_and_made_when_it_is_gone() -> None:
    pod = static()
    for change in ("hash", "owner", "deletion", "no owner"):
        mirror = mirror_of(pod, OWNER)
        if change == "hash":
            mirror.metadata.annotations[MIRROR_ANNOTATION] = "another"
        elif change == "owner":
            mirror.metadata.owner_references[0].uid = "another"
        elif change == "no owner":
            mirror.metadata.owner_references.clear()
        else:
            mirror.metadata.deletion_timestamp = "2026-01-01T00:00:00Z"
        assert due(statics(pod), named(mirror), OWNER) == ([mirror], []), change
    assert due(statics(pod), {}, OWNER) == ([], [pod])


def test_no_mirror_without_a_node_nor_for_a_pod_that_ends() -> None:
    assert due(statics(static()), {}, Owner(name="n", uid="")) == ([], [])
    assert due(statics(static(), is_ending=True), {}, OWNER) == ([], [])


def test_a_mirror_whose_pod_is_gone_is_deleted_and_one_whose_pod_still_ends_is_not() -> None:
    mirror = mirror_of(static(), OWNER)
    assert due({}, named(mirror), OWNER) == ([mirror], [])
    assert due(statics(static(), is_ending=True), named(mirror), OWNER) == ([], [])


NAMES = st.sets(st.sampled_from(["a", "b", "c"]))


@given(NAMES, NAMES, NAMES)
def test_after_what_is_due_nothing_is_due(here: set[str], mirrored: set[str], changed: set[str]) -> None:
    pods = statics(*(static(each) for each in here))
    mirrors = named(*(mirror_of(static(each), OWNER) for each in mirrored))
    for name, each in mirrors.items():
        if name[1].removesuffix("-n") in changed:
            each.metadata.annotations[MIRROR_ANNOTATION] = "old"
    deleted, _ = due(pods, mirrors, OWNER)
    for each in deleted:
        del mirrors[each.metadata.namespace, each.metadata.name]
    _, made = due(pods, mirrors, OWNER)
    mirrors |= named(*(mirror_of(each, OWNER) for each in made))
    assert due(pods, mirrors, OWNER) == ([], [])
    assert set(mirrors) == set(pods)


# --- with an API server -----------------------------------------------------------------------------------------------


@pytest.fixture
async def joined(agent: Agent, tmp_path: Path) -> AsyncIterator[Joined]:
    async with joined_agent(agent) as joined:
        joined.manifests = tmp_path / "manifests"
        joined.manifests.mkdir()
        (joined.manifests / "web.yaml").write_text(manifest())
        yield joined


async def until_mirrored(joined: Joined, *, but: str = "") -> str:
    """The UID of the mirror, another than `but`, once its status says that the static pod runs."""

    def found() -> str:
        document = joined.shown("web-n") or {"metadata": {}}
        uid = str(document["metadata"].get("uid", ""))
        return uid if uid != but and document.get("status", {}).get("phase") == "Running" else ""

    return await eventually(found, lambda: joined.shown("web-n"))


def uid_of_static(joined: Joined) -> str:
    (worker,) = joined.agent.dispatch.named("default", "web-n")
    return worker.bundle.uid


async def test_a_static_pod_is_shown_with_its_status(joined: Joined) -> None:
    await joined.start()
    await until_mirrored(joined)
    document = joined.shown("web-n")
    assert document is not None
    assert document["metadata"]["annotations"][MIRROR_ANNOTATION] == uid_of_static(joined)
    assert document["status"]["containerStatuses"][0]["ready"]


async def test_a_deleted_mirror_is_made_again_and_its_pod_does_not_notice(joined: Joined) -> None:
    await joined.start()
    first = await until_mirrored(joined)
    static_uid = uid_of_static(joined)
    await joined.delete("web-n", grace_seconds=30)
    second = await until_mirrored(joined, but=first)
    (delete,) = joined.deletes("web-n")
    assert (delete["gracePeriodSeconds"], delete["preconditions"]) == (0, {"uid": first})
    await joined.api.remove("pods", "web-n", namespace="default")
    await until_mirrored(joined, but=second)
    assert uid_of_static(joined) == static_uid
    worker = joined.agent.dispatch.get(static_uid)
    assert worker.facts.deletion is None
    assert [each.number for each in worker.facts.container("main").attempts] == [0]


async def test_a_file_that_goes_takes_its_mirror_along_once_the_pod_has_ended(joined: Joined) -> None:
    await joined.start()
    await until_mirrored(joined)
    assert joined.manifests is not None
    (joined.manifests / "web.yaml").unlink()
    await joined.until_gone("web-n")
    assert list(joined.agent.dispatch.workers) == []
    assert len(joined.deletes("web-n")) == 1


async def test_a_changed_file_has_another_mirror(joined: Joined) -> None:
    await joined.start()
    first = await until_mirrored(joined)
    assert joined.manifests is not None
    (joined.manifests / "web.yaml").write_text(manifest("web", "600"))
    await until_mirrored(joined, but=first)
    document = joined.shown("web-n")
    assert document is not None
    assert document["metadata"]["annotations"][MIRROR_ANNOTATION] == uid_of_static(joined)


async def test_a_mirror_that_an_earlier_agent_left_is_deleted(joined: Joined) -> None:
    await joined.start()
    await until_mirrored(joined)
    await joined.stop()
    assert joined.manifests is not None
    (joined.manifests / "web.yaml").unlink()
    await joined.start()
    await joined.until_gone("web-n")


async def test_a_new_node_gets_new_mirrors(joined: Joined) -> None:
    joined.owner = Owner(name="n", uid="")
    await joined.start()
    await joined.until_synced()
    await eventually(lambda: joined.agent.dispatch.named("default", "web-n"), joined.agent.dispatch)
    await asyncio.sleep(0.2)
    assert joined.shown("web-n") is None
    joined.owner = OWNER
    first = await until_mirrored(joined)
    joined.owner = Owner(name="n", uid="another")
    await joined.bind(pod(container("main", "exit"), name="news"))
    await until_mirrored(joined, but=first)


async def test_an_api_server_that_refuses_is_asked_again_and_the_pod_runs_meanwhile(joined: Joined) -> None:
    joined.api.behaviours.append(times(2, lambda: failed(403, "Forbidden", "not yet"), method="POST"))
    await joined.start()
    await until_mirrored(joined)
    assert len(joined.api.asked("POST")) == 3
