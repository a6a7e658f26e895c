"""`zkdns services`: the services of a running server or in ZooKeeper, with their numbers of members."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from zkdns.cli.api_options import make_client, request_or_exit, server_option
from zkdns.cli.command import Command
from zkdns.cli.options import fail, fail_usage
from zkdns.cli.serverset_options import (
    CONFIGURED,
    ENVIRONMENT,
    ParsedOptions,
    fail_in_zookeeper,
    parse_znode_name,
    server_set_options,
)
from zkdns.cli.service_argument import note_held
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import is_terminal, write_error, write_fields, write_json
from zkdns.config import Config
from zkdns.errors import BadValueError, ZkdnsError
from zkdns.serverset.auth import Access
from zkdns.serverset.reachability import NO_QUORUM
from zkdns.serverset.service_counts import Listing, ServiceCount

_MAX_WARNINGS = 10


@click.command(
    cls=Command,
    examples=(
        ("zkdns services", "The services of all environments"),
        ("zkdns services --environment staging --json", "Those of one environment, as JSON"),
    ),
)
@click.option("--direct", is_flag=True, help="Read ZooKeeper, not the server.")
@server_option
@server_set_options(ENVIRONMENT)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each service, one per line.")
def services(
    direct: bool, server: str | None, config_file: str | None, as_json: bool, **flags: object
) -> None:
    """List all services, with their numbers of members.

    Prints a table in a terminal; otherwise a line for each service: environment, service and number of
    members, separated by tabs. The services are those of the running server or, with --direct, those in
    ZooKeeper. Only --direct uses the options for ZooKeeper.

    The exit status is 1 if there are no services, 2 for usage errors, 3 if the server or ZooKeeper does not
    respond, 5 if it denies access.
    """
    if direct:
        if server is not None:
            fail_usage(["--server: cannot be combined with --direct; remove one of them"])
        from zkdns.cli import import_structlog  # noqa: PLC0415 - only --direct logs

        import_structlog()
        parsed = ParsedOptions({ENVIRONMENT.flag: ENVIRONMENT}, flags, config_file)
        config, environment = parsed.config_or_fail("services"), parsed.values.get("environment")
        listing, place = _list_directly(config, environment, parsed.access)
        problem = ""
    else:
        environment = _checked(flags)
        client = make_client(server, config_file)
        listing = request_or_exit(client.sets, environment)
        status = request_or_exit(client.status)
        source = status.zookeeper or status.primary
        problem = source.problem if source is not None else ""
        place = f"at the server {client.server}"
    if as_json:
        write_json(*listing.services)
    elif is_terminal(sys.stdout):
        _show(listing)
    else:
        write_fields((row.environment, row.service, _count(row.members)) for row in listing.services)
    if problem:
        write_error(f"the list may be out of date: {problem}")
    if listing.is_read_only:
        write_error(f"the ZooKeeper server may be out of date: {NO_QUORUM}")
    note_held({row.name: row.held for row in listing.services if row.held})
    _warn_of_others([row for row in listing.services if row.is_foreign])
    for path in listing.denied:
        write_error(f"cannot list {path}: its ACL denies access")
    if not listing.services and listing.denied:
        sys.exit(ExitStatus.FAILED)
    if not listing.services and not listing.empty:
        nothing = _nothing(environment, has_root=listing.exists or not direct)
        fail(f"there {nothing} {place}", ExitStatus.NEGATIVE)


def _checked(flags: dict[str, object]) -> str | None:
    """Return the environment. If it is invalid, or an option needs --direct, print the errors and exit."""
    unused = (row.flag for row in CONFIGURED if flags[row.name] not in (None, ()))
    errors = [
        f"{flag}: is only used with --direct; add it, or name a server with --server" for flag in unused
    ]
    environment = flags[ENVIRONMENT.name]
    if environment is not None:
        try:
            parse_znode_name(str(environment))
        except BadValueError as error:
            errors.append(f"--environment: {error}")
    if errors:
        fail_usage(errors)
    return str(environment) if environment is not None else None


def _list_directly(config: Config, environment: str | None, access: Access) -> tuple[Listing, str]:
    """List the services of all namespaces in ZooKeeper, and return the place for an error too."""
    from zkdns.cli.output import ProgressBar  # noqa: PLC0415 - loads rich
    from zkdns.serverset.listing import list_services  # noqa: PLC0415 - loads kazoo

    bar = ProgressBar("counting members")
    hosts = str(config.zookeeper.hosts)
    try:
        with bar.progress:
            listings = [
                list_services(hosts, one, environment=environment, progress=bar.update, access=access)
                for one in config.namespaces
            ]
    except ZkdnsError as error:
        fail_in_zookeeper(error, config)
    rows = [row for listing in listings for row in listing.services]
    merged = Listing(
        services=tuple(sorted(rows, key=lambda row: (row.environment, row.service, row.path))),
        empty=tuple(sorted(path for listing in listings for path in listing.empty)),
        denied=tuple(sorted(path for listing in listings for path in listing.denied)),
        exists=all(listing.exists for listing in listings),
        is_read_only=any(listing.is_read_only for listing in listings),
    )
    roots = " and ".join(dict.fromkeys(namespace.root for namespace in config.namespaces))
    is_missing = not merged.exists and environment is None
    return merged, f"{'' if is_missing else 'below '}{roots} in ZooKeeper at {hosts}"


def _nothing(environment: str | None, *, has_root: bool) -> str:
    if environment is not None:
        return f"is no environment {environment!r}"
    return "are no services" if has_root else "is no znode"


def _warn_of_others(foreign: Sequence[ServiceCount]) -> None:
    """Print a warning for the first services that have children, but no members."""
    for row in foreign[:_MAX_WARNINGS]:
        write_error(f"{row.path} has no members, but {row.others}")
    if (more := len(foreign) - _MAX_WARNINGS) > 0:
        write_error(f"{more} more services have no members, but other children")


def _show(listing: Listing) -> None:
    from rich.table import Table  # noqa: PLC0415 - slow to load, only for terminals

    from zkdns.cli.output import make_console, styled  # noqa: PLC0415 - as above

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
