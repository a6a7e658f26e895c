"""`zkdns accept`: tell a running server that a loss is real."""

from __future__ import annotations

import click
import msgspec

from zkdns.cli.names import complete_held
from zkdns.cli.options import config_option, exit_mistaken
from zkdns.cli.running import ask_server, control_option
from zkdns.daemon.ipc.control_messages import AcceptLosses, LossesAccepted, ReleasedMember


@click.command()
@click.argument("service", required=False, shell_complete=complete_held)
@click.option("--all", "every", is_flag=True, help="Accept the losses of all services.")
@control_option
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
    for member in ask_server(AcceptLosses(service), LossesAccepted, control, config_file).members:
        click.echo(msgspec.json.encode(member) if as_json else _line(member))


def _line(member: ReleasedMember) -> str:
    return "\t".join((member.service, member.znode.rpartition("/")[2], member.endpoint or "-"))
