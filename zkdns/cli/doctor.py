"""`zkdns doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

import click
import msgspec
from rich.console import Console
from rich.text import Text

from zkdns.cli.options import FAILED, check_fixed, config_option, setting_options
from zkdns.config import load_config
from zkdns.errors import ConfigError
from zkdns.machine.doctor import examine
from zkdns.machine.findings import Finding, ok, wrong
from zkdns.machine.tree import Tree
from zkdns.machine.unit import environment_of_unit
from zkdns.observe.logs import configure_logs
from zkdns.serverset.auth import load_access

_STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each finding, a line each.")
@config_option
@setting_options
def doctor(as_json: bool, config_file: str | None, **flags: object) -> None:
    """Look for what is wrong with a server, its ZooKeeper and this machine's names.

    Run it with the server's own settings, on its machine; as root it sees more. It changes nothing. The exit
    status is 1 where anything is wrong, 2 for mistakes in what was typed.
    """
    console = Console(highlight=False, soft_wrap=True)
    is_wrong = False
    for finding in _findings(flags, config_file):
        is_wrong |= finding.level == "wrong"
        if as_json:
            click.echo(msgspec.json.encode(finding))
        else:
            cure = f"; {finding.cure}" if finding.cure else ""
            console.print(
                Text.assemble(
                    (f"{finding.level:<9}", _STYLES[finding.level]),
                    (f"{finding.about}: ", "bold"),
                    finding.found,
                    (cure, "cyan"),
                )
            )
    sys.exit(FAILED if is_wrong else 0)


def _findings(flags: Mapping[str, object], config_file: str | None) -> Iterator[Finding]:
    """Those of the configuration, and if there is a right one, all others."""
    environment = environment_of_unit(os.environ, Tree()) if os.geteuid() == 0 else os.environ
    try:
        config = load_config(
            flags=flags,
            environment=environment,
            file=config_file,
            check_fixed=check_fixed,
            check_access=load_access,
        )
    except ConfigError as error:
        for mistake in error.errors:
            yield wrong("configuration", mistake, "correct it; nothing else was looked at")
        return
    yield ok("configuration", "has no mistakes")
    configure_logs(config.log_format, "error", process="doctor")
    yield from examine(config)
