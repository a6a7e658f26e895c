"""The commands. Never here: logic."""

from __future__ import annotations

import click

import zkdns
from zkdns.cli.accept import accept
from zkdns.cli.check import check
from zkdns.cli.lookup import lookup
from zkdns.cli.register import register
from zkdns.cli.serve import serve
from zkdns.cli.services import services
from zkdns.cli.watch import watch


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(zkdns.__version__, prog_name="zkdns")
def main() -> None:
    """DNS for the services that ZooKeeper server sets know."""


main.add_command(serve)
main.add_command(check)
main.add_command(lookup)
main.add_command(register)
main.add_command(watch)
main.add_command(services)
main.add_command(accept)
