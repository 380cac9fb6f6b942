"""Static pods: files of this machine as pods (kubelet-contract section 3)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.agent import Agent
from tests.support.guests import guest
from tests.support.waiting import eventually
from wasmlet.base.errors import UserError
from wasmlet.base.tasks import Tasks
from wasmlet.pods.static import SOURCE, StaticSource, read
from wasmlet.pods.worker import Worker

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{{ name: main, image: "file:{image}", args: [{arguments}] }}]
"""


def manifest(name: str = "web", *arguments: str, program: str = "sleep") -> str:
    return MANIFEST.format(name=name, image=guest(program), arguments=", ".join(f'"{each}"' for each in arguments))


# --- a file -----------------------------------------------------------------------------------------------------------


def test_a_pod_of_a_file_is_named_after_its_node_and_says_where_it_is_from() -> None:
    pod = read(manifest(), file="/m/web.yaml", node_name="Node-A", seen=1_700_000_000.0)
    assert (pod.metadata.name, pod.metadata.namespace, pod.spec.node_name) == ("web-node-a", "default", "Node-A")
    assert pod.metadata.annotations == {
        "kubernetes.io/config.hash": pod.metadata.uid,
        "kubernetes.io/config.source": "file",
        "kubernetes.io/config.seen": "2023-11-14T22:13:20Z",
    }
    assert len(pod.metadata.uid) == 32
    (toleration,) = pod.spec.tolerations
    assert (toleration.operator, toleration.effect, toleration.key) == ("Exists", "NoExecute", "")


def test_defaults_are_applied_here() -> None:
    text = """
apiVersion: v1
kind: Pod
metadata: { name: web }
spec: { containers: [{ name: main, image: i, resources: { limits: { memory: 1Mi, cpu: 1 }, requests: { cpu: 2m } } }] }
"""
    pod = read(text, file="f", node_name="n", seen=0.0)
    assert pod.spec.termination_grace_period_seconds == 30
    assert pod.spec.containers[0].resources.requests == {"memory": "1Mi", "cpu": "2m"}
    assert pod.spec.restart_policy == "Always"


def test_the_uid_depends_on_content_file_and_node_and_on_nothing_else() -> None:
    def uid(text: str = manifest(), file: str = "a", node: str = "n", seen: float = 0.0) -> str:
        return read(text, file=file, node_name=node, seen=seen).metadata.uid

    assert uid() == uid(seen=5.0)
    assert uid() == uid(f"# a comment\n{manifest()}")
    assert len({uid(), uid(file="b"), uid(node="m"), uid(manifest("other")), uid(manifest("web", "1"))}) == 5


