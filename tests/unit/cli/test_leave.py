"""A machine that stops being a node, and pods that are not the terminal's to end."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.support.command import Command
from tests.support.guests import guest
from tests.support.pods import container, pod
from tests.support.waiting import eventually_now


def static_pod(directory: Path, name: str) -> Path:
    """The manifest of a pod that runs for ever."""
    directory.mkdir(exist_ok=True)
    file = directory / f"{name}.json"
    document = msgspec.to_builtins(pod(container("main", "sleep"), name=name))
    file.write_bytes(msgspec.json.encode({"apiVersion": "v1", "kind": "Pod", **document}))
    return file


def test_a_pod_of_a_file_is_not_the_terminals_to_end(command: Command, tmp_path: Path) -> None:
    file = static_pod(tmp_path / "manifests", "web")
    with command.started("node", "--manifest-dir", str(file.parent)):
        (found,) = eventually_now(lambda: command.pods() if (command.state / "agent.sock").exists() else [], command)
        name = found["metadata"]["name"]
        for verb in ("stop", "rm"):
            refused = command.run(verb, name)
            assert refused.returncode == 1
            assert f"comes from {file}".encode() in refused.stderr
        held = command.run("leave")
        assert held.returncode == 2
        assert b"end it first" in held.stderr


def test_leaving_wants_the_clusters_pods_gone_or_to_be_forced(command: Command, tmp_path: Path) -> None:
    file = static_pod(tmp_path / "manifests", "web")
    with command.started("node", "--manifest-dir", str(file.parent)):
        eventually_now(lambda: list(command.state.glob("logs/*/*/main/0.log")), command)
    command.succeed("run", "--detach", "--name", "mine", str(guest("sleep")))
    command.kill_agent()
    refused = command.run("leave")
    assert refused.returncode == 2
    assert b"1 pods of the cluster are on this machine yet: default/web-" in refused.stderr
    left = command.run("leave", "--force")
    assert (left.returncode, left.stderr) == (0, b"")
    told = left.stdout.decode()
    assert "there was no pod network" in told
    assert "there was no identity" in told
    (kept,) = command.pods()
    assert kept["metadata"]["name"] == "mine"
    command.succeed("rm", "mine")
    assert command.pods() == []
