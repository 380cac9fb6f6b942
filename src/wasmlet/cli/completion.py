"""`wasmlet completion`: the shell's part is click's."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    bash: eval "$(wasmlet completion bash)" in ~/.bashrc; zsh the same in ~/.zshrc; fish: wasmlet completion fish |
    source in config.fish.
    """
    root = context.find_root().command
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "wasmlet", "_WASMLET_COMPLETE").source())
