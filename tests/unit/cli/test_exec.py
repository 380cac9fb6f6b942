"""`wasmlet exec` as a shell sees it."""

import fcntl
import os
import shutil
import signal
import struct
import termios
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.guests import guest, http_guest
from tests.support.terminal import Terminal


@pytest.fixture
def tools(command: Command, tmp_path: Path) -> Path:
    """A pod `box` of an idle container, with a directory of further modules at /tools."""
    directory = tmp_path / "tools"
    directory.mkdir()
    for name in ("echo", "exit", "trap", "spin", "hello.component"):
        shutil.copy(guest(name), directory / f"{name}.wasm")
    command.succeed("run", "-d", "--name", "box", "--volume", f"{directory}:/tools", str(guest("sleep")))
    return directory


def test_a_command_in_a_container(command: Command, tools: Path) -> None:
    echoed = command.run("exec", "-i", "box", "--", "/tools/echo.wasm", input=b"one\ntwo")
    assert (echoed.returncode, echoed.stdout, echoed.stderr) == (0, b"one\ntwo", b"")
    assert command.run("exec", "box", "--", "/tools/echo.wasm", input=b"unsent").stdout == b""
    assert command.run("exec", "box", "-c", "sleep", "--", "/tools/exit.wasm", "7").returncode == 7
    trapped = command.run("exec", "box", "--", "/tools/trap.wasm")
    assert trapped.returncode == 134
    assert b"boom" in trapped.stderr
    assert command.run("exec", "box", "--", "/tools/hello.component.wasm").returncode == 0
    assert command.succeed("logs", "box") == "ready\n"


def test_it_ends_with_its_guest_its_reader_or_its_container(command: Command, tools: Path) -> None:
    shutil.copy(guest("lines"), tools / "lines.wasm")
    with command.started("exec", "-i", "box", "--", "/tools/exit.wasm", "6") as ended:
        assert ended.wait() == 6  # though stdin is open
    with command.started("exec", "box", "--", "/tools/lines.wasm", "900000", "99") as unread:
        assert unread.read(3) == b"000"
        unread.stdout.close()
        assert unread.wait() == 141
    with command.started("exec", "box", "--", "/tools/spin.wasm") as spinning:
        assert spinning.read(6) == b"ready\n"
        command.succeed("rm", "box")
        assert spinning.wait() == 137
        assert spinning.stderr.read() == b"the container has ended\n"


def test_what_cannot_be_run_is_said(command: Command, tools: Path) -> None:
    (tools / "out.wasm").symlink_to(guest("hello"))
    (tools / "in.wasm").symlink_to("exit.wasm")
    (tools / "text.wasm").write_text("no module")
    shutil.copy(http_guest(), tools / "http.wasm")
    for arguments, status, said in [
        (["nobody", "--", "x"], 1, "there is no pod nobody"),
        (["box", "-c", "other", "--", "x"], 1, "container 'other' not found in pod 'box'"),
        (["box", "--", "/tools/nothing.wasm"], 127, "/tools/nothing.wasm is not in container"),
        (["box", "--", "/tools/../../../etc/passwd"], 127, "is not in container"),
        (["box", "--", "/tools/out.wasm"], 2, ""),
        (["box", "--", "/tools"], 2, ""),
        (["box", "--", "/tools/text.wasm"], 126, "WebAssembly"),
        (["box", "--", "/tools/http.wasm"], 126, "serves HTTP"),
        (["box"], 2, "Missing argument"),
        (["box", "--", "/tools/in.wasm", "9"], 9, ""),
    ]:
        result = command.run("exec", *arguments)
        assert (result.returncode, said in result.stderr.decode()) == (status, True), (arguments, result)
        assert b"Traceback" not in result.stderr
    command.succeed("stop", "box")
    ended = command.run("exec", "box", "--", "/tools/echo.wasm")
    assert ended.returncode == 2
    assert b"is not running: it has ended" in ended.stderr


def test_a_server_has_nothing_to_run_but_other_modules(command: Command, tmp_path: Path) -> None:
    shutil.copy(guest("exit"), tmp_path / "exit.wasm")
    command.succeed("run", "-d", "--name", "web", "--volume", f"{tmp_path}:/tools", str(http_guest()))
    result = command.run("exec", "web", "--", "http-guest")
    assert result.returncode == 126
    assert b"serves HTTP: there is nothing to run in it" in result.stderr
    assert command.run("exec", "web", "--", "/tools/exit.wasm", "3").returncode == 3


def test_it_goes_on_and_works_after_the_agents_end(command: Command, tools: Path) -> None:
    with command.started("exec", "-i", "box", "--", "/tools/echo.wasm") as echoing:
        echoing.stdin.write(b"before\n")
        assert echoing.read(7) == b"before\n"
        command.kill_agent()
        echoing.stdin.write(b"after\n")
        assert echoing.read(6) == b"after\n"
        echoing.stdin.close()
        assert echoing.wait() == 0
    assert command.run("exec", "box", "--", "/tools/exit.wasm", "5").returncode == 5


def test_a_terminal_is_raw_as_long_as_the_guest_runs(command: Command, tools: Path, terminal: Terminal) -> None:
    with terminal.running(command, "exec", "-it", "box", "--", "/tools/echo.wasm") as process:
        fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        process.send_signal(signal.SIGWINCH)
        # The engine's terminal, since this one is raw: an echo, and the guest's line.
        os.write(terminal.master, b"ab\x7f\r")
        assert terminal.read(10) == b"ab\x08 \x08\r\na\r\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 143
        assert terminal.is_as_before


@pytest.mark.parametrize(("keys", "status"), [(b"\x03", 130), (b"\x04", 0)])
def test_a_terminal_is_what_it_was_when_the_guest_has_ended(
    command: Command, tools: Path, terminal: Terminal, keys: bytes, status: int
) -> None:
    with terminal.running(command, "exec", "-it", "box", "--", "/tools/echo.wasm") as process:
        os.write(terminal.master, keys)
        assert process.wait(timeout=20) == status
        assert terminal.is_as_before


def test_without_a_terminal_there_is_none(command: Command, tools: Path) -> None:
    result = command.run("exec", "-it", "box", "--", "/tools/echo.wasm", input=b"one\n")
    assert (result.returncode, result.stdout) == (0, b"one\n")
    assert b"Unable to use a TTY" in result.stderr


def test_an_interrupted_exec_leaves_nothing_behind(command: Command, tools: Path) -> None:
    with command.started("exec", "box", "--", "/tools/spin.wasm") as spinning:
        assert spinning.read(6) == b"ready\n"
        spinning.process.send_signal(signal.SIGINT)
        assert spinning.wait() == 130
    command.succeed("rm", "box")
