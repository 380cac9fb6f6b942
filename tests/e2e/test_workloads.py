"""What Kubernetes' own controllers do with a node of wasmlet: one cluster and one node for all of these tests."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Node, node_of_its_own
from tests.support.place import Place, container, controller, new_place, pod, pod_spec, template
from tests.support.walls import CLOSED, READS, tried
from wasmlet.sandbox.engines import User

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("workloads"),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node, and a registry that has the guests."""
    guests = ("sleep", "env", "exit", "files", "flaky", "hello", "lines", "termination", "watch")
    with node_of_its_own(tmp_path_factory.mktemp("workloads"), *guests) as node:
        yield node


@pytest.fixture
def place(node: Node) -> Iterator[Place]:
    with new_place(node) as place:
        yield place


# --- pods -------------------------------------------------------------------------------------------------------------


def test_a_watcher_sees_running_before_the_end(place: Place, tmp_path: Path) -> None:
    output = tmp_path / "phases"
    shown = 'jsonpath={.metadata.name} {.status.phase}{"\\n"}'
    watch = ("--namespace", place.namespace, "get", "pods", "--watch", "--output", shown)
    ends = {"hello": "Succeeded", "exit": "Failed"}
    with place.node.cluster.started_kubectl(*watch, output=output):
        # What the watch shows first; from here on nothing escapes it.
        place.apply(pod("first", container(place.image("sleep"))))
        place.eventually(lambda: "first Running" in output.read_text(), output)
        pods = [pod(f"{name}-{number}", container(place.image(name), "3")) for name in ends for number in range(4)]
        place.apply(*pods)
        names = {each["metadata"]["name"]: ends[each["metadata"]["name"].partition("-")[0]] for each in pods}
        place.eventually(lambda: all(f"{name} {end}\n" in output.read_text() for name, end in names.items()), output)
    lines = [line.split() for line in output.read_text().splitlines()]
    for name, end in names.items():
        phases = [phase for each, phase in lines if each == name]
        assert list(dict.fromkeys(phases)) == ["Pending", "Running", end], (name, phases)
        assert phases == sorted(phases, key=["Pending", "Running", end].index), "no way back"


def test_a_pod_without_the_toleration_stays_away(place: Place) -> None:
    place.apply(pod("linux", container("registry.invalid/linux:1"), tolerations=[]))
    place.wait("PodScheduled=False", "pod/linux")
    found = place.get("pod/linux")
    assert found["status"]["phase"] == "Pending"
    assert "nodeName" not in found["spec"]
    assert "untolerated taint" in found["status"]["conditions"][0]["message"]


def test_a_runtime_class_brings_pods_without_tolerations(place: Place) -> None:
    deploy = Path(__file__).parents[2] / "deploy" / "runtimeclasses.yaml"
    place.kubectl("apply", "-f", deploy)
    place.apply(pod("classy", container(place.image("hello")), tolerations=[], runtimeClassName="wasmlet"))
    place.wait(".status.phase=Succeeded", "pod/classy")
    assert place.logs("classy") == "hello\n"


def test_describe_and_get_show_what_people_look_for(place: Place) -> None:
    limited = container(place.image("sleep"), resources={"limits": {"memory": "64Mi", "cpu": "500m"}})
    failing = container(place.image("termination"), "the reason why", name="failing")
    place.apply(pod("shown", limited, failing))
    place.wait(".status.containerStatuses[0].state.terminated.message=the reason why", "pod/shown")
    described = " ".join(place.kubectl("describe", "pod", "shown").split())
    for expected in (
        "Node: krustlet/", "Status: Running", "QoS Class: Burstable",
        "Limits: cpu: 500m memory: 64Mi", "Reason: Error Message: the reason why Exit Code: 1",
        "Tolerations: kubernetes.io/arch=wasm32-wasi", "Container ID: wasmlet://", "Image ID: ",
    ):  # fmt: skip
        assert expected in described, (expected, described)
    row = place.kubectl("get", "pods", "-o", "wide").splitlines()[1].split()
    address = place.get("pod/shown")["status"]["podIP"]
    assert row[:4] == ["shown", "1/2", "Error", "0"]
    assert address in row
    assert "krustlet" in row
    node = " ".join(place.kubectl("describe", "node", "krustlet").split())
    for expected in ("Taints: kubernetes.io/arch=wasm32-wasi:NoExecute", "KubeletReady", "Allocatable:", "wasmlet://"):
        assert expected in node, (expected, node)
    assert f"{place.namespace} shown 500m" in node
    assert "cpu 500m" in node


