"""`wasmlet run`: a pod as a pipe, its end as an exit status."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.guests import guest, http_guest
from tests.support.processes import processes_of
from tests.support.waiting import eventually_now

READY = b"ready\n"


def manifest(directory: Path, *containers: str, kind: str = "", name: str = "pod", more: str = "") -> str:
    """A manifest of containers given as `NAME GUEST ARGUMENT…`."""
    lines = ["apiVersion: v1", "kind: Pod", f"metadata: {{name: {name}}}", "spec:", "  restartPolicy: Never"]
    lines += [more] if more else []
    lines += ["  containers:"]
    for each in containers:
        own, program, *arguments = each.split()
        lines += [f"  - name: {own}", f"    image: file:{guest(program)}", f"    args: {arguments}"]
    path = directory / f"{name}{kind}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


# --- serving ----------------------------------------------------------------------------------------------------------


def test_a_server_tells_its_address_and_ends_with_its_requests(command: Command) -> None:
    with command.started("run", str(http_guest()), "-e", "A=1") as run:
        address = run.stderr.readline().decode().strip()
        assert re.fullmatch(r"http://127\.88\.\d+\.\d+:8080/", address)
        with urllib.request.urlopen(f"{address}env", timeout=10) as response:
            assert response.read().splitlines()[0] == b"A=1"
        with urllib.request.urlopen(f"{address}log", timeout=10) as response:
            assert response.read() == b"logged"
        assert run.stdout.readline() == b"a line of stdout\n"
        assert run.stderr.readline() == b"a line of stderr\n"
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 0


def test_a_port_that_two_containers_want_is_told(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    containers = "".join(f"  - {{name: c{number}, image: file:{http_guest()}}}\n" for number in range(2))
    path.write_text(f"apiVersion: v1\nkind: Pod\nmetadata: {{name: twice}}\nspec:\n  containers:\n{containers}")
    result = command.run("run", str(path))
    assert result.returncode != 0
    assert re.search(rb"cannot listen on 127\.88\.\d+\.\d+:8080: address already in use", result.stderr), result


# --- pipes ------------------------------------------------------------------------------------------------------------


def test_output_comes_through_and_nothing_else(command: Command) -> None:
    result = command.run("run", str(guest("hello")))
    assert (result.returncode, result.stdout, result.stderr) == (0, b"hello\n", b"")
    assert command.pods() == []


def test_a_megabyte_goes_through_byte_for_byte(command: Command) -> None:
    content = random.Random(1).randbytes(1 << 20)
    result = command.run("run", str(guest("echo")), input=content)
    assert result.returncode == 0
    assert result.stdout == content


@pytest.mark.parametrize("content", [b"", b"\n", b"no newline", b"\0\xff\n\n", b"a\nb"])
def test_small_input_goes_through_byte_for_byte(command: Command, content: bytes) -> None:
    result = command.run("run", str(guest("echo")), input=content)
    assert (result.returncode, result.stdout, result.stderr) == (0, content, b"")


def test_stderr_stays_stderr(command: Command) -> None:
    result = command.run("run", str(guest("files")), "--", "cat", "/nothing")
    assert result.returncode == 1
    assert result.stdout == b""
    assert result.stderr.startswith(b"files: cat /nothing: ")


def test_several_containers_have_prefixes(command: Command, tmp_path: Path) -> None:
    path = manifest(tmp_path, "a hello", "b lines 2 8")
    result = command.run("run", path)
    assert result.returncode == 0
    assert sorted(result.stdout.splitlines()) == [b"[a] hello", b"[b] 00000000", b"[b] 00000001"]


def test_a_reader_that_goes_away_ends_the_run(command: Command) -> None:
    with command.started("run", str(guest("lines")), "--", "200000", "100") as started:
        assert started.read(8) == b"00000000"
        started.stdout.close()
        assert started.wait() == 141
        assert started.stderr.read() == b""
    assert command.pods() == []


# --- exit statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_the_containers_exit_code_is_the_status(command: Command, code: int) -> None:
    assert command.run("run", str(guest("exit")), "--", str(code)).returncode == code


def test_a_trap_is_134_and_shows_where(command: Command) -> None:
    result = command.run("run", str(guest("trap")))
    assert result.returncode == 134


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("./nothing.wasm", 127, "no such file"),
        ("nothing.yaml", 127, "no such file"),
        ("elf.wasm", 126, "ELF"),
        ("empty.wasm", 126, "empty.wasm"),
        ("127.0.0.1:1/app:1", 125, "127.0.0.1:1"),
        ("deployment.yaml", 2, "Deployment"),
        ("broken.yaml", 2, "line 2"),
        ("missing.yaml", 125, 'configmap "nothing" not found'),
        ("invalid.yaml", 2, "Not_Valid"),
    ],
)
def test_what_cannot_be_run_says_why(command: Command, tmp_path: Path, target: str, status: int, text: str) -> None:
    (tmp_path / "elf.wasm").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    (tmp_path / "empty.wasm").write_bytes(b"\0asm\x01\0\0\0")
    (tmp_path / "deployment.yaml").write_text("apiVersion: apps/v1\nkind: Deployment\n")
    (tmp_path / "broken.yaml").write_text("a: b\n  c: {\n")
    more = "  volumes: [{name: v, configMap: {name: nothing}}]"
    manifest(tmp_path, "a hello", name="missing", more=more)
    manifest(tmp_path, "Not_Valid hello", name="invalid")
    result = command.run("run", target, cwd=tmp_path)
    assert result.returncode == status, result
    assert text in result.stderr.decode()
    assert result.stderr.startswith(b"wasmlet: ")
    assert result.stdout == b""
    assert b"Traceback" not in result.stderr
    assert [each["metadata"]["name"] for each in command.pods()] == []


def test_a_manifest_is_read_from_standard_input(command: Command, tmp_path: Path) -> None:
    text = Path(manifest(tmp_path, "a hello")).read_bytes()
    result = command.run("run", "-", input=text)
    assert (result.returncode, result.stdout) == (0, b"hello\n")


def test_the_first_failed_pods_code_is_the_status(command: Command, tmp_path: Path) -> None:
    one, two = (Path(manifest(tmp_path, *each)).read_text() for each in (["a hello"], ["b exit 4"]))
    result = command.run("run", "-", input=f"{one}---\n{two.replace('name: pod', 'name: other')}".encode())
    assert result.returncode == 4
    assert result.stdout == b"[pod/a] hello\n"


# --- interruption -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP]])
@pytest.mark.parametrize("program", ["sleep", "spin"])
def test_a_signal_ends_the_pod_with_143(command: Command, signals: list[int], program: str) -> None:
    with command.started("run", str(guest(program))) as started:
        assert started.read(len(READY)) == READY
        for each in signals:
            started.process.send_signal(each)
        assert started.wait() == 143
        assert started.stderr.read() == b""
    assert command.pods() == []


def test_the_pod_of_a_run_that_is_killed_can_be_seen_and_removed(command: Command) -> None:
    with command.started("run", "--name", "left", str(guest("sleep"))) as started:
        assert started.read(len(READY)) == READY
        started.process.kill()
    assert [each["metadata"]["name"] for each in command.pods()] == ["left"]
    command.succeed("rm", "left")
    assert command.pods() == []


def test_the_pod_of_a_run_that_is_killed_is_removed_when_it_has_ended(command: Command) -> None:
    with command.started("run", str(guest("sleep")), "--", "1") as started:
        assert started.read(len(READY)) == READY
        started.process.kill()
    eventually_now(lambda: not command.pods(), "removed", seconds=10)


# --- the agent --------------------------------------------------------------------------------------------------------


def test_a_killed_agent_costs_no_byte_and_no_exit_code(command: Command) -> None:
    with command.started("run", str(guest("echo"))) as started:
        for part in (b"one\n", b"two\n", b"three\n"):
            started.stdin.write(part)
            assert started.read(len(part)) == part
            command.kill_agent()
        started.stdin.write(b"last")
        started.stdin.close()
        assert started.read(4) == b"last"
        assert started.wait() == 0
        assert started.stderr.read() == b""


def test_an_exit_code_of_a_time_without_agent_is_kept(command: Command) -> None:
    with command.started("run", str(guest("sleep"))) as started:
        assert started.read(len(READY)) == READY
        os.kill(started.process.pid, signal.SIGSTOP)
        command.kill_agent()
        (engine,) = [each for each in processes_of(command.state) if each != started.process.pid]
        os.kill(engine, signal.SIGKILL)
        os.kill(started.process.pid, signal.SIGCONT)
        assert started.wait() == 137


def test_the_pod_of_a_run_is_removed_though_the_agent_has_ended_for_idleness(command: Command) -> None:
    command.config.write_text("agent-idle-seconds = 0.2\n")
    with command.started("run", str(guest("sleep")), "--", "1") as started:
        assert started.read(len(READY)) == READY
        os.kill(started.process.pid, signal.SIGSTOP)
        eventually_now(lambda: processes_of(command.state) == [started.process.pid], "nothing else", seconds=20)
        command.config.write_text("")  # the next agent has time
        os.kill(started.process.pid, signal.SIGCONT)
        assert started.wait() == 0
    assert command.pods() == []


def test_an_agent_that_cannot_come_back_ends_the_run_with_a_message(command: Command) -> None:
    with command.started("run", str(guest("sleep"))) as started:
        assert started.read(len(READY)) == READY
        command.config.write_text("unknown-key = 1\n")
        command.kill_agent()
        assert started.wait() not in (0, 143)
        assert b"unknown" in started.stderr.read()


def test_an_agent_takes_no_modules_of_the_folder_that_it_is_started_in(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "somebody's"
    folder.mkdir()
    (folder / "json.py").write_text("raise SystemExit('taken from the folder')")
    safe = [sys.executable, "-P", *command.arguments("run", str(guest("hello")))[1:]]
    result = subprocess.run(safe, cwd=folder, env=command.environment, capture_output=True, timeout=40, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"hello\n", b"")


def test_the_least_and_the_largest_memory_limits_are_none(command: Command) -> None:
    for limit in ("0", "99999999Ti"):
        assert command.run("run", "--memory", limit, str(guest("hello"))).stdout == b"hello\n"


def test_a_restart_policy_is_the_manifests_to_say(command: Command, tmp_path: Path) -> None:
    result = command.run("run", "--restart", "Always", manifest(tmp_path, "c hello"))
    assert result.returncode == 2
    assert b"which says arguments, name, environment, volumes, limits and restarts itself" in result.stderr


def test_the_state_directory_is_named_before_the_command(command: Command) -> None:
    result = command.run("run", "--state", "x", str(guest("hello")))
    assert result.returncode == 2
    assert b"--state comes before the command" in result.stderr


def test_concurrent_first_runs_share_one_agent(command: Command) -> None:
    with (
        command.started("run", str(guest("hello"))) as one,
        command.started("run", str(guest("hello"))) as two,
        command.started("run", str(guest("hello"))) as three,
    ):
        for each in (one, two, three):
            assert each.wait() == 0, each.stderr.read()
            assert each.stdout.read() == b"hello\n"
    assert len([each for each in processes_of(command.state) if each == command.agent_pid()]) == 1


# --- several pods -----------------------------------------------------------------------------------------------------


def several(directory: Path, *programs: str) -> str:
    """A manifest of pods named a, b … with one container each."""
    pairs = zip("abc", programs, strict=False)
    texts = [Path(manifest(directory, f"c {each}", name=name)).read_text() for name, each in pairs]
    (directory / "several.yaml").write_text("---\n".join(texts))
    return str(directory / "several.yaml")


def test_what_keeps_a_pod_from_starting_is_said_while_others_run(command: Command, tmp_path: Path) -> None:
    path = several(tmp_path, "sleep", "hello")
    text = Path(path).read_text().replace(str(guest("hello")), str(tmp_path / "empty.wasm"))
    Path(path).write_text(text)
    (tmp_path / "empty.wasm").write_bytes(b"")
    with command.started("run", path) as run:
        assert run.stderr.readline().startswith(b"wasmlet: pod b: cannot start container c (")
        assert run.stdout.readline() == b"[a/c] ready\n"
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 143


def test_detached_pods_stay_together_or_not_at_all(command: Command, tmp_path: Path) -> None:
    path = several(tmp_path, "sleep", "sleep")
    command.succeed("run", "--detach", "--name", "b", str(guest("sleep")))
    result = command.run("run", "--detach", path)
    assert (result.returncode, result.stdout) == (2, b"")
    assert b"pod default/b is here already" in result.stderr
    eventually_now(lambda: [each["metadata"]["name"] for each in command.pods()] == ["b"], "a is gone")
    command.succeed("rm", "b")
    assert command.succeed("run", "--detach", path).split() == ["a", "b"]


def test_ctrl_c_ends_a_command_that_is_not_there_yet(command: Command, tmp_path: Path) -> None:
    (tmp_path / "tomllib.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command.environment["PYTHONPATH"] = f"{tmp_path}:{command.environment['PYTHONPATH']}"
    result = command.run("run", str(guest("hello")))
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("options", [[], ["--detach"]])
def test_ctrl_c_before_a_pod_runs_leaves_none(command: Command, options: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a registry that never answers
        image = f"127.0.0.1:{silent.getsockname()[1]}/app:1"
        with command.started("run", *options, image) as run:
            silent.accept()[0].close()
            kept, _ = silent.accept()
            assert len(command.pods()) == 1
            run.process.send_signal(signal.SIGINT)
            assert run.wait() == 130
            kept.close()
        eventually_now(lambda: command.pods() == [], "removed")


# --- detached ---------------------------------------------------------------------------------------------------------


def test_a_detached_pod_runs_on(command: Command) -> None:
    name = command.succeed("run", "--detach", "--name", "mine", str(guest("sleep"))).strip()
    assert name == "mine"
    (pod,) = command.pods()
    assert pod["status"]["phase"] == "Running"
    assert command.run("run", "--detach", "--name", "mine", str(guest("sleep"))).returncode == 2


def test_a_detached_pod_tells_where_it_serves(command: Command) -> None:
    result = command.run("run", "--detach", "--name", "greeter", str(http_guest()))
    assert (result.returncode, result.stdout) == (0, b"greeter\n")
    assert re.fullmatch(r"http://127\.88\.\d+\.\d+:8080/\n", result.stderr.decode())
    command.succeed("rm", "greeter")


def test_a_detached_pod_that_cannot_start_is_removed(command: Command, tmp_path: Path) -> None:
    (tmp_path / "elf.wasm").write_bytes(b"\x7fELF" + bytes(60))
    result = command.run("run", "--detach", str(tmp_path / "elf.wasm"))
    assert result.returncode == 126
    eventually_now(lambda: command.pods() == [], "removed")


def test_environment_volumes_and_working_directory(command: Command, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("from the host")
    shown = command.run("run", "-v", f"{tmp_path}:/host:ro", str(guest("files")), "--", "cat", "/host/a")
    assert shown.stdout == b"from the host"
    denied = command.run("run", "-v", f"{tmp_path}:/host:ro", str(guest("files")), "--", "write", "/host/b", "x")
    assert denied.returncode == 1
    assert not (tmp_path / "b").exists()
    listed = command.run("run", "-e", "A=$(B)", "-e", "B=c=d", str(guest("env"))).stdout.decode().splitlines()
    assert "A=$(B)" in listed
    assert "B=c=d" in listed
