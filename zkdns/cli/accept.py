"""`zkdns accept`: drop held members."""

from __future__ import annotations

import click
import msgspec

from zkdns.cli.control_client import control_option, request_or_exit
from zkdns.cli.name_completion import complete_held
from zkdns.cli.options import config_option, fail_usage
from zkdns.daemon.ipc.control_messages import AcceptLosses, LossesAccepted, ReleasedMember


@click.command()
@click.argument("service", required=False, shell_complete=complete_held)
@click.option("--all", "is_all", is_flag=True, help="Drop the held members of all services.")
@control_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each member, one per line.")
def accept(
    service: str | None, is_all: bool, control: str | None, config_file: str | None, as_json: bool
) -> None:
    """Accept a loss: stop answering with SERVICE's held members.

    Held members were removed from ZooKeeper, but the server still answers with them, because their removal
    looked like a failure of ZooKeeper. SERVICE is a name such as web.staging, or the path of its znode. The
    output has a line for each dropped member: service, member and endpoint, separated by tabs. The exit
    status is 1 if there are no held members, 2 for usage errors, 3 if the server does not respond.
    """
    if is_all == (service is not None):
        fail_usage(["write one SERVICE, or --all for all services"])
    for member in request_or_exit(AcceptLosses(service), LossesAccepted, control, config_file).members:
        click.echo(msgspec.json.encode(member) if as_json else _line(member))


def _line(member: ReleasedMember) -> str:
    return "\t".join((member.service, member.znode.rpartition("/")[2], member.endpoint or "-"))