def test_events_tell_a_pods_story(place: Place) -> None:
    place.apply(
        pod("told", container(place.image("hello"))),
        pod("missing", container(place.image("nothing"))),
        pod("crashing", container(place.image("exit"), "1"), restart="Always"),
    )
    place.wait(".status.phase=Succeeded", "pod/told")

    def reasons(name: str) -> list[str]:
        events = place.get("events", f"--field-selector=involvedObject.name={name}")["items"]
        return [each["reason"] for each in events]

    place.eventually(lambda: {"Scheduled", "Pulled", "Created", "Started"} <= set(reasons("told")), reasons)
    assert len(reasons("told")) == len(set(reasons("told"))), "each is told once"
    place.eventually(lambda: {"Pulling", "Failed", "BackOff"} <= set(reasons("missing")), reasons)
    place.eventually(lambda: "BackOff" in reasons("crashing"), reasons)
    assert "Back-off restarting failed container main" in place.kubectl("describe", "pod", "crashing")
    assert "ImagePullBackOff" in place.kubectl("get", "pods") or "ErrImagePull" in place.kubectl("get", "pods")
    assert "Started" in place.kubectl("get", "events")


# --- configuration ----------------------------------------------------------------------------------------------------


def test_a_guest_reads_its_service_accounts_token(place: Place) -> None:
    directory = "/var/run/secrets/kubernetes.io/serviceaccount"
    files = [
        container(place.image("files"), "cat", f"{directory}/{name}", name=name) for name in ("token", "namespace")
    ]
    place.apply(pod("account", *files))
    place.wait(".status.phase=Succeeded", "pod/account")
    assert place.logs("account", "--container=namespace") == place.namespace
    token = place.logs("account", "--container=token")
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["kubernetes.io"]["pod"]["name"] == "account"
    anonymous = place.node.cluster.directory / "anonymous.kubeconfig"
    anonymous.touch()
    shown = place.node.cluster.kubectl(
        "--server", place.node.cluster.server, "--certificate-authority", place.node.cluster.ca_file,
        "--token", token, "auth", "whoami", kubeconfig=anonymous,
    )  # fmt: skip
    assert f"system:serviceaccount:{place.namespace}:default" in shown.stdout.decode()


def test_a_running_guest_sees_its_configuration_change(place: Place) -> None:
    def configured(word: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"word": word}}

    mount = {"name": "settings", "mountPath": "/settings"}
    watcher = container(place.image("watch"), "/settings/word", volumeMounts=[mount])
    place.apply(
        configured("one"), pod("watcher", watcher, volumes=[{"name": "settings", "configMap": {"name": "settings"}}])
    )
    place.eventually(lambda: place.logs("watcher") == "one\n", "the first")
    place.apply(configured("two"))
    place.eventually(lambda: place.logs("watcher") == "one\ntwo\n", "the second")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's agent has users to give")
