"""What the commands over server sets share: their flags, which set is meant, and where ZooKeeper is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from zkdns.cli.options import config_option, exit_mistaken, options_of
from zkdns.config import SETTINGS, Config, Setting, load_config
from zkdns.config.parsers import Location, text
from zkdns.config.setting import parse_table
from zkdns.durations import duration_parser
from zkdns.errors import BadValueError, ConfigError
from zkdns.namespace import Namespace, check_znode_path
from zkdns.serverset.auth import ACCESS_KEYS, ANONYMOUS, load_access
from zkdns.telemetry.log_setup import configure_logging

F = TypeVar("F", bound=Callable[..., Any])


def duration_option(flag: str, lowest: float, highest: float, *, meaning: str) -> Callable[[F], F]:
    """Make an option for a duration, which the command receives in seconds; None: not given."""
    parse = duration_parser(lowest, highest)

    def read(_context: click.Context, _parameter: click.Parameter, written: str | None) -> float | None:
        if written is None:
            return None
        try:
            return parse(written)
        except BadValueError as error:
            exit_mistaken([f"{flag}: {error}"])

    return click.option(flag, callback=read, metavar="DURATION", help=meaning)


def _parse_znode(written: str) -> str:
    try:
        check_znode_path(f"/{written}")
    except BadValueError:
        written_well = False
    else:
        written_well = "/" not in written
    if not written_well:
        raise BadValueError(
            f"is {written!r}; a znode's name holds no slash and no control character, and is not '.' or '..'"
        )
    return written


SERVICE = {"SERVICE": Setting("service", text(_parse_znode, "a service's name"), "SERVICE", "")}
"""The argument of every command over one server set, by what it is called on the command line."""
ENVIRONMENT = Setting(
    "environment",
    text(_parse_znode, "an environment's name"),
    "NAME",
    "local, staging, prod, test, or any other.",
    suggestions=("local", "staging", "prod", "test"),
)

_CONFIGURED = tuple(
    row
    for row in SETTINGS
    if row.key in {"zookeeper.hosts", *ACCESS_KEYS, "namespace", "log.level", "log.format"}
)


def set_options(*rows: Setting) -> Callable[[F], F]:
    """Add a flag for each row, and those that every command over server sets has."""

    def add(command: F) -> F:
        return options_of((*rows, *_CONFIGURED))(config_option(command))

    return add


class Reading:
    """What was typed, read by its rows, with the settings that the server has as well.

    Every mistake is kept, so that all can be told at once.

    Args:
        rows: by what they are called on the command line.
        flags: by `Setting.name`; None and () mean not given.
        config_file: as in `load_config`.
    """

    def __init__(
        self, rows: Mapping[str, Setting], flags: Mapping[str, object], config_file: str | None
    ) -> None:
        self.mistakes: list[str] = []
        given = {name: flags[row.name] for name, row in rows.items() if flags[row.name] not in (None, ())}
        location = Location("", typed=False, directory="", errors=self.mistakes)
        self.values: dict[str, Any] = parse_table(given, rows, location)
        """By `Setting.key`, what was given; None where it was wrong."""
        self.access = ANONYMOUS
        """How the configuration says that ZooKeeper is to be accessed."""
        self._config: Config | None = None
        try:
            self._config = load_config(
                flags={row.name: flags[row.name] for row in _CONFIGURED},
                environment=os.environ,
                file=config_file,
                check_access=load_access,
            )
            self.access = load_access(self._config.zookeeper)
        except ConfigError as error:
            self.mistakes += error.mistakes
        else:
            if self._config.zookeeper.hosts is None:
                self.mistakes.append(
                    "--zookeeper: is missing, and the configuration has none; write HOST:PORT"
                )

    def need_set(self) -> None:
        """Check that one server set can be told by environment and service."""
        namespace = self._config.namespace if self._config else None
        if namespace and not _has_environment(namespace):
            self.values["environment"] = ""
        elif "environment" not in self.values:
            self.mistakes.append("--environment: is missing; write local, staging, prod, test, or any other")
        if namespace is None:
            return
        own = namespace.steps[namespace.order[0]]
        for step, fixed in zip(namespace.steps, namespace.fixed, strict=True):
            if fixed is None and step not in (own, "environment"):
                self.mistakes.append(
                    f"--namespace: {namespace.template!r} leaves {{{step}}} open; write a name in its place"
                )

    def finish(self, process: str) -> Config:
        """The configuration, with logs set up by it; where there are mistakes, tell them and exit."""
        if self.mistakes or self._config is None:
            exit_mistaken(self.mistakes)
        configure_logging(self._config.log.format, self._config.log.level, process=process)
        return self._config


def _has_environment(namespace: Namespace) -> bool:
    return ("environment", None) in zip(namespace.steps, namespace.fixed, strict=True)
