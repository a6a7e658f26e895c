"""`zkdns doctor`: report problems, and how to fix them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

import click

from zkdns.cli.options import (
    SettingsCommand,
    check_certificates,
    check_static,
    config_option,
    setting_options,
)
from zkdns.cli.output import StyledLines
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import write_json
from zkdns.config import load_config
from zkdns.errors import ConfigError
from zkdns.host.doctor.checks import Finding, ok, warning, wrong
from zkdns.host.doctor.diagnose import diagnose, unit_environment
from zkdns.host.files import FileTree
from zkdns.host.runtime_files import find_file_errors
from zkdns.serverset.auth import load_access
from zkdns.telemetry.log_setup import configure_logging

_STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


@click.command(
    cls=SettingsCommand,
    examples=(
        ("zkdns doctor --config /etc/zkdns/zkdns.toml", "With the configuration of the server"),
        ("zkdns doctor --json", "As JSON, for a program"),
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print each finding as a JSON object on a line.")
@config_option
@setting_options
def doctor(as_json: bool, config_file: str | None, **flags: object) -> None:
    """Check a server, its ZooKeeper and this machine's resolver.

    Run it with the settings of the server, on its machine. It finds a running server as the other commands
    do. As root it finds more. It changes nothing. The exit status is 1 if something does not work, 2 for
    usage errors.
    """
    lines = StyledLines()
    is_wrong = False
    for finding in _findings(flags, config_file):
        is_wrong |= finding.level == "wrong"
        if as_json:
            write_json(finding)
        else:
            cure = f"; {finding.cure}" if finding.cure else ""
            lines.write(
                (f"{finding.level:<9}", _STYLES[finding.level]),
                (f"{finding.about}: ", "bold"),
                finding.found,
                (cure, "cyan"),
            )
    sys.exit(ExitStatus.NEGATIVE if is_wrong else ExitStatus.SUCCESS)


def _findings(flags: Mapping[str, object], config_file: str | None) -> Iterator[Finding]:
    """The findings about the configuration and, if it is valid, all others."""
    environment = unit_environment(os.environ, FileTree()) if os.geteuid() == 0 else os.environ
    try:
        config = load_config(
            flags=flags,
            environment=environment,
            file=config_file,
            check_static=check_static,
            check_access=load_access,
        )
        check_certificates(config)
    except ConfigError as error:
        for sentence in error.errors:
            yield wrong("configuration", sentence, "correct it; all other checks were skipped")
        return
    yield ok("configuration", "has no errors")
    for sentence in find_file_errors(config):
        yield warning("files", sentence)
    configure_logging(config.log.format, "error", process="doctor")
    yield from diagnose(config)
