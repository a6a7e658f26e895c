"""`zkdns serve`: run the server."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from functools import partial
from importlib.util import find_spec

import click
import structlog

from zkdns.address import HostPort, connectable
from zkdns.cli.options import SettingsCommand, config_option, fail, load, load_or_exit, setting_options
from zkdns.cli.streams import OutputError, write_lines
from zkdns.config import Config
from zkdns.daemon.supervisor.supervisor import Supervisor
from zkdns.errors import ListenError
from zkdns.names import to_text
from zkdns.telemetry.log_setup import configure_logging
from zkdns.telemetry.sd_notify import Notifier
from zkdns.transport.activation import addresses_of, take_inherited_sockets

log = structlog.get_logger("zkdns.supervisor")

_STDERR = 2
_COLUMNS = 80  # of the hints; a longer command has no description

# Packages that are imported only after the start, or by child processes.
_LATER_IMPORTS = ("aiohttp", "cachetools", "dnslib", "prometheus_client")

# Name, type and description of the queries that --demo suggests.
_QUERIES = (
    ("web.staging", "", "addresses, rotated"),
    ("web.staging", "SRV", "with ports"),
    ("_admin._tcp.web.staging", "SRV", "an admin port"),
    ("_web._tcp.staging", "SRV", "as in RFC 2782"),
    ("m1.web.staging", "", "one member"),
    ("s2.web.staging", "SRV", "one shard"),
    ("api.v2.staging", "AAAA", "IPv6"),
    ("database.prod", "SRV", "host names"),
)


@click.command(
    cls=SettingsCommand,
    examples=(
        ("zkdns serve --demo", "The built-in example, at 127.0.0.1:5300"),
        (
            "zkdns serve --zookeeper zk01:2181,zk02:2181,zk03:2181",
            "The services in ZooKeeper, at 127.0.0.1:53",
        ),
        ("zkdns serve --config /etc/zkdns/zkdns.toml", "With a configuration file"),
    ),
)
@config_option
@setting_options
def serve(config_file: str | None, **flags: object) -> None:
    """Answer DNS queries from ZooKeeper server sets.

    Runs until SIGTERM or Ctrl-C. SIGHUP and `zkdns reload` make it read its configuration again. The exit
    status is 2 for usage errors, 5 if an address cannot be bound.
    """
    _open_standard_streams()
    _check_packages()
    notifier = Notifier.from_environment(os.environ)
    try:
        passed = take_inherited_sockets(os.environ)
    except ListenError as error:
        fail(error)
    listen = addresses_of(passed)
    config = load_or_exit(flags, config_file, listen=listen)
    read = partial(load, flags, config_file, listen=listen)
    configure_logging(config.log.format, config.log.level, process="supervisor")
    if config.has_default_source:
        log.info("default_source_used", zookeeper=config.zookeeper.hosts)

    def ready(addresses: list[HostPort]) -> None:
        if not config.demo:
            return
        try:
            # A command without options uses the socket that the same user's configuration names.
            is_found = bool(config.admin.socket) and flags["admin_socket"] is None and config_file is None
            _show_hints(config, connectable(addresses[0]), is_found=is_found)
        except OutputError:  # the server runs without standard output
            sys.stdout = None  # as Python does if it was closed at the start

    try:
        asyncio.run(Supervisor(config, ready, read, passed=passed, notifier=notifier).run())
    except ListenError as error:
        fail(error)


def _check_packages() -> None:
    """Check that packages are installed which would be missed only later.

    Raises:
        ModuleNotFoundError: as an import would; `zkdns.__main__` handles it.
    """
    for name in _LATER_IMPORTS:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _open_standard_streams() -> None:
    """Open /dev/null for each closed standard stream (file descriptors 0, 1 and 2).

    Otherwise a socket would get the number of a standard stream, and child processes would write to it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(number, True)
    os.close(number)


def _show_hints(config: Config, address: HostPort, *, is_found: bool) -> None:
    """Print commands to try in another terminal, and that the server is ready.

    `is_found`: whether commands without options find the server.
    """
    zone = to_text(config.zone)
    options = "" if is_found else f" --dns {shlex.quote(str(address))}"
    hints = [
        (f"zkdns lookup {name}.{zone} {qtype}".rstrip() + options, meaning)
        for name, qtype, meaning in _QUERIES
    ]
    name, qtype, _ = _QUERIES[1]
    hints.append((f"dig @{address.host} -p {address.port} {name}.{zone} {qtype} +short", "with dig"))
    widest = max(len(command) for command, _ in hints)
    lines = [(f"  {command:{widest}}  # {meaning}", f"  {command}") for command, meaning in hints]
    write_lines(
        *("", "Try, in another terminal:", ""),
        *(line if len(line) <= _COLUMNS else bare for line, bare in lines),
        *("", "Ctrl-C stops the server.", "ready"),
    )
