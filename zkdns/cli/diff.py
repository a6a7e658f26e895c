"""`zkdns diff`: whether several servers answer the same, and what differs."""

from __future__ import annotations

import sys
from collections import defaultdict

import click

from zkdns.admin.client import ApiClient, ServerAddress, UnreachableError, parse_server
from zkdns.cli.command import Command
from zkdns.cli.options import complete_file, fail, fail_usage
from zkdns.cli.output import write_columns
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import is_terminal, write_error, write_fields, write_json
from zkdns.cli.table_diff import Comparer, Comparison, Difference
from zkdns.cli.values import duration_option
from zkdns.errors import BadValueError

_DEFAULT_WAIT = 3.0
_MAX_WAIT = 3600.0
_COLUMNS = ("service", "member", "property", "values")


@click.command(
    cls=Command,
    examples=(
        ("zkdns diff /run/zkdns/api http://dns2:9153", "This host and another one"),
        ("zkdns diff http://dns1:9153 http://dns2:9153 --json", "Two hosts, as JSON"),
    ),
)
@click.argument(
    "servers", nargs=-1, required=True, metavar="SERVER1 SERVER2...", shell_complete=complete_file
)
@duration_option(
    "--wait",
    0,
    _MAX_WAIT,
    help="Time for which a difference must last to be reported, such as 500ms or 10s. Default: 3s.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object for each difference, one per line."
)
def diff(servers: tuple[str, ...], wait: float | None, as_json: bool) -> None:
    """Compare the answers of two or more servers.

    SERVER is http://HOST:PORT, https://HOST:PORT, or the path of a server's socket.

    Compares the digests of all processes of the servers, and lists the members that differ: missing ones,
    other endpoints, statuses, shards and weights, and held members. Prints a table in a terminal; otherwise a
    line for each difference: service, member, property, and the value at each server, separated by tabs. A
    service without members differs from one that does not exist. The members of at most 100 services are
    compared; further ones are counted.

    The exit status is 0 if all answers are equal, 1 if they differ, 2 for usage errors, 3 if a server does
    not respond, has not read its table yet, or is of another version.
    """
    clients = [ApiClient(address, option="") for address in _addresses(servers)]
    try:
        found = Comparer(clients).compare(_DEFAULT_WAIT if wait is None else wait)
    except UnreachableError as error:
        fail(error, ExitStatus.NO_RESPONSE)
    _write(found, as_json=as_json)
    if found.differences or found.more:
        sys.exit(ExitStatus.NEGATIVE)


def _addresses(servers: tuple[str, ...]) -> list[ServerAddress]:
    """Parse the arguments. If there are errors, print them and exit."""
    errors: list[str] = []
    addresses: list[ServerAddress] = []
    for server in servers:
        try:
            address = parse_server(server)
        except BadValueError as error:
            errors.append(str(error))
            continue
        if address in addresses:
            errors.append(f"{server}: occurs twice")
        addresses.append(address)
    if not errors and len(addresses) < 2:  # noqa: PLR2004 - a comparison needs two
        errors.append(f"{servers[0]}: is compared with nothing; name two or more servers")
    if errors:
        fail_usage(errors)
    return addresses


def _write(found: Comparison, *, as_json: bool) -> None:
    if as_json:
        write_json(*found.differences)
    elif is_terminal(sys.stdout) and found.differences:
        write_columns(_COLUMNS, [(*_place(one), _grouped(one)) for one in found.differences])
    else:
        write_fields((*_place(one), *map("=".join, one.values.items())) for one in found.differences)
    if found.more:
        write_error(f"{found.more} more services differ; their members were not compared")


def _place(one: Difference) -> tuple[str, str, str]:
    return one.service, one.member, one.field


def _grouped(one: Difference) -> str:
    """The values, each with the servers that have it."""
    servers: dict[str, list[str]] = defaultdict(list)
    for server, value in one.values.items():
        servers[value].append(server)
    return "; ".join(f"{value} at {' and '.join(those)}" for value, those in servers.items())
