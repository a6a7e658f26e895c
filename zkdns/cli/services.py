"""`zkdns services`: the services in ZooKeeper, with their numbers of members."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
from rich.table import Table

from zkdns.cli.options import fail
from zkdns.cli.output import ProgressBar, make_console, styled
from zkdns.cli.serverset_options import ENVIRONMENT, ParsedOptions, server_set_options
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import is_terminal, write_error, write_fields, write_json
from zkdns.errors import ZkdnsError
from zkdns.serverset.listing import Listing, ServiceCount, list_services
from zkdns.serverset.reachability import NO_QUORUM

_MAX_WARNINGS = 10


@click.command()
@server_set_options(ENVIRONMENT)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each service, one per line.")
def services(config_file: str | None, as_json: bool, **flags: object) -> None:
    """List the services in ZooKeeper, with their numbers of members.

    Prints a table in a terminal; otherwise a line for each service: environment, service and number of
    members, separated by tabs.

    The exit status is 1 if there are no services, 2 for usage errors, 3 if ZooKeeper is unreachable, 5 if it
    denies access.
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
        write_json(*listing.services)
    elif is_terminal(sys.stdout):
        _show(listing)
    else:
        write_fields((row.environment, row.service, _count(row.members)) for row in listing.services)
    if listing.is_read_only:
        write_error(f"the ZooKeeper server may be out of date: {NO_QUORUM}")
    _warn_of_others([row for row in listing.services if row.is_foreign])
    for path in listing.denied:
        write_error(f"cannot list {path}: its ACL denies this client access")
    if not listing.services and listing.denied:
        sys.exit(ExitStatus.FAILED)
    if not listing.services and not listing.empty:
        root = config.namespace.root
        if environment:
            problem = f"there is no environment {environment!r} below {root}"
        else:
            problem = f"there are no services below {root}" if listing.exists else f"there is no znode {root}"
        fail(f"{problem} in ZooKeeper at {config.zookeeper.hosts}", ExitStatus.NEGATIVE)


def _warn_of_others(foreign: Sequence[ServiceCount]) -> None:
    """Print a warning for the first services that have children, but no members."""
    for row in foreign[:_MAX_WARNINGS]:
        write_error(f"{row.path} has no members, but {row.others}")
    if (more := len(foreign) - _MAX_WARNINGS) > 0:
        write_error(f"{more} more services have no members, but other children")


def _show(listing: Listing) -> None:
    table = Table("environment", "service", box=None, pad_edge=False, header_style="bold")
    table.add_column("members", justify="right")
    previous = ""
    for row in listing.services:
        environment = "" if row.environment == previous else row.environment
        previous = row.environment
        style = "yellow" if not row.members else ""
        table.add_row(styled(environment), styled(row.service), styled(_count(row.members), style))
    for path in listing.empty:
        table.add_row(styled(path.rpartition("/")[2]), styled("no services", "dim"), "")
    make_console().print(table)


def _count(members: int | None) -> str:
    return "?" if members is None else str(members)
