"""`zkdns services`: which services there are, and how many members each has."""

from __future__ import annotations

import sys

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zkdns.cli.options import FAILED, exit_failed, is_terminal, write_out
from zkdns.cli.progress import Bar
from zkdns.cli.sets import ENVIRONMENT, Reading, set_options
from zkdns.errors import ZkdnsError
from zkdns.serverset.listing import Listing, list_services


@click.command()
@set_options(ENVIRONMENT)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each service, a line each.")
def services(config_file: str | None, as_json: bool, **flags: object) -> None:
    """List environments, services and their numbers of members.

    A table in a terminal; otherwise a line for each service: environment, service and members, tabs between.

    The exit status is 1 where there is nothing to list, or ZooKeeper cannot be reached, 2 for mistakes.
    """
    reading = Reading({ENVIRONMENT.flag: ENVIRONMENT}, flags, config_file)
    config = reading.finish("services")
    environment = reading.values.get("environment")
    bar = Bar("counting members")
    try:
        with bar.progress:
            listing = list_services(
                str(config.zookeeper.hosts),
                config.namespace,
                environment=environment,
                progress=bar.advance,
                access=reading.access,
            )
    except ZkdnsError as error:
        exit_failed(error)
    if as_json:
        write_out("".join(f"{msgspec.json.encode(row).decode()}\n" for row in listing.services))
    elif is_terminal(sys.stdout):
        _show(listing)
    else:
        write_out(
            "".join(f"{row.environment}\t{row.service}\t{_count(row.members)}\n" for row in listing.services)
        )
    for path in listing.denied:
        click.echo(
            f"zkdns: {path} may not be listed: ZooKeeper's ACL does not permit this client to", err=True
        )
    if not listing.services and listing.denied:
        sys.exit(FAILED)
    if not listing.services and not listing.empty:
        where = f"{environment!r} below {config.namespace.root}" if environment else config.namespace.root
        is_missing = not listing.exists or environment
        what = f"there is no {where}" if is_missing else f"there is nothing below {where}"
        click.echo(f"zkdns: {what}, in ZooKeeper at {config.zookeeper.hosts}", err=True)
        sys.exit(FAILED)


def _show(listing: Listing) -> None:
    table = Table("environment", "service", box=None, pad_edge=False, header_style="bold")
    table.add_column("members", justify="right")
    shown = ""
    for row in listing.services:
        repeated = row.environment == shown
        shown = row.environment
        style = "yellow" if not row.members else ""
        table.add_row(
            Text("" if repeated else shown), Text(row.service), Text(_count(row.members), style=style)
        )
    for path in listing.empty:
        table.add_row(Text(path.rpartition("/")[2]), Text("no services", style="dim"), "")
    Console(highlight=False).print(table)


def _count(members: int | None) -> str:
    return "?" if members is None else str(members)
