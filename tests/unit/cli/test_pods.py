"""`wasmlet ps`, `logs`, `stop`, `rm`, `inspect`."""

import json
import re
import signal
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.guests import guest, http_guest
from tests.support.processes import processes_of
from tests.support.waiting import eventually_now
from wasmlet.cli.pods import age, shown_status
from wasmlet.kube.types import (
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    Pod,
    PodStatus,
)
from wasmlet.pods.accounts import Account


def until_ended(command: Command, name: str) -> None:
    def has_ended() -> bool:
        phases = {each["metadata"]["name"]: each["status"]["phase"] for each in command.pods()}
        return phases.get(name) in ("Succeeded", "Failed")

    eventually_now(has_ended, name)


def test_nothing_is_started_to_see_that_there_is_nothing(command: Command) -> None:
    assert command.succeed("ps").split() == ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "UID"]
    assert command.pods() == []
    assert processes_of(command.state) == []
    assert command.run("logs", "nobody").returncode == 1


def test_a_pods_life_from_outside(command: Command) -> None:
    command.succeed("run", "-d", "--name", "mine", "-n", "space", str(guest("sleep")))
    row = command.succeed("ps").splitlines()[1]
    assert re.fullmatch(r"space +mine +1/1 +Running +0 +\d+s +[0-9a-f]{8}", row)
    inspected = json.loads(command.succeed("inspect", "space/mine"))
    assert inspected["pod"]["spec"]["containers"][0]["image"] == f"file:{guest('sleep')}"
    assert inspected["pod"]["status"]["phase"] == "Running"
    assert inspected["runs"][0]["attempt"] == 0
    assert [news["reason"] for news in inspected["news"]] == ["Pulled", "Created", "Started"]
    for chosen in ([], ["sleep"], ["-c", "sleep"], ["--tail", "-1"]):
        assert command.succeed("logs", "mine", *chosen) == "ready\n"
    assert command.run("logs", "mine", "sleep", "-c", "sleep").returncode == 2
    assert command.succeed("stop", "mine") == "mine\n"
    assert command.pods()[0]["status"]["phase"] == "Failed"
    assert command.succeed("logs", inspected["pod"]["metadata"]["uid"][:8]) == "ready\n"
    assert command.succeed("rm", "mine") == "mine\n"
    assert command.pods() == []
    result = command.run("rm", "mine")
    assert (result.returncode, result.stderr) == (
        1, b"wasmlet: there is no pod mine\n  hint: wasmlet ps lists them\n",
    )  # fmt: skip


def test_pods_survive_their_agent_and_are_seen_by_the_next(command: Command) -> None:
    command.succeed("run", "-d", "--name", "mine", str(guest("sleep")))
    (before,) = command.pods()
    command.kill_agent()
    (after,) = command.pods()
    assert after["status"]["containerStatuses"] == before["status"]["containerStatuses"]
    assert command.succeed("rm", "mine") == "mine\n"


def test_logs_follow_to_the_end(command: Command) -> None:
    command.succeed("run", "-d", "--name", "mine", str(guest("sleep")), "--", "1")
    with command.started("logs", "-f", "mine") as started:
        assert started.read(6) == b"ready\n"
        assert started.wait() == 0
    assert command.pods()[0]["status"]["phase"] == "Succeeded"


def test_logs_can_be_cut_and_stamped(command: Command) -> None:
    command.succeed("run", "-d", "--name", "mine", str(guest("lines")), "--", "20", "10")
    until_ended(command, "mine")
    everything = command.succeed("logs", "mine").splitlines()
    assert everything == [f"{number:08}.." for number in range(20)]
    assert command.succeed("logs", "--tail", "2", "mine").splitlines() == everything[-2:]
    assert command.succeed("logs", "--tail", "0", "mine") == ""
    assert command.succeed("logs", "--since", "100", "mine").splitlines() == everything
    assert command.succeed("logs", "--since", "0", "mine") == ""
    stamped = command.succeed("logs", "-t", "mine").splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z 00000000\.\.", stamped[0])
    assert command.run("logs", "-p", "mine").returncode == 1


def test_logs_into_a_pipe_that_is_closed(command: Command) -> None:
    command.succeed("run", "-d", "--name", "mine", str(guest("lines")), "--", "100000", "10")
    until_ended(command, "mine")
    with command.started("logs", "mine") as started:
        assert started.read(8) == b"00000000"
        started.stdout.close()
        assert started.wait() == 141
        assert started.stderr.read() == b""


