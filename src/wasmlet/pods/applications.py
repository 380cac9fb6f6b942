"""What a container runs: one program, or the components of an application; and what each of them is given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wasmlet.base.errors import GuestError, WasmletError
from wasmlet.images import application
from wasmlet.images.application import Component, Part
from wasmlet.images.programs import Program
from wasmlet.sandbox import protocol
from wasmlet.volumes.root import ContainerMount

COMPONENTS: Final = "components"
"""In the attempt's directory: the tree of an application's image."""


OPEN: Final = 0o755
"""The engine may be another user than the agent; the attempt's own directory is what is closed to others."""


@dataclass(frozen=True)
class Running:
    """A program to run; `part` is None when it is the whole container."""

    program: Program
    part: Part | None = None


@dataclass(frozen=True)
class Given:
    """A program's own environment and directories."""

    running: Running
    env: list[protocol.EnvVar]
    made: Sequence[ContainerMount]

    @property
    def mounts(self) -> list[protocol.Mount]:
        """What an engine is told of the directories."""
        return [
            protocol.Mount(host_path=str(each.host_path), guest_path=each.guest_path, read_only=each.read_only)
            for each in self.made
        ]

    def component(self, artifact: protocol.Artifact) -> protocol.Component:
        """What an engine is told of a part of an application."""
        assert self.running.part is not None
        name, routes = self.running.part.name, list(self.running.part.routes)
        return protocol.Component(name=name, routes=routes, artifact=artifact, env=self.env, mounts=self.mounts)


def running(components: Sequence[Component]) -> list[Running]:
    """The programs of an application."""
    return [
        Running(Program(each.module, each.digest, each.part.name, each.size_bytes), each.part) for each in components
    ]


def place(attempt: Path, number: int) -> Path:
    """The directory of a component, in which its root is made."""
    return (attempt / COMPONENTS / application.place(number)).parent


def make_place(attempt: Path, number: int) -> Path:
    """That directory, and those above it in the attempt: open to whom the attempt is open."""
    made = place(attempt, number)
    made.mkdir(parents=True, exist_ok=True)
    for directory in (made, made.parent):
        directory.chmod(OPEN)  # whatever the agent's umask is
    return made


def environment(part: Part | None, given: list[protocol.EnvVar]) -> list[protocol.EnvVar]:
    """A component's own environment, its variables, and what the pod gives, which wins; sorted by name.

    What a secret of the pod contributed to is secret, too.
    """
    if part is None:
        return given
    values = {each.name: each.value for each in given}
    secrets = {each.name for each in given if each.secret}
    found = {name: protocol.EnvVar(name=name, value=value) for name, value in part.environment}
    for name, value, used in part.filled(values):
        found.setdefault(name, protocol.EnvVar(name=name, value=value, secret=not secrets.isdisjoint(used)))
    found |= {each.name: each for each in given}
    return [found[name] for name in sorted(found)]


def require_server(part: Part | None, kind: str) -> None:
    """Refuse a component that answers no requests.

    Raises:
        GuestError: It is a command.
    """
    if part is not None and kind != "http":
        raise GuestError("it is a command and serves no wasi:http", reason="NoEntryPoint")


@contextlib.contextmanager
def about(part: Part | None) -> Iterator[None]:
    """Errors say which component they are about."""
    try:
        yield
    except WasmletError as error:
        if part is None:
            raise
        # Another error of its kind: this one may be kept for others who ask for the same module.
        text = f"component {part.name}: {error.message}"
        raise type(error)(text, hint=error.hint, reason=error.reason) from error
