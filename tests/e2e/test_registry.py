"""Images by way of a real registry, as a user moves them."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Wasmlet
from tests.support.guests import guest
from tests.support.registry import PASSWORD, USERNAME, docker_registry


@pytest.mark.parametrize("layout", ["cncf", "krustlet"])
def test_pushed_image_runs(tmp_path: Path, wasmlet: Wasmlet, layout: str) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as registry:
        name = f"{registry.address}/tools/exit:1"
        digest = wasmlet("push", "--layout", layout, guest("exit"), name).stdout.decode().strip()
        assert digest.startswith("sha256:")
        wasmlet("run", name, "--", "42", status=42)
        assert name in wasmlet("images").stdout.decode()
        assert json.loads(wasmlet("images", "-o", "json").stdout)[0]["reference"] == name
        wasmlet("rmi", name)
        assert name not in wasmlet("images").stdout.decode()
        assert digest in wasmlet("pull", name).stdout.decode()
        missing = wasmlet("run", f"{registry.address}/tools/nothing:1", status=127)
        assert b"tools/nothing:1" in missing.stderr
    wasmlet("run", name, "--", "3", status=3)  # the registry is away, the store has it


def test_login_and_private_authority(tmp_path: Path, wasmlet: Wasmlet) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry", tls=True, login=True) as registry:
        name = f"{registry.address}/private/hello:1"
        settings = tmp_path / "config.toml"
        settings.write_text(f'ca-files = ["{registry.ca_file}"]\n')
        wasmlet.environment |= {"WASMLET_CONFIG": str(settings), "DOCKER_CONFIG": str(tmp_path)}
        refused = wasmlet("push", guest("hello"), name, status=None)
        assert refused.returncode != 0
        assert PASSWORD.encode() not in refused.stderr
        login = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.address: {"auth": login}}}))
        wasmlet("push", guest("hello"), name)
        assert wasmlet("run", name).stdout == b"hello\n"
        assert PASSWORD.encode() not in (wasmlet.state / "agent.log").read_bytes()


def test_pull_secret_of_the_manifest(tmp_path: Path, wasmlet: Wasmlet) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry", login=True) as registry:
        name = f"{registry.address}/private/hello:1"
        logins = json.dumps({"auths": {registry.address: {"username": USERNAME, "password": PASSWORD}}})
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "config.json").write_text(logins)
        wasmlet.environment["DOCKER_CONFIG"] = str(tmp_path / "docker")
        wasmlet("push", guest("hello"), name)
        wasmlet.environment["DOCKER_CONFIG"] = str(tmp_path)
        manifest = wasmlet.folder / "pod.yaml"
        manifest.write_text(_with_pull_secret(name, logins))
        assert wasmlet("run", manifest).stdout == b"hello\n"
        wasmlet("rmi", name)
        manifest.write_text(_with_pull_secret(name, logins).replace("name: login }]", "name: other }]"))
        assert wasmlet("run", manifest, status=None).returncode != 0


def _with_pull_secret(image: str, logins: str) -> str:
    return f"""
apiVersion: v1
kind: Secret
metadata: {{ name: login }}
type: kubernetes.io/dockerconfigjson
stringData: {{ .dockerconfigjson: '{logins}' }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: private }}
spec:
  restartPolicy: Never
  imagePullSecrets: [{{ name: login }}]
  containers: [{{ name: hello, image: "{image}" }}]
"""


def test_what_is_pushed_says_what_it_is_and_is_read_by_others(tmp_path: Path, wasmlet: Wasmlet) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as registry:
        name = f"{registry.address}/tools/hello:1"
        push = (
            "push",
            "--annotation",
            "org.example.team=a=b",
            "-a",
            "org.example.empty=",
            guest("hello.component"),
            name,
        )
        digest = wasmlet(*push).stdout.decode().strip()
        manifest = json.loads(registry.blob(digest).read_bytes())
        assert manifest["annotations"] == {"org.example.team": "a=b", "org.example.empty": ""}
        config = json.loads(registry.blob(manifest["config"]["digest"]).read_bytes())
        assert config["component"]["exports"] == ["wasi:cli/run@0.2.12"]
        assert "wasi:io/streams@0.2.12" in config["component"]["imports"]
        assert wasmlet("run", name).stdout == b"hello\n"
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", f"docker://{name}"]
        subprocess.run([*command, f"oci:{tmp_path}/copy:hello"], check=True)
        (entry,) = json.loads((tmp_path / "copy" / "index.json").read_text())["manifests"]
        assert entry["digest"] == digest
        broken = wasmlet.folder / "broken.wasm"
        broken.write_bytes(guest("hello.component").read_bytes()[:500])
        refused = wasmlet("push", broken, name, status=None)
        assert refused.returncode != 0
        assert b"broken.wasm" in refused.stderr
        assert b"no KEY=VALUE" in wasmlet("push", "-a", "x", guest("hello"), name, status=2).stderr