SPEC = "{ name: main, image: i }"
UNNAMED = f"{{apiVersion: v1, kind: Pod, spec: {{containers: [{SPEC}]}}}}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "is not YAML"),
        ("", "holds nothing"),
        (f"{manifest()}\n---\n{manifest('b')}", "holds 2 Pod"),
        (UNNAMED, "has no name"),
        (UNNAMED.replace("spec:", "metadata: {name: A_b}, spec:"), "DNS subdomain"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", "holds 1 ConfigMap"),
        ("{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}", "Deployment"),
    ],
)
def test_what_is_no_static_pod(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read(text, file="f", node_name="n", seen=0.0)


@pytest.mark.parametrize(
    ("spec", "resource"),
    [
        ("serviceAccountName: robot", "serviceaccounts"),
        ("imagePullSecrets: [{name: s}]", "secrets"),
        ("volumes: [{name: v, secret: {secretName: s}}]", "secrets"),
        ("volumes: [{name: v, configMap: {name: c}}]", "configmaps"),
        ("volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]", "persistentvolumeclaims"),
        ("volumes: [{name: v, ephemeral: {volumeClaimTemplate: {}}}]", "persistentvolumeclaims"),
        ("volumes: [{name: v, projected: {sources: [{secret: {name: s}}]}}]", "secrets"),
        ("volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]", "serviceaccounts"),
        ("volumes: [{name: v, projected: {sources: [{clusterTrustBundle: {path: t}}]}}]", "clustertrustbundles"),
        ("initContainers: [{name: i, image: i, envFrom: [{configMapRef: {name: c}}]}]", "configmaps"),
        (
            "initContainers: [{name: i, image: i, env: [{name: E, valueFrom: {secretKeyRef: {name: s, key: k}}}]}]",
            "secrets",
        ),
    ],
)
def test_references_to_objects_of_an_api_server_are_refused(spec: str, resource: str) -> None:
    text = f"{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{SPEC}], {spec}}}}}"
    with pytest.raises(UserError, match=f"static pods may not reference {resource}$"):
        read(text, file="f", node_name="n", seen=0.0)


@given(st.text(max_size=200))
def test_any_text_is_a_pod_or_the_users_error(text: str) -> None:
    with contextlib.suppress(UserError):
        read(text, file="f", node_name="n", seen=0.0)


# --- the directory ----------------------------------------------------------------------------------------------------


class Files:
    """A directory of manifests, and the source that follows it beside an agent."""

    def __init__(self, agent: Agent, directory: Path, *, rescan_seconds: float = 1000.0) -> None:
        self.agent = agent
        self.directory = directory
        self.rescan_seconds = rescan_seconds
        self.tasks = Tasks()

    def follow(self) -> StaticSource:
        """Begin (again) to follow: after a restart of the agent, say."""
        source = StaticSource(
            self.directory, self.agent.dispatch, node_name="n", rescan_seconds=self.rescan_seconds
        )  # fmt: skip
        self.tasks.start(source.run(), name="static pods")
        return source

    def write(self, name: str, text: str) -> None:
        """As a careful editor does: by rename."""
        (self.directory / f".{name}.new").write_text(text)
        (self.directory / f".{name}.new").rename(self.directory / name)

    def workers(self, name: str = "web-n") -> list[Worker]:
        return [each for each in self.agent.dispatch.named("default", name) if each.bundle.source == SOURCE]

    async def until_running(self, name: str = "web-n", *, but: str = "") -> str:
        """The UID of the pod of that name (another than `but`), once it runs."""

        def found() -> str:
            for each in self.workers(name):
                last = each.facts.container("main").last
                if each.bundle.uid != but and last is not None and last.started_at is not None:
                    return each.bundle.uid
            return ""

        return await eventually(found, self.agent.dispatch)


@pytest.fixture
async def files(agent: Agent, tmp_path: Path) -> AsyncIterator[Files]:
    directory = tmp_path / "manifests"
    directory.mkdir()
    files = Files(agent, directory)
    yield files
    await files.tasks.close()


async def test_files_come_and_go_and_their_pods_with_them(files: Files) -> None:
    files.write("web.yaml", manifest())
    files.follow()
    await files.until_running()
    files.write("two.yaml", manifest("two"))
    await files.until_running("two-n")
    (files.directory / "web.yaml").unlink()
    await eventually(lambda: not files.workers(), files.agent.dispatch)
    assert files.workers("two-n")


async def test_dot_files_and_directories_are_passed_over(files: Files) -> None:
    (files.directory / ".hidden.yaml").write_text(manifest("hidden"))
    (files.directory / "below").mkdir()
    (files.directory / "below" / "deep.yaml").write_text(manifest("deep"))
    source = files.follow()
    await eventually(lambda: source.has_synced, source)
    assert list(files.agent.dispatch.workers) == []


async def test_a_changed_file_is_another_pod_which_begins_when_the_old_one_has_ended(files: Files) -> None:
    files.write("web.yaml", manifest())
    files.follow()
    before = await files.until_running()
    worker = files.agent.dispatch.get(before)
    files.write("web.yaml", manifest("web", "600"))
    after = await files.until_running(but=before)
    assert after != before
    old, new = worker.facts.container("main").last, files.agent.dispatch.get(after).facts.container("main").last
    assert old is not None
    assert new is not None
    assert (old.finished_at or float("inf")) <= new.created_at
    assert not files.agent.dispatch.has(before)


async def test_a_broken_file_leaves_all_pods_alone(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.write("web.yaml", manifest())
    files.write("bad.yaml", "a: [")
    files.follow()
    uid = await files.until_running()
    assert "could not process manifest file" in caplog.text
    files.write("web.yaml", "kind: [")
    await eventually(lambda: caplog.text.count("could not process") == 2, caplog.text)
    files.write("two.yaml", manifest("two"))
    await files.until_running("two-n")
    assert files.agent.dispatch.get(uid).facts.deletion is None


async def test_a_file_that_was_broken_while_no_agent_lived_ends_nothing(files: Files) -> None:
    files.write("web.yaml", manifest())
    files.follow()
    uid = await files.until_running()
    await files.tasks.close()
    files.write("web.yaml", "kind: [")
    await files.agent.restart()
    source = files.follow()
    await eventually(lambda: source.has_synced, source)
    assert files.agent.dispatch.get(uid).facts.deletion is None
    files.write("web.yaml", manifest())
    files.write("two.yaml", manifest("two"))
    await files.until_running("two-n")
    last = files.agent.dispatch.get(uid).facts.container("main").last
    assert last is not None
    assert (last.number, last.finished_at) == (0, None)


async def test_a_pod_whose_file_went_while_no_agent_lived_ends(files: Files) -> None:
    files.write("web.yaml", manifest())
    files.follow()
    await files.until_running()
    await files.tasks.close()
    (files.directory / "web.yaml").unlink()
    await files.agent.restart()
    assert files.workers()
    files.follow()
    await eventually(lambda: not files.workers(), files.agent.dispatch)


async def test_a_pod_whose_file_is_still_there_does_not_notice_a_new_agent(files: Files) -> None:
    files.write("web.yaml", manifest())
    files.follow()
    uid = await files.until_running()
    await files.tasks.close()
    await files.agent.restart()
    source = files.follow()
    await eventually(lambda: source.has_synced, source)
    assert await files.until_running() == uid
    last = files.agent.dispatch.get(uid).facts.container("main").last
    assert last is not None
    assert last.number == 0


async def test_a_missing_directory_is_empty_and_one_that_cannot_be_read_is_not(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def told(problem: str) -> int:
        found = [each for each in caplog.records if each.getMessage().startswith(problem)]
        assert all(vars(each)["directory"] == str(files.directory) for each in found)
        return len(found)

    files.rescan_seconds = 0.02
    files.write("web.yaml", manifest())
    source = files.follow()
    await files.until_running()

    def denied(path: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied", os.fspath(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", denied)
        await source.scan()
        await source.scan()
        assert files.workers()[0].facts.deletion is None
        assert told("reading manifests failed") == 1
    for number in (1, 2):
        files.directory.rename(files.directory.with_name("elsewhere"))
        await eventually(lambda: not files.workers(), files.agent.dispatch)
        await source.scan()
        assert told("manifest directory not there") == number
        files.directory.with_name("elsewhere").rename(files.directory)
        await files.until_running()


async def test_two_files_with_one_name_are_one_pod(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.write("a.yaml", manifest())
    files.write("b.yaml", manifest("web", "600"))
    source = files.follow()
    await files.until_running()
    assert [each.bundle.file for each in files.workers()] == [str(files.directory / "a.yaml")]
    await source.scan()
    await source.scan()
    assert caplog.text.count("duplicate pod name") == 1
    (files.directory / "a.yaml").unlink()
    await eventually(
        lambda: [each.bundle.file for each in files.workers()] == [str(files.directory / "b.yaml")], files.workers
    )


async def test_a_single_file_may_be_named(files: Files) -> None:
    files.write("web.yaml", manifest())
    files.write("two.yaml", manifest("two"))
    files.directory = files.directory / "web.yaml"
    files.follow()
    await files.until_running()
    assert not files.workers("two-n")


async def test_the_source_reports_once(files: Files) -> None:
    source = StaticSource(files.directory, files.agent.dispatch, node_name="n")
    assert files.agent.dispatch.unreported == {SOURCE}
    await source.scan()
    assert files.agent.dispatch.unreported == set()
