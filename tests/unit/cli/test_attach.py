"""`wasmlet attach` as a shell sees it."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from tests.support.command import Command
from tests.support.guests import guest
from tests.support.terminal import Terminal
from tests.support.waiting import eventually_now

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {{name: box}}
spec:
  restartPolicy: Never
  containers:
    - {{name: echo, image: "file:{echo}", stdin: true, stdinOnce: {once}, tty: {tty}}}
    - {{name: quiet, image: "file:{sleep}"}}
"""


def start(command: Command, directory: Path, *, once: bool = True, tty: bool = False) -> None:
    """A detached pod of one container that echoes its stdin, and another one without."""
    manifest = directory / "pod.yaml"
    text = MANIFEST.format(echo=guest("echo"), sleep=guest("sleep"), once=str(once).lower(), tty=str(tty).lower())
    manifest.write_text(text)
    command.succeed("run", "-d", str(manifest))

    def is_running() -> bool:
        return command.run("attach", "box", "-c", "quiet", "-i").stderr.find(b"no stdin") >= 0

    eventually_now(is_running, "both containers run")


def test_two_hear_one_writes_and_the_exit_status_is_the_containers(command: Command, tmp_path: Path) -> None:
    start(command, tmp_path)
    with command.started("attach", "box", "-c", "echo") as hearing, command.started("attach", "-i", "box") as writing:
        while not select.select([hearing.stdout], [], [], 0.1)[0]:
            writing.stdin.write(b"one\n")
            assert writing.read(4) == b"one\n"
        assert hearing.read(4) == b"one\n"
        refused = command.run("attach", "-i", "box", "-c", "echo")
        assert refused.returncode == 2
        assert b"another client on its stdin" in refused.stderr
        command.kill_agent()
        writing.stdin.write(b"two")
        assert writing.read(3) == b"two"
        writing.stdin.close()
        assert writing.wait() == 0
        assert hearing.wait() == 0
    ended = command.run("attach", "box")
    assert ended.returncode == 2
    assert b"not running" in ended.stderr
    assert b"two" in command.run("logs", "box", "echo").stdout


def test_ctrl_c_ends_the_attach_and_not_the_container(command: Command, tmp_path: Path) -> None:
    start(command, tmp_path, once=False)
    with command.started("attach", "-i", "box", "-c", "echo") as attached:
        attached.stdin.write(b"one\n")
        assert attached.read(4) == b"one\n"
        attached.process.send_signal(signal.SIGINT)
        assert attached.wait() == 130
    with command.started("attach", "-i", "box", "-c", "echo") as attached:
        attached.stdin.write(b"two\n")
        assert attached.read(4) == b"two\n"
        attached.process.kill()
        attached.process.wait()
    stopped = command.started("attach", "box", "-c", "quiet")
    with stopped as attached:
        assert command.run("exec", "box", "-c", "quiet", "--", "quiet", "1").returncode == 0, "it is there meanwhile"
        command.succeed("stop", "box")
        assert attached.wait() == 143


def test_what_cannot_be_attached_to(command: Command, tmp_path: Path) -> None:
    start(command, tmp_path)
    for arguments, said in [
        (["nobody"], "nobody"),
        (["box", "-c", "other"], "container 'other' not found in pod 'box'"),
        (["-i", "box", "-c", "quiet"], "has no stdin"),
    ]:
        result = command.run("attach", *arguments)
        assert result.returncode in (1, 2, 127), result
        assert said in result.stderr.decode()
        assert b"Traceback" not in result.stderr


def test_a_terminal_is_restored_and_the_container_goes_on(command: Command, tmp_path: Path, terminal: Terminal) -> None:
    start(command, tmp_path, tty=True)
    for keys, shown, status in [(b"ab\r\x03", b"ab\r\nab\r\n^C\r\n", 130), (b"x\r\x04", b"x\r\nx\r\n", 0)]:
        with terminal.running(command, "attach", "-it", "box", "-c", "echo") as process:
            os.write(terminal.master, keys[:-1])
            seen = b""
            while not seen.endswith(shown[: shown.index(b"\r\n") + 2] * 2):
                seen += os.read(terminal.master, 1000)
            os.write(terminal.master, keys[-1:])
            assert process.wait(timeout=20) == status
            assert terminal.is_as_before


def test_a_container_without_a_terminal_gives_none(command: Command, tmp_path: Path) -> None:
    start(command, tmp_path)
    result = command.run("attach", "-it", "box", "-c", "echo", input=b"one\n")
    assert (result.returncode, result.stdout) == (0, b"one\n")
    assert b"Unable to use a TTY - container echo did not allocate one" in result.stderr
