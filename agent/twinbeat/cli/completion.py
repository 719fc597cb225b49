# SPDX-License-Identifier: Apache-2.0
"""`twinbeat completion`: click's own scripts."""

import click
from click.shell_completion import get_completion_class

from twinbeat.cli.base import Exit, Stop, say


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a completion script: `eval "$(twinbeat completion bash)"`."""
    kind = get_completion_class(shell)
    if kind is None:
        raise Stop(Exit.USAGE, f"there is no completion for {shell}")
    root = context.find_root().command
    try:
        say(kind(root, {}, "twinbeat", "_TWINBEAT_COMPLETE").source())
    except RuntimeError as error:
        raise Stop(Exit.NO, f"{error}") from error
