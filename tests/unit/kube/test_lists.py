"""JSON → structs: lines of watches, broken objects; and what a pod costs."""

import json
import time
from typing import Any

import msgspec
import pytest

from tests.support.fake_api import event
from wasmlet.base.errors import RetryableError, WasmletError
from wasmlet.kube.errors import ExpiredError
from wasmlet.kube.lists import BrokenError, Lines, decode_line, decode_object
from wasmlet.kube.resources import CONFIG_MAPS, PODS
from wasmlet.kube.types import ConfigMap, Pod

# As an API server writes them.
BOOKMARK = (
    b'{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"12746",'
    b'"creationTimestamp":null},"spec":{"containers":null},"status":{}}}'
)
EXPIRED = (
    b'{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",'
    b'"message":"too old resource version: 1 (2)","reason":"Expired","code":410}}'
)


def full_pod(number: int = 0) -> dict[str, Any]:
    """A pod as it comes from a cluster, with managed fields: about 5.5 kB."""
    mount = {
        "name": "kube-api-access-x",
        "readOnly": True,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }
    condition = {"status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    container = {
        "name": "main",
        "image": "registry.example/team/app@sha256:" + "a" * 64,
        "args": ["--port=8080", "--verbose"],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": f"VARIABLE_{each}", "value": "some value"} for each in range(6)]
        + [{"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
        "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "10m", "memory": "16Mi"}},
        "volumeMounts": [mount, {"name": "config", "mountPath": "/etc/app"}],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}},
    }
    fields: dict[str, Any] = {f"f:{name}": {".": {}, "f:a": {}, "f:b": {}} for name in "abcdefghijklmnopqrst"}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": f"web-5d9c7f6b4-{number:05}",
            "generateName": "web-5d9c7f6b4-",
            "namespace": "default",
            "uid": f"00000000-0000-0000-0000-{number:012}",
            "resourceVersion": str(1000 + number),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "5d9c7f6b4", "app.kubernetes.io/part-of": "shop"},
            "annotations": {"kubernetes.io/config.seen": "2026-01-01T00:00:00Z", "checksum/config": "b" * 64},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9c7f6b4", "uid": "c" * 36,
                 "controller": True, "blockOwnerDeletion": True}
            ],
            "managedFields": [
                {"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                 "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": fields}}
            ],
        },
        "spec": {
            "volumes": [
                {"name": "config", "configMap": {"name": "web", "defaultMode": 420}},
                {"name": "kube-api-access-x", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {
                        "apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
                ]}},
            ],
            "containers": [container],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "serviceAccount": "default",
            "nodeName": "node-1",
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 300},
            ],
            "priority": 0,
            "enableServiceLinks": True,
            "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": each, **condition}
                for each in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "hostIP": "10.0.0.1",
            "hostIPs": [{"ip": "10.0.0.1"}],
            "podIP": "10.244.1.7",
            "podIPs": [{"ip": "10.244.1.7"}],
            "startTime": "2026-01-01T00:00:00Z",
            "containerStatuses": [
                {"name": "main", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "lastState": {},
                 "ready": True, "restartCount": 0, "image": container["image"], "imageID": container["image"],
                 "containerID": "wasmlet://" + "d" * 64, "started": True}
            ],
            "qosClass": "Burstable",
        },
    }  # fmt: skip


def test_the_lines_of_a_watch() -> None:
    kind, found = decode_line(event("ADDED", full_pod(7)), PODS)
    assert found is not None
    assert (kind, found.metadata.resource_version) == ("ADDED", "1007")
    assert decode_line(BOOKMARK, PODS) == ("12746", None)
    with pytest.raises(ExpiredError, match="cannot watch pods: too old resource version"):
        decode_line(EXPIRED, PODS)
    with pytest.raises(WasmletError, match="answered with status 500"):
        decode_line(b'{"type":"ERROR","object":{"kind":"Surprise","code":"x"}}', PODS)


@pytest.mark.parametrize(
    "line", [b"x", b"{}", b"[]", b'{"type":"ADDED"', b'{"type":"ADDED"}', b'{"type":"NEW","object":{}}']
)
def test_what_is_no_line_of_a_watch(line: bytes) -> None:
    with pytest.raises(RetryableError):
        decode_line(line, PODS)


def test_an_object_in_another_order_or_with_nulls_is_the_same() -> None:
    document = full_pod()
    usual = decode_line(event("MODIFIED", document), PODS)
    assert decode_line(json.dumps({"object": document, "type": "MODIFIED"}).encode(), PODS) == usual
    document["metadata"]["finalizers"] = None
    document["spec"]["initContainers"] = None
    assert decode_line(event("MODIFIED", document), PODS) == usual


def test_a_broken_object_names_itself_and_no_value() -> None:
    document = full_pod()
    document["spec"]["containers"][0]["env"] = [{"name": "X", "value": {"s3cret": "s3cret"}}]
    with pytest.raises(BrokenError) as raised:
        decode_line(event("ADDED", document), PODS)
    assert raised.value.metadata.name == "web-5d9c7f6b4-00000"
    assert "$.spec.containers[0].env[0].value" in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("content", [b'{"metadata":7}', b'{"metadata":{"name":7},"data":1}', b"7", b"{"])
def test_a_very_broken_object_is_no_more_than_broken(content: bytes) -> None:
    with pytest.raises(BrokenError):
        decode_object(content, ConfigMap)


def test_lines_are_put_together() -> None:
    lines = Lines(100)
    assert lines.feed(b"a\nb\n\nc") == [b"a", b"b"]
    assert lines.feed(b"") == []
    assert lines.feed(b"d") == []
    assert lines.feed(b"e\nf\ng") == [b"cde", b"f"]
    assert lines.feed(b"\n") == [b"g"]
    with pytest.raises(RetryableError, match="more than 100 bytes"):
        lines.feed(b"x" * 101)


def test_a_pod_is_decoded_in_microseconds() -> None:
    """Loose, for machines under load; the numbers are in the report of the room."""
    line = event("MODIFIED", full_pod()).rstrip()
    decode_line(line, PODS)
    best = min(timed(line) for _ in range(5))
    assert best < 400e-6
    bare = min(timed_plain(line) for _ in range(5))
    print(f"{len(line)} bytes: {best * 1e6:.0f} µs a line, {bare * 1e6:.0f} µs with dictionaries")


def timed(line: bytes, count: int = 200) -> float:
    began = time.perf_counter()
    for _ in range(count):
        decode_line(line, PODS)
    return (time.perf_counter() - began) / count


def timed_plain(line: bytes, count: int = 200) -> float:
    began = time.perf_counter()
    for _ in range(count):
        json.loads(line)
    return (time.perf_counter() - began) / count


def test_a_config_map_keeps_its_text() -> None:
    content = msgspec.json.encode(ConfigMap(data={"k": "ä\n"}))
    assert decode_object(content, CONFIG_MAPS.type).data == {"k": "ä\n"}
    assert isinstance(decode_object(json.dumps(full_pod()).encode(), Pod), Pod)
