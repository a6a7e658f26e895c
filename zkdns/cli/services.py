"""`zkdns services`: the services in ZooKeeper, with their numbers of members."""

from __future__ import annotations

import sys

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zkdns.cli.options import FAILED, fail, is_terminal, write_out
from zkdns.cli.output import ProgressBar
from zkdns.cli.serverset_options import ENVIRONMENT, ParsedOptions, server_set_options
from zkdns.errors import ZkdnsError
from zkdns.serverset.listing import Listing, list_services


@click.command()
@server_set_options(ENVIRONMENT)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each service, one per line.")
def services(config_file: str | None, as_json: bool, **flags: object) -> None:
    """List the services in ZooKeeper, with their numbers of members.

    Prints a table in a terminal; otherwise a line for each service: environment, service and number of
    members, separated by tabs.

    The exit status is 1 if there are no services or ZooKeeper is unreachable, 2 for usage errors.
    """
    parsed = ParsedOptions({ENVIRONMENT.flag: ENVIRONMENT}, flags, config_file)
    config = parsed.config_or_fail("services")
    environment = parsed.values.get("environment")
    bar = ProgressBar("counting members")
    try:
        with bar.progress:
            listing = list_services(
                str(config.zookeeper.hosts),
                config.namespace,
                environment=environment,
                progress=bar.update,
                access=parsed.access,
            )
    except ZkdnsError as error:
        fail(error)
    if as_json:
        write_out("".join(f"{msgspec.json.encode(row).decode()}\n" for row in listing.services))
    elif is_terminal(sys.stdout):
        _show(listing)
    else:
        write_out(
            "".join(f"{row.environment}\t{row.service}\t{_count(row.members)}\n" for row in listing.services)
        )
    for path in listing.denied:
        click.echo(f"zkdns: cannot list {path}: its ACL denies this client access", err=True)
    if not listing.services and listing.denied:
        sys.exit(FAILED)
    if not listing.services and not listing.empty:
        root = config.namespace.root
        if environment:
            problem = f"there is no environment {environment!r} below {root}"
        else:
            problem = f"there are no services below {root}" if listing.exists else f"there is no znode {root}"
        click.echo(f"zkdns: {problem} in ZooKeeper at {config.zookeeper.hosts}", err=True)
        sys.exit(FAILED)


def _show(listing: Listing) -> None:
    table = Table("environment", "service", box=None, pad_edge=False, header_style="bold")
    table.add_column("members", justify="right")
    previous = ""
    for row in listing.services:
        environment = "" if row.environment == previous else row.environment
        previous = row.environment
        style = "yellow" if not row.members else ""
        table.add_row(Text(environment), Text(row.service), Text(_count(row.members), style=style))
    for path in listing.empty:
        table.add_row(Text(path.rpartition("/")[2]), Text("no services", style="dim"), "")
    Console(highlight=False).print(table)


def _count(members: int | None) -> str:
    return "?" if members is None else str(members)
