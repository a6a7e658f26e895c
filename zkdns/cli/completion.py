"""`zkdns completion`: the shell completion scripts."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from zkdns.cli.command import Command
from zkdns.cli.streams import write_out

_VARIABLE = "_ZKDNS_COMPLETE"  # set by the scripts; click derives the name from the program's


class _ZshComplete(ZshComplete):
    """click's zsh script with another test for being autoloaded as `_zkdns` from a directory of `fpath`.

    click tests whether zsh is loading the function, which is true only for its first call. All later calls
    would then register the completion again instead of completing.
    """

    source_template = ZshComplete.source_template.replace(
        "$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _%(prog_name)s"
    )


_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": _ZshComplete, "fish": FishComplete}


@click.command(
    cls=Command,
    examples=(
        ("zkdns completion bash > ~/.local/share/bash-completion/completions/zkdns", "For bash"),
        ("zkdns completion fish > ~/.config/fish/completions/zkdns.fish", "For fish"),
    ),
)
@click.argument("shell", type=click.Choice(tuple(_SHELLS)), metavar="|".join(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes zkdns commands in a shell.

    It completes commands, options, values and files, and the service names of a running server.
    `zkdns help host-setup` lists the file for the script of each shell. The exit status is 2 for usage
    errors.
    """
    program = context.find_root().command
    write_out(_SHELLS[shell](program, {}, "zkdns", _VARIABLE).source())
