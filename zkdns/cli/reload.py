"""`zkdns reload`: make a running server read its configuration again."""

from __future__ import annotations

from http import HTTPStatus

import click

from zkdns.admin.api_types import Reloaded
from zkdns.admin.client import RELOAD_SECONDS, RefusedError, UnreachableError
from zkdns.cli.api_options import fail_refused, make_client, server_option, token_option
from zkdns.cli.command import Command
from zkdns.cli.options import config_option, fail, fail_usage
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import write_json, write_lines
from zkdns.durations import format_duration
from zkdns.plurals import counted


@click.command(
    cls=Command,
    examples=(
        ("zkdns reload", "After a change of the configuration file"),
        (
            "zkdns reload --server https://dns1.example.com:9153 --token-file token",
            "The server of another machine, with its token",
        ),
    ),
)
@click.option("--all", "is_all", is_flag=True, help="Replace all processes, even if nothing has changed.")
@server_option
@token_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def reload(
    is_all: bool, server: str | None, token_file: str | None, config_file: str | None, as_json: bool
) -> None:
    """Make a running server read its configuration again.

    The server reads the same file, options and variables as at its start, and replaces the processes that use
    a changed setting, without losing queries. The command returns when the new configuration is in force. If
    it has errors, they are printed, and the old configuration stays in force. The exit status is 2 for errors
    in the configuration, 3 if the server does not respond, 5 if it denies the request.
    """
    client = make_client(server, config_file, token_file)
    every = "1" if is_all else None
    try:
        reloaded = client.post("reload", Reloaded, seconds=RELOAD_SECONDS, all=every)
    except UnreachableError as error:
        fail(error, ExitStatus.NO_RESPONSE)
    except RefusedError as error:
        if error.status == HTTPStatus.CONFLICT:
            fail_usage((*error.errors, "the old configuration stays in force"))
        fail_refused(error)
    if as_json:
        write_json(reloaded)
    else:
        write_lines(_summary(reloaded))


def _summary(reloaded: Reloaded) -> str:
    if not reloaded.changed and not reloaded.replaced:
        return "nothing has changed"
    changed = ", ".join(reloaded.changed) or "nothing"
    processes = f"{counted(len(reloaded.replaced), 'process', 'processes')} replaced"
    return f"reloaded in {format_duration(reloaded.seconds)}: {changed} changed, {processes}"
