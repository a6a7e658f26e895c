"""What the commands share: flags made from the table of settings, and mistakes told to people."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import click

from zkdns.config import SETTINGS, Config, Setting, load_config
from zkdns.errors import ConfigError, ZkdnsError
from zkdns.namespace import Namespace
from zkdns.observe.logs import silence
from zkdns.serverset.access import load_access
from zkdns.serverset.fixed import load_demo, load_fixed
from zkdns.snapshot import SnapshotError, expected_by, read_header

F = TypeVar("F", bound=Callable[..., Any])

FAILED = 1
"""The exit status where ZooKeeper cannot be reached, or refuses."""
NOT_FOUND = 1
"""The exit status where the server answered, and there is nothing of what was asked for."""
NO_ANSWER = 3
"""The exit status where the server did not answer."""
INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""
MISTAKEN = 2
"""The exit status for whatever somebody typed or wrote wrongly."""

_DUMB = frozenset({"dumb", "unknown"})  # as rich has it

config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="TOML file; variables (ZKDNS_…) go before it, flags before both.",
)


def flag_option(setting: Setting) -> Callable[[F], F]:
    """The flag of a setting. It takes any text: what is wrong with it is told with all other mistakes."""
    if setting.is_switch:
        return click.option(setting.flag, setting.key, is_flag=True, default=None, help=setting.meaning)
    meaning = setting.meaning + (" Repeatable." if setting.many else "")
    return click.option(setting.flag, setting.key, metavar=setting.form, multiple=setting.many, help=meaning)


def options_of(settings: Iterable[Setting]) -> Callable[[F], F]:
    """Add a flag for each of these settings that has one."""

    def add(command: F) -> F:
        for setting in reversed(tuple(settings)):
            if setting.in_flags:
                command = flag_option(setting)(command)
        return command

    return add


setting_options = options_of(SETTINGS)
"""Adds a flag for each setting that has one."""


def load_or_exit(flags: Mapping[str, object], config_file: str | None, *, with_fixed: bool = True) -> Config:
    """The configuration; where it has mistakes, tell all of them and exit.

    Args:
        flags: by the setting's key, as click reads them.
        config_file: what `--config` says.
        with_fixed: whether the fixed file must be right too, and the snapshot where it is served alone.
    """
    try:
        config = load_config(
            flags=flags,
            environment=os.environ,
            file=config_file,
            check_fixed=_check_fixed if with_fixed else None,
            check_access=load_access,
        )
        if config.demo:
            load_demo(config.namespaces)
        if config.offline and config.snapshot and with_fixed:
            read_header(Path(config.snapshot), expected_by(config, time.time()))
    except ConfigError as error:
        exit_mistaken(error.mistakes)
    except SnapshotError as error:
        exit_mistaken([str(error)])
    return config


def _check_fixed(path: str, namespaces: Sequence[Namespace]) -> None:
    load_fixed(Path(path), namespaces)


def exit_mistaken(mistakes: Iterable[str]) -> NoReturn:
    """Tell mistakes, a line each, and exit."""
    for mistake in mistakes:
        click.echo(f"zkdns: {mistake}", err=True)
    sys.exit(MISTAKEN)


def exit_failed(error: ZkdnsError, status: int = FAILED) -> NoReturn:
    """Tell an error and exit."""
    click.echo(f"zkdns: {error}", err=True)
    sys.exit(status)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at it, who sees what moves; None is what whoever started us closed."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") not in _DUMB


def write_out(text: str) -> None:
    """Write to standard output; where that cannot be (a full disk), tell and exit.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)  # what is still buffered would be an error once more at exit
        exit_failed(ZkdnsError(f"cannot write to standard output: {error.strerror}"))
