"""`zkdns register`: be a member of a server set, for as long as this or a program runs."""

from __future__ import annotations

import sys

import click

from zkdns.address import MAX_PORT, parse_host_port
from zkdns.cli.options import exit_failed, exit_mistaken
from zkdns.cli.sets import ENVIRONMENT, SERVICE, Reading, set_options
from zkdns.config import Setting
from zkdns.config.parsers import boolean, integer, text
from zkdns.durations import duration_parser
from zkdns.errors import BadValueError, ZkdnsError
from zkdns.registrar.runner import ProgramError, RegisterOptions, Registrar
from zkdns.serverset.checks import FORMS, parse_check
from zkdns.serverset.member import canonical_host
from zkdns.serverset.server_set import make_member

_AUTO = "auto"
_ANYWHERE = frozenset({"0.0.0.0", "::"})
_MAX_SHARD = 2**31 - 1


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


_ROWS = (
    ENVIRONMENT,
    Setting("port", integer(0, MAX_PORT), "PORT", "Where it serves; 0: only at additional endpoints."),
    Setting(
        "host",
        text(_parse_host, "an address, a host name or auto"),
        "ADDRESS",
        "Where others reach it; auto, or nothing: the address from which this machine reaches ZooKeeper.",
    ),
    Setting(
        "endpoint",
        text(_parse_endpoint, "NAME=PORT"),
        "NAME=[HOST:]PORT",
        "An additional endpoint, as admin=9990.",
        many=True,
    ),
    Setting("shard", integer(0, _MAX_SHARD), "NUMBER", "Which of the service's shards this is."),
    Setting("metadata", text(_parse_metadata, "KEY=VALUE"), "KEY=VALUE", "For whoever reads it.", many=True),
    Setting("check", text(parse_check, FORMS), "CHECK", f"Register only while it passes: {FORMS}."),
    Setting(
        "interval",
        text(duration_parser(0.01, 3600), "a duration"),
        "DURATION",
        "Between two checks; else 1s.",
    ),
    Setting(
        "timeout",
        text(duration_parser(0.01, 3600), "a duration"),
        "DURATION",
        "How long a check may take; else the interval, at least 1s.",
    ),
    Setting(
        "session_timeout",
        text(duration_parser(0.1, 3600), "a duration"),
        "DURATION",
        "How long ZooKeeper keeps the member when this is silent; else 5s.",
    ),
    Setting(
        "drain",
        text(duration_parser(0, 3600), "a duration"),
        "DURATION",
        "How long the program may serve after it was unregistered; else 5s.",
    ),
    Setting(
        "wait", boolean, "", "Go on while ZooKeeper cannot be reached, until it can.", in_environment=False
    ),
)


@click.command()
@click.argument("service")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD [ARGS]...]")
@set_options(*_ROWS)
def register(config_file: str | None, command: tuple[str, ...], **flags: object) -> None:
    """Register a member of SERVICE, until SIGTERM or Ctrl-C.

    With CMD: run it, register while it runs and the check passes, and exit with its status. Before SIGTERM or
    Ctrl-C reaches it, it is unregistered, and given the time to --drain.

    The exit status is 1 where ZooKeeper cannot be reached, or refuses, 2 for mistakes, 126 where CMD cannot
    be run, 127 where there is no such program. Else it is that of CMD: 128 and the number of the signal where
    one ended it.
    """
    reading = Reading({**SERVICE, **{row.flag: row for row in _ROWS}}, flags, config_file)
    reading.need_set()
    _check_member(reading)
    config = reading.finish("register")
    values = reading.values
    interval = values.get("interval", 1.0)
    plan = RegisterOptions(
        environment=values["environment"],
        service=values["service"],
        zookeeper=str(config.zookeeper.hosts),
        access=reading.access,
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
        status = Registrar(plan).run()
    except BadValueError as error:
        exit_mistaken([str(error)])
    except ProgramError as error:
        exit_failed(error, error.status)
    except ZkdnsError as error:
        exit_failed(error)
    sys.exit(status)


def _check_member(reading: Reading) -> None:
    """What no flag alone shows: whether they make a member together."""
    values, mistakes = reading.values, reading.mistakes
    if "port" not in values:
        mistakes.append(f"--port: is missing; write an integer from 0 to {MAX_PORT}")
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
