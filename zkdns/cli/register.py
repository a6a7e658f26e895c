"""`zkdns register`: be a member of a server set, for as long as this or a program runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from zkdns.address import MAX_PORT, parse_host_port
from zkdns.cli.options import MISTAKEN, config_option, exit_mistaken
from zkdns.config import SETTINGS, Config, Setting, load_config
from zkdns.config.values import Place, read_table, switch, text, whole
from zkdns.daemon.runner import Plan, ProgramError, Runner
from zkdns.errors import BadValueError, ConfigError, ZkdnsError
from zkdns.namespace import Namespace, check_znode_path
from zkdns.observe.logs import configure_logs
from zkdns.serverset.checks import FORMS, parse_check
from zkdns.serverset.member import canonical_host
from zkdns.serverset.server_set import make_member

F = TypeVar("F", bound=Callable[..., Any])

FAILED = 1
"""The exit status where ZooKeeper cannot be reached, or refuses."""

_AUTO = "auto"
_ANYWHERE = frozenset({"0.0.0.0", "::"})
_MAX_SHARD = 2**31 - 1
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


def _parse_host(written: str) -> str:
    host = written if written == _AUTO else canonical_host(written)
    if host in _ANYWHERE:
        raise BadValueError(f"is {written!r}, which nobody can connect to; write an address of this machine")
    return host


def _parse_endpoint(written: str) -> tuple[str, str | int]:
    name, equals, value = written.partition("=")
    if not name or not equals or not value:
        raise BadValueError(f"is {written!r}; write NAME=PORT or NAME=HOST:PORT, as admin=9990")
    if not value.isascii() or not value.isdigit():
        return name, str(parse_host_port(value))
    if len(value) > len(str(MAX_PORT)) or not 1 <= int(value) <= MAX_PORT:
        raise BadValueError(f"is {written!r}, which has the port {value}; a port is 1 to {MAX_PORT}")
    return name, int(value)


def _parse_metadata(written: str) -> tuple[str, str]:
    key, equals, value = written.partition("=")
    if not key or not equals:
        raise BadValueError(f"is {written!r}; write KEY=VALUE")
    return key, value


SERVICE = {"SERVICE": Setting("service", text(_parse_znode, "a service's name"), "SERVICE", "")}
ENVIRONMENT = Setting(
    "environment",
    text(_parse_znode, "an environment's name"),
    "NAME",
    "local, staging, prod, test, or any other.",
)
_ROWS = (
    ENVIRONMENT,
    Setting("port", whole(0, MAX_PORT), "PORT", "Where it serves; 0: only at additional endpoints."),
    Setting(
        "host",
        text(_parse_host, "an address, a host name or auto"),
        "ADDRESS",
        "Where others reach it; else the address from which this machine reaches ZooKeeper.",
    ),
    Setting(
        "endpoint",
        text(_parse_endpoint, "NAME=PORT"),
        "NAME=[HOST:]PORT",
        "An additional endpoint, as admin=9990.",
        many=True,
    ),
    Setting("shard", whole(0, _MAX_SHARD), "NUMBER", "Which of the service's shards this is."),
    Setting("metadata", text(_parse_metadata, "KEY=VALUE"), "KEY=VALUE", "For whoever reads it.", many=True),
    Setting("check", text(parse_check, FORMS), "CHECK", f"Register only while it passes: {FORMS}."),
    Setting("interval", text(duration(0.01, 3600), "a duration"), "DURATION", "Between two checks; else 1s."),
    Setting(
        "timeout",
        text(duration(0.01, 3600), "a duration"),
        "DURATION",
        "How long a check may take; else the interval, at least 1s.",
    ),
    Setting(
        "session_timeout",
        text(duration(0.1, 3600), "a duration"),
        "DURATION",
        "How long ZooKeeper keeps the member when this is silent; else 5s.",
    ),
    Setting(
        "drain",
        text(duration(0, 3600), "a duration"),
        "DURATION",
        "How long the program may serve after it was unregistered; else 5s.",
    ),
    Setting("wait", switch, "", "Go on while ZooKeeper cannot be reached, until it can."),
)
_CONFIGURED = tuple(
    row for row in SETTINGS if row.key in {"zookeeper", "namespace", "log_format", "log_level"}
)


def set_options(*rows: Setting) -> Callable[[F], F]:
    """Add a flag for each row, and those that every command over server sets has."""

    def add(command: F) -> F:
        command = config_option(command)
        for row in reversed((*rows, *_CONFIGURED)):
            if row.is_switch:
                option = click.option(row.flag, row.key, is_flag=True, default=None, help=row.meaning)
            else:
                meaning = row.meaning + (" Repeatable." if row.many else "")
                option = click.option(row.flag, row.key, metavar=row.form, multiple=row.many, help=meaning)
            command = option(command)
        return command

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
        self._config: Config | None = None
        try:
            self._config = load_config(
                flags={row.key: flags[row.key] for row in _CONFIGURED},
                environment=os.environ,
                file=config_file,
            )
        except ConfigError as error:
            self.mistakes += error.mistakes
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


@click.command()
@click.argument("service")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD [ARGS]...]")
@set_options(*_ROWS)
def register(config_file: str | None, command: tuple[str, ...], **flags: object) -> None:
    """Register a member of SERVICE, until SIGTERM or Ctrl-C.

    With CMD: run it, register while it runs and the check passes, and exit with its status. Before SIGTERM or
    Ctrl-C reaches it, it is unregistered, and given the time to --drain.
    """
    reading = Reading({**SERVICE, **{row.flag: row for row in _ROWS}}, flags, config_file)
    reading.need_set()
    _check_member(reading)
    config = reading.finish("register")
    values = reading.values
    interval = values.get("interval", 1.0)
    plan = Plan(
        environment=values["environment"],
        service=values["service"],
        zookeeper=str(config.zookeeper),
        namespace=config.namespace.template,
        session_timeout=values.get("session_timeout", 5.0),
        host=None if values.get("host", _AUTO) == _AUTO else values["host"],
        port=values["port"],
        additional=dict(values.get("endpoint", ())),
        shard=values.get("shard"),
        metadata=dict(values.get("metadata", ())),
        check=values.get("check"),
        interval=interval,
        timeout=values.get("timeout", max(interval, 1.0)),
        wait=bool(values.get("wait")),
        drain=values.get("drain", 5.0),
        command=command,
    )
    try:
        status = Runner(plan).run()
    except ZkdnsError as error:
        click.echo(f"zkdns: {error}", err=True)
        status = FAILED
        if isinstance(error, BadValueError):
            status = MISTAKEN
        elif isinstance(error, ProgramError):
            status = error.status
    sys.exit(status)


def _check_member(reading: Reading) -> None:
    """What no flag alone shows: whether they make a member together."""
    values, mistakes = reading.values, reading.mistakes
    if "port" not in values:
        mistakes.append(f"--port: is missing; write a whole number from 0 to {MAX_PORT}")
    elif values["port"] == 0 and not values.get("endpoint"):
        mistakes.append("--port: is 0, so that only additional endpoints can be reached; add an --endpoint")
    for key in ("endpoint", "metadata"):
        names = [pair[0] for pair in values.get(key, ()) if pair]
        for name in sorted({name for name in names if names.count(name) > 1}):
            mistakes.append(f"--{key}: {name} is given twice")
    check = values.get("check")
    if check and check.needs_service_port and values.get("port") == 0:
        mistakes.append(
            "--check: there is no port to ask at, since --port is 0; write http:PORT/PATH or exec:CMD"
        )
    if mistakes:
        return
    try:
        make_member(
            "127.0.0.1" if values.get("host", _AUTO) == _AUTO else values["host"],
            values["port"],
            additional=dict(values.get("endpoint", ())),
            shard=values.get("shard"),
            metadata=dict(values.get("metadata", ())),
        )
    except BadValueError as error:
        mistakes.append(str(error))


def _has_environment(namespace: Namespace) -> bool:
    return ("environment", None) in zip(namespace.steps, namespace.fixed, strict=True)
