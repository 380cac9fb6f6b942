"""Records of the log as an agent's lines, and as what a command says."""

import logging
from pathlib import Path

from tests.support.command import Command
from wasmlet.cli.log import Logfmt, Sentence


def test_seconds_in_the_log_are_short() -> None:
    record = logging.makeLogRecord({"msg": "m", "seconds": 0.6321894062328469, "whole": 900.0})
    assert Logfmt().format(record).endswith("message=m seconds=0.632 whole=900")


def test_a_warning_of_a_command_has_all_that_it_says() -> None:
    record = logging.makeLogRecord({"msg": "a failed", "helper": "docker-credential-x", "seconds": 0.5})
    assert Sentence().format(record) == "wasmlet: a failed (helper: docker-credential-x, seconds: 0.5)"
    assert Sentence().format(logging.makeLogRecord({"msg": "it failed"})) == "wasmlet: it failed"


def test_a_broken_file_of_logins_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths":')
    command.environment["DOCKER_CONFIG"] = str(tmp_path)
    told = command.run("pull", "127.0.0.1:1/x").stderr.decode().splitlines()
    assert told[0].startswith("wasmlet: logins passed over (error: ")
    assert str(tmp_path / "config.json") in told[0]