def test_a_namespace_s_secrets_are_closed_to_the_engines_of_another(place: Place) -> None:
    with new_place(place.node) as other:
        users, keys = {}, {}
        for each in (place, other):
            each.kubectl("create", "secret", "generic", "login", f"--from-literal=word=of {each.namespace}")
            mounts = [{"name": "login", "mountPath": "/login"}]
            volumes = [{"name": "login", "secret": {"secretName": "login"}}]
            each.apply(pod("holder", container(each.image("sleep"), volumeMounts=mounts), volumes=volumes))
            each.wait("Ready", "pod/holder")
            engines = json.loads(place.node.wasmlet("engines", "-o", "json").stdout)
            (told,) = [it["engine"]["confinement"] for it in engines if it["namespace"] == each.namespace]
            users[each] = User(told["user"], told["group"])
            (keys[each],) = place.node.wasmlet.state.glob(f"pools/{each.namespace}/*/volumes/*/login/word")
        assert users[place] != users[other]
        for owner, user in users.items():
            for each, key in keys.items():
                assert tried(user, READS, key) == (f"of {each.namespace}" if each is owner else CLOSED)


def test_secrets_are_in_the_environment(place: Place) -> None:
    place.kubectl("create", "secret", "generic", "login", "--from-literal=WORD=open sesame")
    place.apply(pod("reader", container(place.image("env"), envFrom=[{"secretRef": {"name": "login"}}])))
    place.wait(".status.phase=Succeeded", "pod/reader")
    assert "WORD=open sesame\n" in place.logs("reader")


# --- logs -------------------------------------------------------------------------------------------------------------


def test_every_option_of_logs(place: Place) -> None:
    volumes = [{"name": "runs", "emptyDir": {}}]
    mounts = [{"name": "runs", "mountPath": "/runs"}]
    flaky = container(place.image("flaky"), "/runs/count", "2", name="flaky", volumeMounts=mounts)
    lines = container(place.image("lines"), "5", "10", name="lines")
    place.apply(pod("writer", flaky, lines, restart="OnFailure", volumes=volumes))
    place.wait(".status.phase=Succeeded", "pod/writer")
    written = "".join(f"{number:08d}..\n" for number in range(5))
    of_lines = ("writer", "--container=lines")
    assert place.logs(*of_lines) == written
    assert place.logs("writer", "--container=flaky") == "run 2\n"
    assert place.logs("writer", "--container=flaky", "--previous") == "run 1\n"
    # kubectl asks for containers in no order.
    assert place.logs("writer", "--all-containers") in ("run 2\n" + written, written + "run 2\n")
    assert "[pod/writer/lines] 00000004..\n" in place.logs("writer", "--all-containers", "--prefix")
    assert place.logs(*of_lines, "--tail=2") == "00000003..\n00000004..\n"
    assert place.logs(*of_lines, "--tail=0") == ""
    assert place.logs(*of_lines, "--limit-bytes=13") == written[:13]
    assert place.logs(*of_lines, "--since=1h") == written
    assert place.logs(*of_lines, "--since-time=2100-01-01T00:00:00Z") == ""
    assert place.logs(*of_lines, "--follow") == written, "it ends with the container"
    assert place.logs("--selector=app=writer", "--container=lines", "--tail=1") == "00000004..\n"
    stamps, contents = zip(
        *(line.split(" ") for line in place.logs(*of_lines, "--timestamps").splitlines()), strict=True
    )
    assert list(contents) == written.splitlines()
    assert list(stamps) == sorted(stamps)
    assert place.logs(*of_lines, f"--since-time={stamps[0]}") == written
    assert 'previous terminated container "lines"' in place.refused("logs", *of_lines, "--previous")
    assert "container nothing is not valid" in place.refused("logs", "writer", "--container=nothing")


def test_logs_follow_a_guest_that_goes_on(place: Place, tmp_path: Path) -> None:
    place.apply(pod("brief", container(place.image("sleep"), "3")), pod("away", container(place.image("nothing"))))
    place.wait("Ready", "pod/brief")
    output = tmp_path / "followed"
    with place.node.cluster.started_kubectl(
        "--namespace", place.namespace, "logs", "--follow", "brief", output=output
    ) as following:
        place.eventually(lambda: output.read_text() == "ready\n", output)
        assert following.wait(20) == 0
    place.eventually(
        lambda: "ErrImagePull" in json.dumps(place.get("pod/away")) or "BackOff" in place.kubectl("get", "pods")
    )
    assert 'container "main" in pod "away" is waiting to start' in place.refused("logs", "away")


