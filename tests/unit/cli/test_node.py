"""`wasmlet node`: one agent serves a state directory."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.command import Command
from tests.support.fake_api import Authorities
from tests.support.guests import guest
from tests.support.processes import processes_of
from tests.support.waiting import eventually_now
from tests.unit.node.authority import Authority
from wasmlet import agent
from wasmlet.base.errors import UserError
from wasmlet.cli.node import join_command, node_command
from wasmlet.node import bootstrap, keys


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
        (("--port", "0"), "0 is not in the range 1<=x<=65535"),
        (("--port", "99999"), "99999 is not in the range 1<=x<=65535"),
        (("--healthz-port", "99999"), "99999 is not in the range 0<=x<=65535"),
        (("--client-ca-file", "/nonexistent"), "--client-ca-file: cannot use the authorities in /nonexistent: No such"),
        (("--client-ca-file", "/dev/null"), "in /dev/null: it holds no certificates in PEM"),
        (("--client-ca-file", str(Path(__file__))), "test_node.py: it holds no certificates in PEM"),
        (("--node-label", "kubernetes.io/mine=1"), "a node may not give itself the label"),
        (("--taint", "x"), "write it like key=value:NoSchedule; others: PreferNoSchedule, NoExecute"),
        (("--os-label", "two words"), "'two words' is no value of a label"),
    ],
)
def test_settings_that_cannot_be_are_told_with_a_cluster_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], told: str
) -> None:
    async def serve(_: object, **__: Any) -> None:
        raise AssertionError("nothing may start")

    monkeypatch.setattr(agent, "serve", serve)
    monkeypatch.setenv("WASMLET_CONFIG", os.devnull)
    for cluster in (("--kubeconfig", "x", "--node-name", "n"), ()):
        result = CliRunner().invoke(node_command, [*cluster, *flags], obj=str(tmp_path))
        assert isinstance(result.exception, UserError) or result.exit_code == 2
        assert told in f"{result.output}{result.exception}"


def test_a_port_that_cannot_be_ends_it_before_anything_starts(command: Command) -> None:
    result = command.run("node", "--port", "99999")
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr
    assert list(command.state.iterdir()) == []
    command.environment["WASMLET_HEALTHZ_PORT"] = "70000"
    assert b"70000 is not in the range" in command.run("node").stderr
    del command.environment["WASMLET_HEALTHZ_PORT"]
    command.config.write_text("healthz-port = 70000\n")
    assert b"healthz-port" in command.run("node").stderr


def test_an_agent_without_a_cluster_says_so_unless_a_command_started_it(command: Command) -> None:
    text = f"no cluster identity in {command.state}/kubeconfig: serving this machine's own pods only".encode()
    with command.started("node") as one:
        eventually_now((command.state / "agent.sock").exists, "socket")
        one.process.send_signal(signal.SIGTERM)
        assert one.wait() == 0
        assert text in one.stderr.read()


def test_a_state_directory_that_is_a_file(command: Command) -> None:
    command.state /= "file"
    command.state.touch()
    result = command.run("node")
    assert result.returncode == 2
    assert b"it is not a directory" in result.stderr


# --- the name, and joining --------------------------------------------------------------------------------------------


def write_identity(state: Path, node: str) -> None:
    key = keys.new_key()
    pem = Authority().sign(keys.request(key, keys.Subject(node=node)))
    pair = bootstrap.client_store(state / "pki").save(pem, key, now=0.0)
    bootstrap.write_kubeconfig(state / "kubeconfig", Authorities.make().access("https://127.0.0.1:1"), pair)


@pytest.mark.parametrize(
    ("flags", "file", "expected"),
    [((), "", "certified"), (("--node-name", "flag"), "", "flag"), ((), 'node-name = "File"\n', "file")],
)
def test_the_name_is_the_identitys_unless_another_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], file: str, expected: str
) -> None:
    found: list[Any] = []

    async def serve(_: object, **options: Any) -> None:
        found.append(options["cluster_settings"])

    monkeypatch.setattr(agent, "serve", serve)
    write_identity(tmp_path, "certified")
    (tmp_path / "config.toml").write_text(file)
    monkeypatch.setenv("WASMLET_CONFIG", str(tmp_path / "config.toml"))
    CliRunner().invoke(node_command, [*flags], obj=str(tmp_path), catch_exceptions=False)
    assert found[0].node.name == expected


@pytest.mark.parametrize(
    ("flags", "file", "variables", "expected"),
    [
        (("--token", "a"), "", {}, ("a", "wasmlet --state '{state}' node")),
        ((), "", {"WASMLET_TOKEN": "b"}, ("b", "wasmlet --state '{state}' node")),
        (("--token-file", "-"), "", {}, ("c", "wasmlet --state '{state}' node")),
        (("--token", "a", "--node-name", "n"), 'node-name = "m"\n', {},
         ("a", "wasmlet --state '{state}' node --node-name n")),
    ],
)  # fmt: skip
def test_joining_takes_a_token_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], file: str, variables: dict[str, str],
    expected: tuple[str, str],
) -> None:  # fmt: skip
    tokens: list[str] = []

    async def join(*_: object, token: str, **__: Any) -> None:
        tokens.append(token)

    monkeypatch.setattr(bootstrap, "join", join)
    (tmp_path / "config.toml").write_text(file)
    state, environment = tmp_path / "a state", {"WASMLET_CONFIG": str(tmp_path / "config.toml"), **variables}
    arguments = ["--server", "x", *flags]
    result = CliRunner().invoke(
        join_command, arguments, obj=str(state), env=environment, input="c\n", catch_exceptions=False
    )
    assert tokens == [expected[0]]
    assert result.stdout.rstrip().endswith(f"start the node with: {expected[1].format(state=state)}")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--token", "a", "--node-name", "Bad_Name"), "'Bad_Name' is no name for a node"),
        ((), "joining needs a bootstrap token"),
    ],
)
def test_what_joining_refuses_before_it_asks_anybody(command: Command, flags: tuple[str, ...], told: str) -> None:
    result = command.run("join", "--server", "127.0.0.1:1", *flags)
    assert result.returncode == 2
    assert told.encode() in result.stderr
    assert list(command.state.iterdir()) == []
