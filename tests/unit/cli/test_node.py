"""`wasmlet node`: one agent serves a state directory."""

import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.command import Command
from tests.support.guests import guest
from tests.support.processes import processes_of
from tests.support.waiting import eventually_now
from wasmlet import agent
from wasmlet.cli.node import node_command


def test_a_second_agent_is_refused(command: Command) -> None:
    with command.started("node") as first:
        eventually_now((command.state / "agent.sock").exists, "socket")
        second = command.run("node")
        assert second.returncode == 2
        assert f"another agent (process {first.process.pid})".encode() in second.stderr
        assert b"hint: " in second.stderr
        assert command.run("run", str(guest("hello"))).stdout == b"hello\n"
        assert command.agent_pid() == first.process.pid


def test_the_end_of_an_agent_stops_no_pod(command: Command) -> None:
    with command.started("node") as first:
        eventually_now((command.state / "agent.sock").exists, "socket")
        command.succeed("run", "-d", "--name", "mine", str(guest("sleep")))
        first.process.send_signal(signal.SIGTERM)
        assert first.wait() == 0
        assert b"agent ending" in first.stderr.read()
    (engine,) = processes_of(command.state)
    assert command.pods()[0]["status"]["phase"] == "Running"
    assert engine in processes_of(command.state)


def test_a_socket_left_by_a_killed_agent_is_no_hindrance(command: Command) -> None:
    with command.started("node") as first:
        eventually_now((command.state / "agent.sock").exists, "socket")
        first.process.kill()
        first.wait()
    assert command.run("run", str(guest("hello"))).stdout == b"hello\n"


def test_an_agent_that_a_command_started_ends_when_nothing_lives(command: Command) -> None:
    command.config.write_text("agent-idle-seconds = 0.2\n")
    assert command.run("run", str(guest("hello"))).stdout == b"hello\n"
    eventually_now(lambda: processes_of(command.state) == [], command.state)
    assert command.pods() == []


def test_an_unusable_configuration_is_told(command: Command) -> None:
    command.config.write_text("engine-idle-second = 5\n")
    result = command.run("node")
    assert result.returncode == 2
    assert b"engine-idle-second" in result.stderr
    assert b"Traceback" not in result.stderr


def shutdown_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str, file: str = "", **environment: str
) -> tuple[float, float, tuple[tuple[int, float], ...], int]:
    """What the agent would be given."""
    found: list[Any] = []

    async def serve(_: object, **options: Any) -> None:
        found.append(options["cluster_settings"])

    monkeypatch.setattr(agent, "serve", serve)
    (tmp_path / "config.toml").write_text(file)
    result = CliRunner().invoke(
        node_command,
        ["--kubeconfig", "x", "--node-name", "n", *arguments],
        obj=str(tmp_path),
        env={"WASMLET_CONFIG": str(tmp_path / "config.toml"), **environment},
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    (settings,) = found
    node = settings.node
    groups = node.shutdown_grace_by_priority
    return node.shutdown_grace_seconds, node.shutdown_critical_seconds, groups, settings.healthz_port


def test_a_flag_beats_the_environment_which_beats_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = "shutdown-grace-seconds = 30\nshutdown-critical-seconds = 3\nhealthz-port = 7\n"
    variable = {"WASMLET_SHUTDOWN_GRACE_SECONDS": "40", "WASMLET_HEALTHZ_PORT": "0"}
    assert shutdown_settings(monkeypatch, tmp_path) == (0.0, 0.0, (), 10248)
    assert shutdown_settings(monkeypatch, tmp_path, file=file) == (30.0, 3.0, (), 7)
    assert shutdown_settings(monkeypatch, tmp_path, file=file, **variable) == (40.0, 3.0, (), 0)
    flags = ("--shutdown-grace-seconds", "50", "--healthz-port", "9")
    assert shutdown_settings(monkeypatch, tmp_path, *flags, file=file, **variable) == (50.0, 3.0, (), 9)


def test_groups_of_priorities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = "shutdown-grace-by-priority = { 2000000000 = 10, 0 = 20.5 }\n"
    both = ((0, 20.5), (2_000_000_000, 10.0))
    assert shutdown_settings(monkeypatch, tmp_path, file=file)[2] == both
    other = ("--shutdown-grace-by-priority", "0=1,5=2")
    assert shutdown_settings(monkeypatch, tmp_path, *other, file=file)[2] == ((0, 1.0), (5, 2.0))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--shutdown-critical-seconds", "5"), "is a part of shutdown_grace_seconds"),
        (("--shutdown-grace-by-priority", "high=5"), "is no group of a graceful shutdown"),
        (("--shutdown-grace-by-priority", "0=-5"), "cannot be negative"),
        (("--port", "0"), "port must be greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_told(command: Command, flags: tuple[str, ...], told: str) -> None:
    result = command.run("node", "--kubeconfig", "x", "--node-name", "n", *flags)
    assert result.returncode == 2
    assert told.encode() in result.stderr
    assert b"Traceback" not in result.stderr
