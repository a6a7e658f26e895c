"""`zkdns accept`: tell a running server that a loss is real."""

from __future__ import annotations

import asyncio
import sys

import click
import msgspec

from zkdns.cli.options import (
    MISTAKEN,
    NO_ANSWER,
    NOT_FOUND,
    config_option,
    exit_mistaken,
    load_or_exit,
)
from zkdns.daemon.control import Accept, ControlError, LetGo, Refused, command


@click.command()
@click.argument("service", required=False)
@click.option("--all", "every", is_flag=True, help="Accept the losses of all services.")
@click.option("--control", metavar="FILE", help="The server's control socket (default: the configured one).")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each member, a line each.")
def accept(
    service: str | None, every: bool, control: str | None, config_file: str | None, as_json: bool
) -> None:
    """Let go of members that a server still answers with, although they have left.

    SERVICE is a name as web.staging, or a znode's path. What was let go is listed: service, member and
    endpoint, tabs between. The exit status is 1 where nothing was held, 2 for mistakes, 3 where no server
    answers.
    """
    if every == (service is not None):
        exit_mistaken(["name one service, or write --all for all of them"])
    path = load_or_exit({"control": control}, config_file, with_fixed=False).control
    if path is None:
        click.echo("zkdns: there is no control socket; name the server's with --control FILE", err=True)
        sys.exit(NO_ANSWER)
    try:
        response = asyncio.run(command(path, Accept(service)))
    except ControlError as error:
        click.echo(f"zkdns: {error}", err=True)
        sys.exit(NO_ANSWER)
    if isinstance(response, Refused):
        click.echo(f"zkdns: {response.sentence}", err=True)
        sys.exit(MISTAKEN if response.reason == "mistaken" else NOT_FOUND)
    for member in response.members:
        click.echo(msgspec.json.encode(member) if as_json else _line(member))


def _line(member: LetGo) -> str:
    return "\t".join((member.service, member.znode.rpartition("/")[2], member.endpoint or "-"))
