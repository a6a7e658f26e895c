"""`zkdns accept`: drop held members."""

from __future__ import annotations

from http import HTTPStatus

import click

from zkdns.admin.api_types import LossesAccepted, ReleasedMember
from zkdns.admin.client import RefusedError, UnreachableError
from zkdns.cli.api_options import fail_refused, make_client, server_option, token_option
from zkdns.cli.command import Command
from zkdns.cli.name_completion import complete_held
from zkdns.cli.options import SettingOption, config_option, fail, fail_usage
from zkdns.cli.service_argument import fail_not_found, service_argument
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import write_fields, write_json


@click.command(
    cls=Command,
    examples=(
        ("zkdns accept web.staging", "After a planned shutdown of most members of a service"),
        ("zkdns accept --all", "All services, after the end of an environment"),
    ),
)
@service_argument(is_required=False, complete=complete_held)
@click.option(
    "--all",
    "is_all",
    cls=SettingOption,
    required="required without SERVICE",
    is_flag=True,
    help="Drop the held members of all services.",
)
@server_option
@token_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each member, one per line.")
def accept(
    service: str | None,
    is_all: bool,
    server: str | None,
    token_file: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Accept a loss: stop answering with SERVICE's held members.

    Held members were removed from ZooKeeper, but the server still answers with them, because their removal
    looked like a failure of ZooKeeper. SERVICE is a name such as web.staging, the path of its znode, or the
    address of a member. The output has a line for each dropped member: service, member and endpoint,
    separated by tabs. The exit status is 1 if there are no held members, 2 for usage errors, 3 if the server
    does not respond, 5 if it denies the request.
    """
    if is_all == (service is not None):
        fail_usage(["write one SERVICE, or --all for all services"])
    client = make_client(server, config_file, token_file)
    every = "1" if is_all else None
    try:
        accepted = client.post("accept", LossesAccepted, service=service, all=every)
    except UnreachableError as error:
        fail(error, ExitStatus.NO_RESPONSE)
    except RefusedError as error:
        if service is not None and error.status == HTTPStatus.NOT_FOUND:
            fail_not_found(client, service, str(error))
        fail_refused(error)
    members = accepted.members
    if as_json:
        write_json(*members)
    else:
        write_fields(map(_fields, members))


def _fields(member: ReleasedMember) -> tuple[str, ...]:
    return member.service, member.znode.rpartition("/")[2], member.endpoint or "-"
