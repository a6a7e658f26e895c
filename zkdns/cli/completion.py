"""`zkdns completion`: have a shell complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_VARIABLE = "_ZKDNS_COMPLETE"  # by it the program knows that a shell asks; its name is given by click


class _ZshComplete(ZshComplete):
    """click's script, but for how it knows that it lies in a directory of `fpath`, as `_zkdns`.

    There zsh runs it as the function of that name: the first time while it is loaded, which click looks for,
    and then no more, so that each second key would do nothing but set completion up again.
    """

    source_template = ZshComplete.source_template.replace(
        "$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _%(prog_name)s"
    )


_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": _ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(tuple(_SHELLS)), metavar="|".join(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete what is typed of zkdns.

    It completes commands, options, values, files, and the names of services that a running server knows.
    `zkdns help host-setup` lists the place of the script for each shell. The exit status is 2 for mistakes.
    """
    program = context.find_root().command
    click.echo(_SHELLS[shell](program, {}, "zkdns", _VARIABLE).source(), nl=False)
