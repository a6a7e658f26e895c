"""`zkdns dump`: the table of a server or of its sources, as a zone file."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import NoReturn

import click

from zkdns.admin.client import ApiClient
from zkdns.cli.api_options import make_client, request_or_exit, server_option
from zkdns.cli.command import Command
from zkdns.cli.options import (
    SettingOption,
    config_option,
    fail,
    fail_usage,
    load_or_exit,
    options_of,
)
from zkdns.cli.output import ProgressBar
from zkdns.cli.streams import write_json, write_out
from zkdns.cli.table_copy import TableCopy, copy_from_server, copy_from_sources
from zkdns.config import SETTINGS, Config
from zkdns.daemon.member_rows import member_rows
from zkdns.dns.zone import Zone
from zkdns.dns.zonefile import service_records, zone_header
from zkdns.errors import BadValueError, ZkdnsError
from zkdns.escape import printable_json
from zkdns.names import Labels, lower, parse_name, to_text
from zkdns.serverset.auth import ACCESS_KEYS
from zkdns.telemetry.log_setup import configure_logging

# Without a source, the table of a server is read: no source has a default.
_SOURCES = tuple(
    replace(row, help=row.help.partition(" Default: ")[0])
    for row in SETTINGS
    if row.key in {"zookeeper.hosts", "primary.servers", "static", "demo", "offline"}
)
_SOURCE_OPTIONS = tuple(
    row for row in SETTINGS if row.key in {*ACCESS_KEYS, "primary.ca", "namespace", "snapshot.path"}
)


@click.command(
    cls=Command,
    examples=(
        ("zkdns dump --zone discovery > discovery.zone", "A zone file of the running server's table"),
        ("zkdns dump --json --zookeeper zk01:2181", "All members in ZooKeeper, without a server"),
    ),
)
@click.option(
    "--zone",
    cls=SettingOption,
    required="required without --json",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Write a zone file (RFC 1035) of the zone NAME. NAME may be omitted if there is only one zone.",
)
@click.option(
    "--json",
    "as_json",
    cls=SettingOption,
    required="required without --zone",
    is_flag=True,
    help="Print a JSON object for each member, one per line.",
)
@server_option
@config_option
@options_of((*_SOURCES, *_SOURCE_OPTIONS))
def dump(
    zone: str | None, as_json: bool, server: str | None, config_file: str | None, **flags: object
) -> None:
    """Write a zone file of a server's table, or its members as JSON.

    With a source (--zookeeper, --primary, --static, --demo or --offline), read the table from it instead of
    from a server. The exit status is 1 if the server has not read its table yet, 2 for usage errors, 3 if the
    server or the source does not respond.
    """
    if as_json == (zone is not None):
        fail_usage(["write --zone for a zone file, or --json for all members"])
    sources = [row for row in _SOURCES if flags[row.name] not in (None, False, ())]
    given = sources or [row for row in _SOURCE_OPTIONS if flags[row.name] is not None]
    if sources:
        if server is not None:
            fail_usage([f"--server: cannot be combined with the source {given[0].flag}; remove one of them"])
        config = load_or_exit(flags, config_file)
        if zone is not None:
            _apex(zone, config)  # an error shows before the source is read
        copy = _read_sources(config)
    elif given:
        accepted = ", ".join(row.flag for row in _SOURCES)
        fail_usage([f"{given[0].flag}: is only used with a source; add one of {accepted}"])
    else:
        client = make_client(server, config_file)
        if as_json:
            request_or_exit(_write_members, client)
            return
        copy = request_or_exit(copy_from_server, client)
    if zone is None:
        write_json(*member_rows(copy.table))
    else:
        _write_zone(copy, _apex(zone, copy.config))


def _write_members(client: ApiClient) -> None:
    for line in client.lines("members"):
        write_out(f"{printable_json(line.decode())}\n")


def _read_sources(config: Config) -> TableCopy:
    configure_logging(config.log.format, "error", process="dump")
    try:
        return asyncio.run(copy_from_sources(config))
    except ZkdnsError as error:
        fail(error)


def _apex(zone: str, config: Config) -> Labels:
    """Return the apex of the selected zone. If there is none, print the accepted names and exit."""
    if not zone:
        if len(config.zones) > 1:
            _fail_zone("--zone: needs a name, because there are several zones", config)
        return config.zone
    try:
        apex = lower(parse_name(zone))
    except BadValueError as error:
        fail_usage([f"--zone: {error}"])
    if apex not in config.zones:
        _fail_zone(f"--zone: there is no zone {zone}", config)
    return apex


def _fail_zone(error: str, config: Config) -> NoReturn:
    fail_usage([f"{error}; write --zone {' or --zone '.join(map(to_text, config.zones))}"])


def _write_zone(copy: TableCopy, apex: Labels) -> None:
    zone = Zone(copy.table, copy.config)
    if copy.is_stale:
        write_out("; the source of these records is unreachable: this is the last table that was read\n")
    write_out(zone_header(zone, apex))
    services = sorted(zone.services, key=lambda key: key[::-1])
    bar = ProgressBar("writing services")
    with bar.progress:
        for done, service in enumerate(services, 1):
            if records := service_records(zone, apex, service):
                write_out(records)
            bar.update(done, len(services))