# --- controllers ------------------------------------------------------------------------------------------------------


def test_a_deployment_scales_rolls_out_and_rolls_back(place: Place) -> None:
    def deployment(word: str, image: str = "sleep") -> dict[str, Any]:
        main = container(place.image(image), env=[{"name": "WORD", "value": word}])
        return controller("Deployment", "web", replicas=2, **template("web", main))

    status = ("rollout", "status", "deployment/web", "--timeout=40s")
    place.apply(deployment("one"))
    assert "successfully rolled out" in place.kubectl(*status)
    first = place.names()
    place.kubectl("scale", "deployment/web", "--replicas=4")
    place.kubectl(*status)
    assert first < place.names()
    place.kubectl("scale", "deployment/web", "--replicas=2")
    place.eventually(lambda: len(place.names()) == 2, "scaled down")
    place.apply(deployment("two"))
    place.kubectl(*status)
    place.eventually(lambda: len(place.names()) == 2, "only new ones")
    assert {each["spec"]["containers"][0]["env"][0]["value"] for each in place.pods()} == {"two"}
    second = place.names()
    # A version that cannot start takes nothing away, and goes back.
    place.apply(deployment("three", "nothing"))
    place.eventually(lambda: "ImagePull" in place.kubectl("get", "pods"), "the new one waits for its image")
    assert second <= place.names()
    assert place.get("deployment/web")["status"]["availableReplicas"] == 2
    place.kubectl("rollout", "undo", "deployment/web")
    place.kubectl(*status)
    place.eventually(lambda: place.names() == second, "as before")


def test_a_replica_set_replaces_what_is_deleted(place: Place) -> None:
    place.apply(controller("ReplicaSet", "set", replicas=2, **template("set", container(place.image("sleep")))))
    place.wait(".status.readyReplicas=2", "replicaset/set")
    gone = min(place.names())
    place.kubectl("delete", "pod", gone, "--timeout=40s")
    place.wait(".status.readyReplicas=2", "replicaset/set")
    place.eventually(lambda: len(place.names()) == 2 and gone not in place.names(), "a new one")


def test_jobs_count_completions_and_failures(place: Place) -> None:
    def job(name: str, image: str, *arguments: str, **spec: Any) -> dict[str, Any]:
        main = container(place.image(image), *arguments)
        return controller("Job", name, template={"spec": pod_spec(main, restartPolicy="Never")}, **spec)

    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}
    place.apply(
        job("many", "env", completions=4, parallelism=2, completionMode="Indexed"),
        job("broken", "exit", "1", backoffLimit=0),
        job("hopeless", "exit", "42", backoffLimit=6, podFailurePolicy={"rules": [rule]}),
    )
    place.wait("Complete", "job/many")
    place.wait("Failed", "job/broken", "job/hopeless")
    assert place.get("job/many")["status"]["succeeded"] == 4
    pods = place.pods("job-name=many")
    indexes = [place.logs(each["metadata"]["name"]) for each in pods]
    assert all(any(f"JOB_COMPLETION_INDEX={number}\n" in text for text in indexes) for number in range(4))
    reasons = {name: _condition(place.get(f"job/{name}"), "Failed")["reason"] for name in ("broken", "hopeless")}
    assert reasons == {"broken": "BackoffLimitExceeded", "hopeless": "PodFailurePolicy"}
    assert len(place.names("job-name=hopeless")) == 1


def test_a_cron_jobs_job_runs_when_it_is_asked_for(place: Place) -> None:
    jobs = {"spec": {"template": {"spec": pod_spec(container(place.image("hello")), restartPolicy="OnFailure")}}}
    place.apply(controller("CronJob", "nightly", schedule="0 3 * * *", jobTemplate=jobs))
    place.kubectl("create", "job", "now", "--from=cronjob/nightly")
    place.wait("Complete", "job/now")
    assert place.logs("job/now") == "hello\n"


