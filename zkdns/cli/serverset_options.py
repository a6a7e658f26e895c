"""Options of the commands that connect to ZooKeeper themselves: the server set, and how to connect."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from zkdns.cli.options import config_option, fail_usage, options_of
from zkdns.config import SETTINGS, Config, Setting, load_config
from zkdns.config.parsers import Location, text
from zkdns.config.setting import parse_table
from zkdns.errors import BadValueError, ConfigError
from zkdns.namespace import Namespace, check_znode_path
from zkdns.serverset.auth import ACCESS_KEYS, ANONYMOUS, load_access
from zkdns.telemetry.log_setup import configure_logging

F = TypeVar("F", bound=Callable[..., Any])


def _parse_znode_name(value: str) -> str:
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


SERVICE = {
    "SERVICE": Setting(
        "service", text(_parse_znode_name, "a service's name"), "SERVICE", "", in_environment=False
    )
}
"""The argument of the commands for one server set, by its name in usage messages."""
ENVIRONMENT = Setting(
    "environment",
    text(_parse_znode_name, "an environment's name"),
    "NAME",
    "Environment of the service: local, staging, prod, test, or any other.",
    in_environment=False,
    suggestions=("local", "staging", "prod", "test"),
)

_CONFIGURED = tuple(
    row
    for row in SETTINGS
    if row.key in {"zookeeper.hosts", *ACCESS_KEYS, "namespace", "member_prefix", "log.level", "log.format"}
)


def server_set_options(*rows: Setting) -> Callable[[F], F]:
    """Return a decorator that adds the options of these rows, and those that all these commands have."""

    def add(command: F) -> F:
        return options_of((*rows, *_CONFIGURED))(config_option(command))

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
        try:
            self._config = load_config(
                flags={row.name: flags[row.name] for row in _CONFIGURED},
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

    def require_server_set(self) -> None:
        """Check that environment and service identify one server set of the namespace."""
        namespace = self._config.namespace if self._config else None
        if namespace and not _has_environment(namespace):
            self.values["environment"] = ""
        elif "environment" not in self.values:
            self.errors.append("--environment: is missing; write local, staging, prod, test, or any other")
        if namespace is None:
            return
        own = namespace.steps[namespace.order[0]]
        for step, fixed in zip(namespace.steps, namespace.fixed, strict=True):
            if fixed is None and step not in (own, "environment"):
                self.errors.append(
                    f"--namespace: {namespace.template!r} contains {{{step}}}; write a name in its place"
                )

    def config_or_fail(self, process: str) -> Config:
        """Set up logging and return the configuration. If there are errors, print them and exit."""
        if self.errors or self._config is None:
            fail_usage(self.errors)
        configure_logging(self._config.log.format, self._config.log.level, process=process)
        return self._config


def _has_environment(namespace: Namespace) -> bool:
    return ("environment", None) in zip(namespace.steps, namespace.fixed, strict=True)
