"""A policy that wants signatures, as a user meets it."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conftest import Wasmlet
from tests.support.cosign import Signer, push
from tests.support.guests import guest
from tests.support.registry import docker_registry


def test_only_signed_images_run(tmp_path: Path, wasmlet: Wasmlet) -> None:
    (tmp_path / "registry").mkdir()
    signer = Signer()
    (wasmlet.folder / "team.pub").write_text(signer.pem)
    policy = wasmlet.folder / "policy.yaml"
    with docker_registry(tmp_path / "registry") as registry:
        name = f"{registry.address}/team/hello:1"
        rule = f"{{images: '{registry.address}/team/**', allow: {{keys: [team.pub]}}}}"
        policy.write_text(f"version: 1\ndefault: never\nrules: [{rule}]\n")
        digest = wasmlet("push", guest("hello"), name).stdout.decode().strip()
        refused = wasmlet("run", "--image-policy", "policy.yaml", name, status=125).stderr.decode()
        assert f"rule {registry.address}/team/** of the image policy {policy} wants one" in refused
        assert f"cosign sign --key KEY {registry.address}/team/hello@{digest}" in refused
        wasmlet("run", name)  # without the flag there is no policy
        wasmlet("run", "--image-policy", "policy.yaml", name, status=125)  # that it is in the store changes nothing
        push(registry.address, "team/hello", signer.tagged(digest))
        assert wasmlet("run", "--image-policy", "policy.yaml", name).stdout == b"hello\n"
        assert digest.encode() in wasmlet("pull", "--image-policy", "policy.yaml", name).stdout
        wasmlet("push", guest("exit"), f"{registry.address}/other/exit:1")
        wasmlet("pull", "--image-policy", "policy.yaml", f"{registry.address}/other/exit:1", status=2)
        wasmlet("run", "--image-policy", "policy.yaml", f"{registry.address}/other/exit:1", status=125)
    wasmlet("run", "--image-policy", "policy.yaml", name)  # the registry is away; it is known who signed


def test_a_broken_policy_is_told_before_anything_runs(wasmlet: Wasmlet) -> None:
    policy = wasmlet.folder / "policy.yaml"
    policy.write_text("version: 1\ndefault: sometimes\n")
    said = wasmlet("run", "--image-policy", policy, guest("hello"), status=2).stderr.decode()
    assert f"cannot use the image policy {policy}: Invalid enum value 'sometimes' - at `$.default`" in said
    assert not (wasmlet.state / "agent.sock").exists()
    said = wasmlet("node", "--image-policy", "none.yaml", status=2).stderr.decode()
    assert "none.yaml: it cannot be read: No such file" in said


def test_the_agents_own_policy_holds_for_everybody(tmp_path: Path, wasmlet: Wasmlet) -> None:
    policy = wasmlet.folder / "policy.yaml"
    policy.write_text("version: 1\ndefault: never\nrules: [{images: 'file:/**', allow: always}]\n")
    settings = tmp_path / "config.toml"
    settings.write_text(f'image-policy = "{policy}"\n')
    wasmlet.environment["WASMLET_CONFIG"] = str(settings)
    assert wasmlet("run", guest("hello")).stdout == b"hello\n"
    assert b"lets no such image run" in wasmlet("run", "127.0.0.1:1/a/b:1", status=125).stderr
    assert b"lets no such image run" in wasmlet("pull", "127.0.0.1:1/a/b:1", status=2).stderr
