"""A node's images: whom they are for, who vouches for them, when they go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.operations.node import MARKS, Join, container_status
from tests.support.cosign import Signer, push
from tests.support.guests import guest
from tests.support.programs import script
from tests.support.registry import PASSWORD, USERNAME, docker_registry
from tests.support.waiting import eventually_now

pytestmark = MARKS


def test_only_images_that_the_policy_allows_run(join: Join, images: str, tmp_path: Path) -> None:
    node, signer = join("wasm-trusts"), Signer()
    (tmp_path / "team.pub").write_text(signer.pem)
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"version: 1\ndefault: never\nrules: [{{images: '{images}/*', allow: {{keys: [team.pub]}}}}]\n")
    node.start("--image-policy", policy)
    node.run("signed-later", "sleep")

    def waiting() -> Any:
        statuses = node.pod("signed-later")["status"].get("containerStatuses", [{}])
        return statuses[0].get("state", {}).get("waiting", {})

    eventually_now(lambda: waiting().get("reason") == "SignatureValidationFailed", waiting, seconds=30)
    message = waiting()["message"]
    name = f"{images}/sleep:1"
    assert message.startswith(f"image pull failed for {name} because the signature validation failed: it is not signed")
    assert f"rule {images}/* of the image policy {policy} wants one; sign it (cosign sign --key KEY " in message
    events = ("get", "events", "--field-selector", "involvedObject.name=signed-later", "-o", "jsonpath={..message}")
    eventually_now(lambda: f'Failed to pull image "{name}": {message}' in node.kubectl(*events), waiting)
    eventually_now(lambda: "Error: SignatureValidationFailed" in node.kubectl(*events), waiting)
    digest = node.wasmlet("push", guest("sleep"), name).stdout.decode().strip()
    push(images, "sleep", signer.tagged(digest))
    node.until_running("signed-later")  # after the back-off


CLOUD = """
import base64, json, sys
asked = json.load(sys.stdin)
claims = asked["serviceAccountToken"].split(".")[1]
claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
assert claims["aud"] == ["cloud"], claims
assert claims["kubernetes.io"]["serviceaccount"]["name"] == "puller", claims
assert asked["serviceAccountAnnotations"] == {{"role": "reader"}}, asked
print(json.dumps({{
    "kind": "CredentialProviderResponse", "apiVersion": asked["apiVersion"], "cacheKeyType": "Image",
    "auth": {{{address!r}: {{"username": {username!r}, "password": {password!r}}}}},
}}))
"""


def test_a_private_image_is_for_pods_that_may_pull_it(join: Join, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry", login=True) as registry:
        node, image = join("wasm-private"), f"{registry.address}/private/sleep:1"
        logins = {"auths": {registry.address: {"username": USERNAME, "password": PASSWORD}}}
        (tmp_path / "config.json").write_text(json.dumps(logins))
        node.environment["DOCKER_CONFIG"] = str(tmp_path)
        node.wasmlet("push", guest("sleep"), image)
        (tmp_path / "config.json").unlink()
        script(tmp_path, "cloud", CLOUD.format(address=registry.address, username=USERNAME, password=PASSWORD))
        (tmp_path / "providers.yaml").write_text(yaml.safe_dump({
            "kind": "CredentialProviderConfig", "apiVersion": "kubelet.config.k8s.io/v1",
            "providers": [{
                "name": "cloud", "matchImages": [registry.address], "defaultCacheDuration": "1m",
                "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
                "tokenAttributes": {
                    "serviceAccountTokenAudience": "cloud", "cacheType": "ServiceAccount",
                    "requireServiceAccount": True, "requiredServiceAccountAnnotationKeys": ["role"],
                },
            }],
        }))  # fmt: skip
        settings = tmp_path / "config.toml"
        settings.write_text(
            f'image-credential-provider-config = "{tmp_path}/providers.yaml"\n'
            f'image-credential-provider-bin-dir = "{tmp_path}"\n'
        )
        node.environment["WASMLET_CONFIG"] = str(settings)
        node.start()
        node.kubectl("create", "secret", "docker-registry", "regcred", f"--docker-server={registry.address}",
                     f"--docker-username={USERNAME}", f"--docker-password={PASSWORD}")  # fmt: skip
        main = {"containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}]}
        node.apply("owner", "default", {**main, "imagePullSecrets": [{"name": "regcred"}]})
        node.until_running("owner")
        node.kubectl("create", "namespace", "strangers")
        node.apply("stranger", "strangers", main)
        reasons = ("ErrImagePull", "ImagePullBackOff")
        eventually_now(
            lambda: container_status(node.pod("stranger", "strangers"))["state"]["waiting"]["reason"] in reasons,
            lambda: node.pod("stranger", "strangers"), seconds=40,
        )  # fmt: skip
        node.kubectl("create", "serviceaccount", "puller", "-n", "strangers")
        node.kubectl("annotate", "serviceaccount", "puller", "role=reader", "-n", "strangers")
        # NodeRestriction lets a node ask for no audience that is neither in the pod nor granted.
        node.kubectl("apply", "-f", "-", stdin=AUDIENCE.encode())
        node.apply("puller", "strangers", {**main, "serviceAccountName": "puller"})
        node.until_running("puller", "strangers")
        node.kubectl("delete", "pod", "owner", "--now")
        node.kubectl("delete", "pod", "--all", "-n", "strangers", "--now")


AUDIENCE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: cloud-audience }
rules: [{ apiGroups: [""], resources: [cloud], verbs: [request-serviceaccounts-token-audience] }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: cloud-audience }
subjects: [{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:nodes" }]
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cloud-audience }
"""


def test_a_node_whose_disk_is_full_loses_unused_images_and_says_what_does_not_help(join: Join, tmp_path: Path) -> None:
    node = join("wasm-full")
    used, unused = node.image("sleep"), node.image("hello")
    node.wasmlet("pull", unused)
    node.start()
    node.run("user", "sleep")
    node.until_running("user")
    node.end()
    settings = tmp_path / "config.toml"
    settings.write_text(
        "image-gc-high-threshold-percent = 1\nimage-gc-low-threshold-percent = 0\nimage-minimum-gc-age-seconds = 0\n"
    )
    node.environment["WASMLET_CONFIG"] = str(settings)
    node.start()

    def stored() -> list[str]:
        return [each["reference"] for each in json.loads(node.wasmlet("images", "-o", "json").stdout)]

    eventually_now(lambda: stored() == [used], stored)
    selector = f"--field-selector=involvedObject.name={node.name},reason=FreeDiskSpaceFailed"
    (event,) = eventually_now(lambda: node.items("events", "-n", "default", selector), node.log.read_text, seconds=20)
    assert event["type"] == "Warning"
    assert "used). Failed to free sufficient space by deleting unused images (freed " in event["message"]
    node.kubectl("delete", "pod", "user", "--now")
