"""`wasmlet node`: one agent serves a state directory."""

import signal

from tests.support.command import Command
from tests.support.guests import guest
from tests.support.processes import processes_of
from tests.support.waiting import eventually_now


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
