"""`zkdns dump`: what is answered, as other servers read it."""

from __future__ import annotations

import asyncio
import sys
from typing import NoReturn

import click

from zkdns.cli.options import (
    NO_ANSWER,
    config_option,
    exit_failed,
    exit_mistaken,
    load_or_exit,
    options_of,
    write_out,
)
from zkdns.cli.progress import Bar
from zkdns.cli.running import control_option, control_path, exit_refused
from zkdns.cli.table_copy import TableCopy, copy_from_server, copy_from_sources
from zkdns.config import SETTINGS, Config
from zkdns.daemon.ipc.control import ControlError, Refused
from zkdns.dns.zone import Zone
from zkdns.dns.zonefile import service_records, zone_header
from zkdns.errors import BadValueError, ZkdnsError
from zkdns.names import Labels, lower, parse_name, to_text
from zkdns.serverset.auth import ACCESS_KEYS
from zkdns.telemetry.log_setup import configure_logging, silence

_SOURCES = tuple(row for row in SETTINGS if row.key in {"zookeeper.hosts", "static", "demo", "offline"})
_OF_SOURCES = tuple(row for row in SETTINGS if row.key in {*ACCESS_KEYS, "namespace", "snapshot.path"})


@click.command()
@click.option(
    "--zone",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="As a zone file (RFC 1035): of the zone NAME, which may be left out where there is only one.",
)
@control_option
@config_option
@options_of((*_SOURCES, *_OF_SOURCES))
def dump(zone: str | None, control: str | None, config_file: str | None, **flags: object) -> None:
    """Write what a running server answers with to standard output.

    Where a source is named (--zookeeper, --static, --demo, --offline) it is read, and no server is asked. The
    exit status is 1 where nothing has been read yet, or the source cannot be read, 2 for mistakes, 3 where no
    server answers.
    """
    if zone is None:
        exit_mistaken(["--zone: is missing; write --zone for a zone file"])
    sources = [row for row in _SOURCES if flags[row.name] not in (None, False)]
    given = sources or [row for row in _OF_SOURCES if flags[row.name] is not None]
    if sources:
        if control is not None:
            exit_mistaken([f"--control: names a server, and {given[0].flag} a source; write one of the two"])
        copy = _read_sources(load_or_exit(flags, config_file))
    elif given:
        known = ", ".join(row.flag for row in _SOURCES)
        exit_mistaken([f"{given[0].flag}: belongs to a source; name that too ({known})"])
    else:
        copy = _ask_server(control_path(control, config_file))
    try:
        _write(copy, _apex(zone, copy.config))
    except BrokenPipeError:
        silence(sys.stdout)


def _ask_server(path: str) -> TableCopy:
    try:
        copy = asyncio.run(copy_from_server(path))
    except ControlError as error:
        exit_failed(error, NO_ANSWER)
    if isinstance(copy, Refused):
        exit_refused(copy)
    return copy


def _read_sources(config: Config) -> TableCopy:
    configure_logging(config.log.format, "error", process="dump")
    try:
        return asyncio.run(copy_from_sources(config))
    except ZkdnsError as error:
        exit_failed(error)


def _apex(zone: str, config: Config) -> Labels:
    """The zone that is meant; where none is, tell which there are and exit."""
    if not zone:
        if len(config.zones) > 1:
            _exit_which("--zone: does not say which", config)
        return config.zone
    try:
        apex = lower(parse_name(zone))
    except BadValueError as error:
        exit_mistaken([f"--zone: {error}"])
    if apex not in config.zones:
        _exit_which(f"--zone: there is no zone {zone}", config)
    return apex


def _exit_which(mistake: str, config: Config) -> NoReturn:
    exit_mistaken([f"{mistake}; write --zone {' or --zone '.join(map(to_text, config.zones))}"])


def _write(copy: TableCopy, apex: Labels) -> None:
    zone = Zone(copy.table, copy.config)
    if copy.is_stale:
        write_out("; the source of these records is out of reach: they are the last that were known\n")
    write_out(zone_header(zone, apex))
    services = sorted(zone.services, key=lambda key: key[::-1])
    bar = Bar("writing services")
    with bar.progress:
        for done, service in enumerate(services, 1):
            if records := service_records(zone, apex, service):
                write_out(records)
            bar.advance(done, len(services))
