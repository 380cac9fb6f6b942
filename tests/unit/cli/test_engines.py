"""`wasmlet engines` as an operator sees it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.support.command import Command
from tests.support.guests import guest
from tests.support.waiting import eventually_now
from wasmlet.sandbox.program import find_engine_program

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: {policy}
  containers:
    - {{name: main, image: "file:{image}"}}
"""


def engines(command: Command) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(command.succeed("engines", "-o", "json"))
    return found


def restarts(command: Command) -> dict[str, int]:
    return {each["metadata"]["name"]: each["status"]["containerStatuses"][0]["restartCount"] for each in command.pods()}


def test_pods_leave_engines_of_another_release_when_the_operator_says_so(command: Command, tmp_path: Path) -> None:
    for name, policy in (("one", "Always"), ("two", "Always"), ("job", "Never")):
        (tmp_path / f"{name}.yaml").write_text(MANIFEST.format(name=name, policy=policy, image=guest("sleep")))
        command.succeed("run", "-d", str(tmp_path / f"{name}.yaml"))
    (old,) = engines(command)
    assert (old["namespace"], old["old"], len(old["pods"])) == ("default", False, 3)  # type: ignore[arg-type]
    assert int(str(old["memoryBytes"])) > 0
    listed = command.succeed("engines").splitlines()
    assert listed[0].split()[:2] == ["ENGINE", "POOL"]
    assert str(old["id"]) in listed[1]
    assert "seccomp" in listed[1]
    assert "CONNECTIONS" in listed[0]
    assert old["engine"]["memory"]["limit"] > old["engine"]["memory"]["used"] > 0  # type: ignore[index]
    assert "every engine is of this release" in command.succeed("engines", "drain")

    release = tmp_path / "wasmlet-engine"
    release.write_bytes(find_engine_program().read_bytes())  # another file is another release
    release.chmod(0o755)
    os.kill(command.agent_pid(), 9)
    command.environment["WASMLET_ENGINE"] = str(release)
    eventually_now(lambda: [each["old"] for each in engines(command)] == [True], "an agent of the other release")
    said = command.succeed("engines", "drain", "--batch", "2")
    assert "default/one: restarted main" in said
    assert "default/two: restarted main" in said
    assert "default/job: goes on in its engine until it ends" in said
    assert restarts(command) == {"one": 1, "two": 1, "job": 0}
    assert [(each["old"], len(each["pods"])) for each in engines(command)] == [(True, 1), (False, 2)]  # type: ignore[arg-type]
    command.succeed("stop", "job")
    assert "job" not in command.succeed("engines", "drain"), "it has ended, and there is nothing left to move"


def test_a_drain_that_cannot_go_on_leaves_pods_as_they_are(command: Command, tmp_path: Path) -> None:
    for name, image in (("one", "sleep"), ("busy", "spin")):  # the second hears no notice
        (tmp_path / f"{name}.yaml").write_text(MANIFEST.format(name=name, policy="Always", image=guest(image)))
        command.succeed("run", "-d", str(tmp_path / f"{name}.yaml"))
    before = {each["metadata"]["name"]: each["status"] for each in command.pods()}
    (old,) = engines(command)
    release = tmp_path / "wasmlet-engine"
    release.write_text("#!/bin/sh\necho 'of another machine' >&2\nexit 3\n")
    release.chmod(0o755)
    command.kill_agent()
    command.environment["WASMLET_ENGINE"] = str(release)
    eventually_now(lambda: [each["old"] for each in engines(command)] == [True], "an agent of the broken release")
    failed = command.run("engines", "drain")
    assert failed.returncode != 0
    said = failed.stderr.decode()
    assert "no engine of this release takes pods: the engine ended at its start: of another machine" in said
    assert "2 of 2 pods were left as they are" in said
    assert [each["id"] for each in engines(command)] == [old["id"]]
    after = {each["metadata"]["name"]: each["status"] for each in command.pods()}
    for name, status in before.items():
        assert after[name]["containerStatuses"] == status["containerStatuses"], name

    release.write_bytes(find_engine_program().read_bytes())
    command.kill_agent()
    eventually_now(lambda: [each["old"] for each in engines(command)] == [True], "an agent of the good release")
    said = command.succeed("engines", "drain", "--batch", "2")
    assert "default/one: restarted main" in said
    assert "default/busy: restarted main" in said
    assert restarts(command) == {"one": 1, "busy": 1}


def test_nobody_has_engines(command: Command) -> None:
    assert engines(command) == []
