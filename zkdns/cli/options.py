"""What the commands share: flags made from the table of settings, and mistakes told to people."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from zkdns.config import SETTINGS, Config, load_config
from zkdns.errors import ConfigError
from zkdns.serverset.fixed import load_fixed

F = TypeVar("F", bound=Callable[..., Any])

MISTAKEN = 2
"""The exit status for whatever somebody typed or wrote wrongly."""

config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="TOML file; variables (ZKDNS_…) go before it, flags before both.",
)


def setting_options(command: F) -> F:
    """Add a flag for each setting that has one."""
    for setting in reversed(SETTINGS):
        if not setting.in_flags:
            continue
        if setting.is_switch:
            option = click.option(setting.flag, setting.key, is_flag=True, default=None, help=setting.meaning)
        else:
            option = click.option(
                setting.flag,
                setting.key,
                metavar=setting.form,
                multiple=setting.many,
                help=setting.meaning + (" Repeatable." if setting.many else ""),
            )
        command = option(command)
    return command


def load_or_exit(flags: Mapping[str, object], config_file: str | None) -> Config:
    """The configuration, fixed file included; where it has mistakes, tell all of them and exit."""
    try:
        config = load_config(flags=flags, environment=os.environ, file=config_file)
        if config.fixed:
            load_fixed(Path(config.fixed), config.namespace)
    except ConfigError as error:
        exit_mistaken(error.mistakes)
    return config


def exit_mistaken(mistakes: Iterable[str]) -> NoReturn:
    """Tell mistakes, a line each, and exit."""
    for mistake in mistakes:
        click.echo(f"zkdns: {mistake}", err=True)
    sys.exit(MISTAKEN)
