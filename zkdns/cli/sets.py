"""What the commands over server sets share: their flags, which set is meant, and where ZooKeeper is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from zkdns.cli.options import config_option, exit_mistaken, options_of
from zkdns.config import SETTINGS, Config, Setting, load_config
from zkdns.config.values import Place, read_table, text
from zkdns.errors import BadValueError, ConfigError
from zkdns.namespace import Namespace, check_znode_path
from zkdns.observe.logs import configure_logs
from zkdns.serverset.auth import ACCESS_KEYS, ANONYMOUS, access_of, load_access

F = TypeVar("F", bound=Callable[..., Any])

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def duration(lowest: float, highest: float) -> Callable[[str], float]:
    """Make a parser of `500ms`, `1.5s`, `2m`, `1h`, or a number of seconds; returns seconds."""

    def parse(written: str) -> float:
        match = _DURATION.fullmatch(written)
        seconds = float(match[1]) * _SECONDS[match[2]] if match else -1.0
        if not lowest <= seconds <= highest:
            raise BadValueError(
                f"is {written!r}; write a duration from {lowest:g}s to {highest:g}s, as 500ms, 1.5s or 2m"
            )
        return seconds

    return parse


def duration_option(flag: str, lowest: float, highest: float, *, meaning: str) -> Callable[[F], F]:
    """A flag of a command that has nothing else of these: a duration, in seconds; None: not given."""
    parse = duration(lowest, highest)

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
    suggested=("local", "staging", "prod", "test"),
)

_CONFIGURED = tuple(
    row for row in SETTINGS if row.key in {"zookeeper", *ACCESS_KEYS, "namespace", "log_format", "log_level"}
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
        flags: by `Setting.key`; None and () mean not given.
        config_file: as in `load_config`.
    """

    def __init__(
        self, rows: Mapping[str, Setting], flags: Mapping[str, object], config_file: str | None
    ) -> None:
        self.mistakes: list[str] = []
        given = {name: flags[row.key] for name, row in rows.items() if flags[row.key] not in (None, ())}
        place = Place("", typed=False, directory="", mistakes=self.mistakes)
        self.values: dict[str, Any] = read_table(given, rows, place)
        """By `Setting.key`, what was given; None where it was wrong."""
        self.access = ANONYMOUS
        """How the configuration says that ZooKeeper is to be accessed."""
        self._config: Config | None = None
        try:
            self._config = load_config(
                flags={row.key: flags[row.key] for row in _CONFIGURED},
                environment=os.environ,
                file=config_file,
                check_access=load_access,
            )
            self.access = access_of(self._config)
        except ConfigError as error:
            self.mistakes += error.errors
        else:
            if self._config.zookeeper is None:
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
        configure_logs(self._config.log_format, self._config.log_level, process=process)
        return self._config


def _has_environment(namespace: Namespace) -> bool:
    return ("environment", None) in zip(namespace.steps, namespace.fixed, strict=True)
