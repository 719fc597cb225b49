# SPDX-License-Identifier: Apache-2.0
"""`twinbeat completion`: scripts of click, as changed for KEY=VALUE.

To bash that is three words, and zsh sets a space behind every word that it completes.
"""

import os
import re
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from twinbeat.cli.base import Exit, Stop, say

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' type value
    COMPREPLY=()
    while IFS=',' read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                COMPREPLY+=("$value")
                [[ $value != *= ]] || compopt -o nospace
                ;;
        esac
    done < <(TWINBEAT_LINE=${COMP_LINE:0:COMP_POINT} %(complete_var)s=bash_complete $1)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


_ZSH_ADDS = "compadd -U -V unsorted -a completions\n"
_ZSH_ADDS_ALL = """local -a keys=(${(M)completions:#*=}) rest=(${completions:#*=})
        (( ! $#keys )) || compadd -U -V unsorted -S '' -a keys
        (( ! $#rest )) || compadd -U -V unsorted -a rest
"""


@add_completion_class
class Zsh(ZshComplete):
    """Leaves the cursor behind the sign of KEY=."""

    source_template = ZshComplete.source_template.replace(_ZSH_ADDS, _ZSH_ADDS_ALL)


@add_completion_class
class Bash(BashComplete):
    """Hands the line over as it was typed, and gets back what follows the last break in a word."""

    name = "bash"
    source_template = _BASH
    _before = ""
    """What bash takes for words of their own before the one that it completes."""

    @staticmethod
    def _check_version() -> None:
        """Of bash; 4.4 is older than every system that this runs on."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is being typed, and that one."""
        line = os.environ.get("TWINBEAT_LINE", "")
        words = split_arg_string(line)[1:]
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        self._before = re.match(r"(?:.*[=:])?", incomplete)[0]  # type: ignore[index]
        return words, incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """One line of the answer."""
        return f"{item.type},{str(item.value).removeprefix(self._before)}"


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