def test_a_daemon_set_that_tolerates_comes(place: Place) -> None:
    place.apply(
        controller("DaemonSet", "everywhere", **template("everywhere", container(place.image("sleep")))),
        controller("DaemonSet", "linux", **template("linux", container(place.image("sleep")), tolerations=[])),
    )
    place.kubectl("rollout", "status", "daemonset/everywhere", "--timeout=40s")
    assert [each["spec"]["nodeName"] for each in place.pods("app=everywhere")] == ["krustlet"]
    assert place.get("daemonset/linux")["status"]["desiredNumberScheduled"] == 0


def test_a_stateful_set_keeps_order_and_names(place: Place) -> None:
    spec = template("store", container(place.image("sleep")))
    place.apply(controller("StatefulSet", "store", replicas=2, serviceName="store", **spec))
    place.kubectl("rollout", "status", "statefulset/store", "--timeout=40s")
    first, second = place.get("pod/store-0"), place.get("pod/store-1")
    assert first["spec"]["hostname"] == "store-0"
    assert second["metadata"]["creationTimestamp"] >= _condition(first, "Ready")["lastTransitionTime"]
    place.kubectl("delete", "pod", "store-0", "--timeout=40s")
    place.kubectl("rollout", "status", "statefulset/store", "--timeout=40s")
    again = place.get("pod/store-0")
    assert again["metadata"]["uid"] != first["metadata"]["uid"]
    place.kubectl("scale", "statefulset/store", "--replicas=1")
    place.eventually(lambda: place.names() == {"store-0"}, "the last one goes first")


# --- taking pods away -------------------------------------------------------------------------------------------------


def test_a_no_execute_taint_evicts_who_does_not_tolerate_it(place: Place) -> None:
    key = f"maintenance-{place.namespace}"
    staying = [{"operator": "Exists"}]
    place.apply(
        pod("leaves", container(place.image("sleep"))),
        pod("stays", container(place.image("sleep")), tolerations=staying),
    )
    place.wait("Ready", "pod/leaves", "pod/stays")
    place.kubectl("taint", "node", "krustlet", f"{key}=now:NoExecute")
    try:
        place.kubectl("wait", "--for=delete", "pod/leaves", "--timeout=40s")
        assert place.names() == {"stays"}
        place.wait("Ready", "pod/stays")
    finally:
        place.kubectl("taint", "node", "krustlet", f"{key}-")


def test_drain_keeps_the_disruption_budget(place: Place) -> None:
    spec = template("guarded", container(place.image("sleep")))
    budget = {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}
    place.apply(
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "guard"}, "spec": budget},
        controller("Deployment", "guarded", replicas=2, **spec),
    )
    place.kubectl("rollout", "status", "deployment/guarded", "--timeout=40s")
    place.wait(".status.disruptionsAllowed=1", "poddisruptionbudget/guard")
    drain = ("drain", "krustlet", "--pod-selector=app=guarded")
    before = place.names()
    try:
        # One may go; its successor finds no other node, so the second has to stay.
        assert "Cannot evict pod as it would violate" in place.refused(*drain, "--timeout=6s")
        assert "SchedulingDisabled" in place.kubectl("get", "node", "krustlet")
        phases = {each["metadata"]["name"]: each["status"]["phase"] for each in place.pods()}
        assert len(before & phases.keys()) == 1
        assert sorted(phases.values()) == ["Pending", "Running"]
        place.kubectl("delete", "poddisruptionbudget", "guard")
        assert "drained" in place.kubectl(*drain, "--timeout=40s")
        assert not before & place.names()
    finally:
        place.kubectl("uncordon", "krustlet")
    place.kubectl("rollout", "status", "deployment/guarded", "--timeout=40s")


def _condition(found: dict[str, Any], kind: str) -> dict[str, Any]:
    conditions: list[dict[str, Any]] = found["status"]["conditions"]
    return next(each for each in conditions if each["type"] == kind)
