"""What the commands share: flags made from the table of settings, and mistakes told to people."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import click
from click.shell_completion import CompletionItem

from zkdns.address import HostPort
from zkdns.config import SETTINGS, Config, Setting, load_config
from zkdns.config.setting import flag_of
from zkdns.errors import ConfigError, ZkdnsError
from zkdns.namespace import Namespace
from zkdns.serverset.auth import load_access
from zkdns.serverset.static_file import load_demo, load_static
from zkdns.snapshot import SnapshotError, expected_by, read_header
from zkdns.telemetry.log_setup import silence

F = TypeVar("F", bound=Callable[..., Any])

DONE = 0
"""The exit status where what was asked for has been done, also where that was to run until a signal."""
FAILED = 1
"""The exit status where it could not be done."""
NOT_FOUND = 1
"""The exit status where the server answered, and there is nothing of what was asked for."""
MISTAKEN = 2
"""The exit status for whatever somebody typed or wrote wrongly."""
NO_ANSWER = 3
"""The exit status where the server did not answer."""
INTERRUPTED = 130
"""The exit status after Ctrl-C of what was to end by itself, as shells have it."""

STATUSES = {
    DONE: "done; of what runs until it is told to end: ended by SIGTERM or Ctrl-C",
    FAILED: "it could not be done, or there is nothing of what was asked for",
    MISTAKEN: "a mistake in what was typed, in a variable or in a file; nothing was done",
    NO_ANSWER: "no server answers",
    126: "the program that was to be run cannot be",  # as shells have it
    127: "there is no such program",
    INTERRUPTED: "ended by Ctrl-C before it was done",
}
"""What the exit statuses mean, whichever command it is.

The help of each says which are its own, in a sentence that begins with `The exit status is`.
"""

_DUMB = frozenset({"dumb", "unknown"})  # as rich has it


def complete_file(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Have the shell propose files."""
    return [CompletionItem(incomplete, type="file")]


config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    shell_complete=complete_file,
    help="TOML file; variables (ZKDNS_…) go before it, flags before both.",
)


def flag_option(setting: Setting) -> Callable[[F], F]:
    """The flag of a setting. It takes any text: what is wrong with it is told with all other mistakes."""
    if setting.is_boolean:
        # What a file or a variable may switch on can be switched off again.
        flags = f"{setting.flag}/{flag_of('no_' + setting.name)}" if setting.in_environment else setting.flag
        return click.option(flags, setting.name, is_flag=True, default=None, help=setting.help)
    meaning = setting.help + (" Repeatable." if setting.many else "")
    return click.option(
        setting.flag,
        setting.name,
        metavar=setting.metavar,
        multiple=setting.many,
        help=meaning,
        shell_complete=complete_file if setting.is_file else complete_words(*setting.words),
    )


def complete_words(
    *words: str,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Have the shell propose these words, however far one is typed."""

    def complete(
        _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(word) for word in words if word.lower().startswith(incomplete.lower())]

    return complete


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


def load_or_exit(
    flags: Mapping[str, object],
    config_file: str | None,
    *,
    with_static: bool = True,
    with_access: bool = True,
    listen: tuple[HostPort, ...] = (),
) -> Config:
    """The configuration, as `load` reads it; where it has mistakes, tell all of them and exit."""
    try:
        return load(flags, config_file, with_static=with_static, with_access=with_access, listen=listen)
    except ConfigError as error:
        exit_mistaken(error.mistakes)


def load(
    flags: Mapping[str, object],
    config_file: str | None,
    *,
    with_static: bool = True,
    with_access: bool = True,
    listen: tuple[HostPort, ...] = (),
) -> Config:
    """The configuration.

    Args:
        flags: by `Setting.name`, as click reads them.
        config_file: what `--config` says.
        with_static: whether the fixed file must be right too, and the snapshot where it is served alone.
        with_access: whether the files that say how ZooKeeper is accessed must be right too.
        listen: where to answer unless told otherwise.

    Raises:
        ConfigError: with all mistakes.
    """
    try:
        config = load_config(
            flags=flags,
            environment=os.environ,
            file=config_file,
            listen=listen,
            check_static=check_static if with_static else None,
            check_access=load_access if with_access else None,
        )
        if config.demo:
            load_demo(config.namespaces)
        if config.offline and config.snapshot.path and with_static:
            read_header(Path(config.snapshot.path), expected_by(config, time.time()))
    except SnapshotError as error:
        raise ConfigError([str(error)]) from None
    return config


def check_static(path: str, namespaces: Sequence[Namespace]) -> None:
    """Read the file of services; ConfigError tells its mistakes."""
    load_static(Path(path), namespaces)


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