def test_each_of_several_names_is_tried(command: Command) -> None:
    command.succeed("run", "-d", "--name", "mine", str(guest("sleep")))
    result = command.run("rm", "nobody", "mine")
    assert (result.returncode, result.stdout) == (1, b"mine\n")
    assert b"there is no pod nobody" in result.stderr


def test_ctrl_c_ends_logs_and_not_the_pod(command: Command) -> None:
    command.succeed("run", "-d", "--name", "mine", str(guest("sleep")))
    with command.started("logs", "-f", "mine") as started:
        assert started.read(6) == b"ready\n"
        started.process.send_signal(signal.SIGINT)
        assert started.wait() == 130
        assert b"Traceback" not in started.stderr.read()
    assert command.pods()[0]["status"]["phase"] == "Running"


# --- pure -------------------------------------------------------------------------------------------------------------


def account(
    stage: str = "running", phase: str = "Running", reason: str = "", **states: list[ContainerState]
) -> Account:
    inits, apps = (
        [ContainerStatus(name=f"{kind}{number}", state=state) for number, state in enumerate(states.get(kind, []))]
        for kind in ("init", "app")
    )
    status = PodStatus(phase=phase, reason=reason, init_container_statuses=inits, container_statuses=apps)
    return Account(pod=Pod(status=status), stage=stage, exit_code=None, runs=[], failures={})


def waiting(reason: str) -> ContainerState:
    return ContainerState(waiting=ContainerStateWaiting(reason=reason))


def ended(code: int) -> ContainerState:
    reason = "Completed" if code == 0 else "Error"
    return ContainerState(terminated=ContainerStateTerminated(exit_code=code, reason=reason))


RUNS = ContainerState(running=ContainerStateRunning())


@pytest.mark.parametrize(
    ("shown", "given"),
    [
        ("Running", account(app=[RUNS])),
        ("CrashLoopBackOff", account(app=[RUNS, waiting("CrashLoopBackOff")])),
        ("ImagePullBackOff", account(phase="Pending", app=[waiting("ImagePullBackOff")])),
        ("Completed", account("gone", "Succeeded", app=[ended(0)])),
        ("Error", account("gone", "Failed", app=[ended(0), ended(3)])),
        ("DeadlineExceeded", account("gone", "Failed", "DeadlineExceeded", app=[ended(143)])),
        ("Terminating", account("ending", app=[RUNS])),
        ("Init:Error", account("running", "Pending", init=[ended(1)], app=[waiting("PodInitializing")])),
        ("Init:1/2", account("running", "Pending", init=[ended(0), waiting("PodInitializing")])),
        ("Running", account(init=[ended(0)], app=[RUNS])),
        ("PodInitializing", account("running", "Pending", init=[ended(0)], app=[waiting("PodInitializing")])),
    ],
)
def test_one_word_for_a_pod(shown: str, given: Account) -> None:
    assert shown_status(given) == shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172800, "2d")]
)
def test_ages(seconds: int, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_000_000_000.0 + seconds)
    assert age("2001-09-09T01:46:40Z") == text
    assert age(None) == "-"


@pytest.mark.parametrize("since", ["-5", "nan", "inf", "1x", "5m3", ""])
def test_a_duration_that_is_none(command: Command, since: str) -> None:
    result = command.run("logs", "--since", since, "pod")
    assert (result.returncode, b"is no duration" in result.stderr) == (2, True), result


def test_a_file_is_inspected(command: Command, tmp_path: Path) -> None:
    found = json.loads(command.succeed("inspect", str(http_guest())))
    assert (found["kind"], found["wasi"], found["missing"], found["problem"]) == ("http", "p2", [], "")
    assert any(each.startswith("wasi:http/incoming-handler@0.2") for each in found["exports"])
    assert found["bytes"] == http_guest().stat().st_size
    (tmp_path / "text").write_text("text")
    (tmp_path / "folder.wasm").mkdir()
    for name, status, text in (
        ("text", 126, b"it is text"), ("none.wasm", 1, b"no such file"), ("folder.wasm", 2, b"Is a directory"),
    ):  # fmt: skip
        result = command.run("inspect", str(tmp_path / name))
        assert (result.returncode, text in result.stderr) == (status, True), result
