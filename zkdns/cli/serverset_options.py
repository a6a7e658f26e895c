"""Options of the commands that connect to ZooKeeper themselves: the server set, and how to connect."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from zkdns.cli.options import config_option, fail, fail_usage, options_of
from zkdns.cli.statuses import status_of
from zkdns.config import SETTINGS, Config, Setting, load_config
from zkdns.config.parsers import Location, text
from zkdns.config.setting import parse_table
from zkdns.errors import BadValueError, ConfigError, UnreachableError, ZkdnsError
from zkdns.namespace import check_znode_path
from zkdns.serverset.auth import ACCESS_KEYS, ANONYMOUS, load_access
from zkdns.spelling import SetPlace, locate_set, parse_spelling

F = TypeVar("F", bound=Callable[..., Any])


def parse_znode_name(value: str) -> str:
    """Check the name of a znode.

    Raises:
        BadValueError: it has a slash or a character that ZooKeeper rejects, or is `.` or `..`.
    """
    try:
        check_znode_path(f"/{value}")
    except BadValueError:
        is_valid = False
    else:
        is_valid = "/" not in value
    if not is_valid:
        raise BadValueError(
            f"is {value!r}; write a znode name without slashes and control characters, and not '.' or '..'"
        )
    return value


ENVIRONMENT = Setting(
    "environment",
    text(parse_znode_name, "an environment's name"),
    "NAME",
    "Environment of the service: local, staging, prod, test, or any other.",
    in_environment=False,
    suggestions=("local", "staging", "prod", "test"),
)

CONFIGURED = tuple(
    row
    for row in SETTINGS
    if row.key in {"zookeeper.hosts", *ACCESS_KEYS, "namespace", "member_prefix", "log.level", "log.format"}
)
"""The settings of commands that connect to ZooKeeper themselves."""


def server_set_options(*rows: Setting, **required: str) -> Callable[[F], F]:
    """Return a decorator that adds the options of these rows, and those that all these commands have.

    Args:
        rows: in the order of the help.
        required: as in `options_of`.
    """

    def add(command: F) -> F:
        return options_of((*rows, *CONFIGURED), required)(config_option(command))

    return add


class ParsedOptions:
    """The parsed options of a command, and the settings for ZooKeeper.

    Errors are collected, so that `config_or_fail` prints all of them together.

    Args:
        rows: the options of the command by their names on the command line.
        flags: values by `Setting.name`; None and () stand for options that are not used.
        config_file: as in `load_config`.
    """

    def __init__(
        self, rows: Mapping[str, Setting], flags: Mapping[str, object], config_file: str | None
    ) -> None:
        self.errors: list[str] = []
        given = {name: flags[row.name] for name, row in rows.items() if flags[row.name] not in (None, ())}
        location = Location("", typed=False, directory="", errors=self.errors)
        self.values: dict[str, Any] = parse_table(given, rows, location)
        """The values of the used options by `Setting.key`; None for a value with an error."""
        self.access = ANONYMOUS
        """Credentials and TLS for ZooKeeper."""
        self._config: Config | None = None
        self._place: SetPlace | None = None
        try:
            self._config = load_config(
                flags={row.name: flags[row.name] for row in CONFIGURED},
                environment=os.environ,
                file=config_file,
                check_access=load_access,
            )
            self.access = load_access(self._config.zookeeper)
        except ConfigError as error:
            self.errors += error.errors
        else:
            if self._config.zookeeper.hosts is None:
                self.errors.append("--zookeeper: is missing, and not in the configuration; write HOST:PORT")

    def locate_set(self, service: str) -> None:
        """Find the server set that the argument SERVICE and --environment stand for."""
        environment = self.values.get("environment")
        try:
            if self._config is not None and ("environment" not in self.values or environment is not None):
                self._place = locate_set(service, environment, self._config.namespaces)
            else:  # an error was reported
                parse_spelling(service)
        except BadValueError as error:
            self.errors.append(f"SERVICE: {error}")

    @property
    def place(self) -> SetPlace:
        """The server set, after `config_or_fail`."""
        assert self._place is not None  # noqa: S101 - otherwise there was an error
        return self._place

    @property
    def service(self) -> str:
        """The name of the server set as users write it, after `config_or_fail`."""
        assert self._config is not None  # noqa: S101 - otherwise there was an error
        return self.place.name.without(self._config.zone)

    def config_or_fail(self, process: str) -> Config:
        """Set up logging and return the configuration. If there are errors, print them and exit."""
        if self.errors or self._config is None:
            fail_usage(self.errors)
        from zkdns.telemetry.log_setup import configure_logging  # noqa: PLC0415 - loads structlog, for few commands

        configure_logging(self._config.log.format, self._config.log.level, process=process)
        return self._config


def fail_in_zookeeper(error: ZkdnsError, config: Config, service: str = "") -> NoReturn:
    """Print an error of ZooKeeper and exit. If no ensemble is configured, also print how to name one.

    Args:
        error: the error, which has the path of the service.
        config: the configuration.
        service: the name of the service. Empty: the error is not about one.
    """
    is_guess = config.has_default_source and isinstance(error, UnreachableError)
    hint = "; no other is configured: name one with --zookeeper or ZKDNS_ZOOKEEPER" if is_guess else ""
    fail(f"{service + ': ' if service else ''}{error}{hint}", status_of(error))
