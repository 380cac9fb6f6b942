"""Where pods' files are, and what of them is whose."""

from pathlib import Path

import pytest

from tests.support.agent import Agent
from tests.support.pods import bundle, container
from tests.support.waiting import eventually
from wasmlet.base.errors import UserError
from wasmlet.pods.directories import Directories
from wasmlet.sandbox.engines import PoolKey


def test_places(tmp_path: Path) -> None:
    pod = bundle(container("main"), name="p", namespace="n").pod
    uid = pod.metadata.uid
    places = Directories(tmp_path).places(pod, "n")
    assert places.record == tmp_path / "pods" / uid
    assert places.attempt("c", 2) == tmp_path / "pools/n" / uid / "containers/c/2"
    assert places.log_file("c", 2) == tmp_path / f"logs/n/n_p_{uid}/c/2.log"
    assert places.exit_file("c", 2).parent == places.log_file("c", 2).parent


@pytest.mark.parametrize("name", ["volumes", "containers"])
def test_the_layout_of_an_earlier_release_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "pods" / "u" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"of an earlier release: .*/pods/u"):
        Directories(tmp_path).make()


def test_a_pool_s_directories_go_when_neither_pods_nor_engines_need_them(tmp_path: Path) -> None:
    directories = Directories(tmp_path)
    directories.make()
    first, second = (directories.places(bundle(container("main"), namespace=each).pod, each) for each in ("a", "b"))
    directories.open(first, living=())
    for each in (first.pod, first.logs):
        each.rmdir()
    directories.vacate(first)
    directories.open(second, living=[PoolKey("a")])
    assert first.pool.is_dir(), "its engine's rules are bound to it"
    second.pod.rmdir()
    directories.vacate(second)
    again = Directories(tmp_path)
    again.make()
    again.open(again.places(bundle(container("main"), namespace="c").pod, "c"), living=())
    assert not first.pool.exists()
    assert not first.pool_logs.exists()
    assert second.pool.is_dir(), "its logs are there yet"


def test_all_directories_of_a_pod_are_found(tmp_path: Path) -> None:
    directories = Directories(tmp_path)
    directories.make()
    pod = bundle(container("main"), name="p", namespace="n").pod
    places = directories.places(pod, "n")
    directories.open(places, living=())
    places.record.mkdir()
    assert directories.all() == {pod.metadata.uid: [places.logs, places.pod, places.record]}


async def test_an_idle_engine_takes_the_next_pod_of_its_namespace(agent: Agent) -> None:
    """Its rules are bound to directories that were empty meanwhile."""
    engines = []
    for _ in range(2):
        submitted = bundle(container("main", "sleep"))
        agent.dispatch.submit(submitted)
        engines.append((await agent.until_running(submitted)).engine)
        agent.dispatch.end(submitted.uid)
        await eventually(lambda uid=submitted.uid: not agent.dispatch.has(uid), agent.dispatch)  # type: ignore[misc]
    assert engines[0] == engines[1]


async def test_engines_may_use_what_is_their_pool_s_alone(agent: Agent) -> None:
    pods = [bundle(container("main", "sleep"), namespace=each) for each in ("a", "b")]
    for each in pods:
        agent.dispatch.submit(each)
        await agent.until_running(each)
    for handle in agent.engines.handles:
        pool, command = handle.record.key.pool, Path(f"/proc/{handle.record.pid}/cmdline").read_text().split("\0")
        rules = [each for each in command if each.startswith(("--read", "--write"))]
        roots = {"--read": ("cache",), "--write": (f"pools/{pool}", f"logs/{pool}")}
        assert rules == [f"{kind}={agent.directory / each}" for kind, names in roots.items() for each in names]
