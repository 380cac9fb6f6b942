"""What a container runs, from its image and its command: the arguments, and the module. Pure but for looking at a file.

An image that is one module runs that module, whatever the command's first word is; in an image of files the first
word names the module, as it names the program of any container (contract 6.1).
"""

from __future__ import annotations

from collections.abc import Sequence

from wasmlet.base.errors import UserError
from wasmlet.images import programs
from wasmlet.images.image import Image
from wasmlet.images.programs import Program
from wasmlet.kube.types import Container
from wasmlet.pods import applications
from wasmlet.pods.applications import Running
from wasmlet.pods.environment import Command, Environment, Text
from wasmlet.sandbox.protocol import EnvVar

__all__ = ["arguments", "running", "search_path"]


def arguments(container: Container, command: Command, image: Image) -> list[Text]:
    """argv, whose first word an image of one module may leave to wasmlet: then it is the module's file name.

    Raises:
        UserError: Neither the pod nor an image of files says what to run.
    """
    words = [*command.command, *command.args]
    from_image = not container.args and bool(image.config.command)  # docker's CMD alone is the whole command
    if image.module_name and not command.command and not from_image:
        words.insert(0, Text(image.module_name))
    if not words:
        raise UserError("no command specified", hint="the image has no entrypoint: give the container a command")
    return words


def running(image: Image, words: Sequence[Text], environment: Environment, *, working_directory: str) -> list[Running]:
    """What is run: one module, or all components of an application, whatever the command says.

    Raises:
        NotFoundError: The image's files have no such program.
        GuestError: It is no WebAssembly.
    """
    if image.components:
        return applications.running(image.components)
    first = words[0].value
    if image.module_name or image.tree is None:
        given = Program(image.module, image.digest, image.module_name, image.size_bytes, _function(image))
        return [Running(given)]
    search = next((each.value for each in environment.variables if each.name == "PATH"), "")
    return [Running(programs.find(image.tree, first, search=search, working_directory=working_directory))]


def search_path(image: Image, variables: Sequence[EnvVar]) -> str:
    """Where further programs of an image of files are looked up; "" for an image that is one module, or a secret."""
    if image.tree is None:
        return ""
    found = next((each for each in variables if each.name == "PATH"), None)
    if found is None or not found.value:
        return programs.DEFAULT_PATH
    return "" if found.secret else found.value


def _function(image: Image) -> str:
    """What follows `#` in the image's own first word; a pod's words are arguments to a module that is given."""
    named = (*image.config.entrypoint, *image.config.command)[:1]
    return named[0].rpartition("#")[2] if named and "#" in named[0] else ""
