"""`zkdns serve`: run the server."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

import click

from zkdns.address import HostPort, connectable
from zkdns.cli.options import config_option, exit_failed, load, load_or_exit, setting_options
from zkdns.config import Config
from zkdns.daemon.supervisor.supervisor import Supervisor
from zkdns.errors import ListenError
from zkdns.names import to_text
from zkdns.telemetry.log_setup import configure_logging, silence
from zkdns.telemetry.sd_notify import Notifier
from zkdns.transport.activation import addresses_of, take_inherited_sockets

_STDERR = 2

# What to try in the example: each shows another thing that it can do.
_EXAMPLES = (
    ("web.staging", "A", "addresses, in turn"),
    ("web.staging", "SRV", "addresses with their ports"),
    ("_admin._tcp.web.staging", "SRV", "an additional endpoint"),
    ("_web._tcp.staging", "SRV", "as RFC 2782 has it"),
    ("m1.web.staging", "A", "one member"),
    ("s2.web.staging", "SRV", "one shard"),
    ("api.v2.staging", "AAAA", "IPv6"),
    ("database.prod", "SRV", "members with host names"),
)


@click.command()
@config_option
@setting_options
def serve(config_file: str | None, **flags: object) -> None:
    """Answer DNS queries from ZooKeeper's server sets, until SIGTERM or Ctrl-C.

    On SIGHUP, and when `zkdns reload` says so, the configuration is read again. The exit status is 1 where an
    address cannot be listened at, 2 for mistakes.
    """
    _open_standard_files()
    notifier = Notifier.taken_from(os.environ)
    try:
        passed = take_inherited_sockets(os.environ)
    except ListenError as error:
        exit_failed(error)
    listen = addresses_of(passed)
    config = load_or_exit(flags, config_file, listen=listen)
    read = partial(load, flags, config_file, listen=listen)
    configure_logging(config.log.format, config.log.level, process="supervisor")

    def ready(addresses: list[HostPort]) -> None:
        if not config.demo:
            return
        try:
            _show_examples(config, connectable(addresses[0]))
        except OSError:  # nobody can read them; the server stands all the same
            silence(sys.stdout)

    try:
        asyncio.run(_run(Supervisor(config, ready, read, passed=passed, notifier=notifier)))
    except ListenError as error:
        exit_failed(error)


def _open_standard_files() -> None:
    """Take the numbers 0, 1 and 2 where whoever started us closed them, lest a socket gets one of them.

    A child finds other files there than its parent had.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(number, True)
    os.close(number)


async def _run(supervisor: Supervisor) -> None:
    await supervisor.run()


def _show_examples(config: Config, address: HostPort) -> None:
    click.echo("\nTry, in another terminal:\n")
    for name, qtype, meaning in _EXAMPLES:
        command = f"dig @{address.host} -p {address.port} {name}.{to_text(config.zone)} {qtype}"
        click.echo(f"  {command:<72} # {meaning}")
    click.echo("\nCtrl-C ends it.\n")
