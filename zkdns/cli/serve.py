"""`zkdns serve`: run the server."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

import click

from zkdns.address import HostPort, connectable
from zkdns.cli.options import SettingsCommand, config_option, fail, load, load_or_exit, setting_options
from zkdns.config import Config
from zkdns.daemon.supervisor.supervisor import Supervisor
from zkdns.errors import ListenError
from zkdns.names import to_text
from zkdns.telemetry.log_setup import configure_logging, silence
from zkdns.telemetry.sd_notify import Notifier
from zkdns.transport.activation import addresses_of, take_inherited_sockets

_STDERR = 2

# Name, type and description of the queries that --demo suggests.
_EXAMPLES = (
    ("web.staging", "A", "addresses, rotated"),
    ("web.staging", "SRV", "addresses with ports"),
    ("_admin._tcp.web.staging", "SRV", "an additional endpoint"),
    ("_web._tcp.staging", "SRV", "the form of RFC 2782"),
    ("m1.web.staging", "A", "one member"),
    ("s2.web.staging", "SRV", "one shard"),
    ("api.v2.staging", "AAAA", "IPv6"),
    ("database.prod", "SRV", "members with host names"),
)


@click.command(cls=SettingsCommand)
@config_option
@setting_options
def serve(config_file: str | None, **flags: object) -> None:
    """Answer DNS queries from ZooKeeper server sets.

    Runs until SIGTERM or Ctrl-C. SIGHUP and `zkdns reload` make it read its configuration again. The exit
    status is 1 if an address cannot be bound, 2 for usage errors.
    """
    _open_standard_streams()
    notifier = Notifier.from_environment(os.environ)
    try:
        passed = take_inherited_sockets(os.environ)
    except ListenError as error:
        fail(error)
    listen = addresses_of(passed)
    config = load_or_exit(flags, config_file, listen=listen)
    read = partial(load, flags, config_file, listen=listen)
    configure_logging(config.log.format, config.log.level, process="supervisor")

    def ready(addresses: list[HostPort]) -> None:
        if not config.demo:
            return
        try:
            _show_examples(config, connectable(addresses[0]))
        except OSError:  # standard output is closed; the server runs without it
            silence(sys.stdout)

    try:
        asyncio.run(Supervisor(config, ready, read, passed=passed, notifier=notifier).run())
    except ListenError as error:
        fail(error)


def _open_standard_streams() -> None:
    """Open /dev/null for each closed standard stream (file descriptors 0, 1 and 2).

    Otherwise a socket would get the number of a standard stream, and child processes would write to it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(number, True)
    os.close(number)


def _show_examples(config: Config, address: HostPort) -> None:
    click.echo("\nTry, in another terminal:\n")
    for name, qtype, description in _EXAMPLES:
        command = f"dig @{address.host} -p {address.port} {name}.{to_text(config.zone)} {qtype}"
        click.echo(f"  {command:<72} # {description}")
    click.echo("\nPress Ctrl-C to stop the server.\n")
