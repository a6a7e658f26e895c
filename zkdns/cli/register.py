"""`zkdns register`: register a member of a server set while this command or a program runs."""

from __future__ import annotations

import sys
from functools import partial

import click

from zkdns.address import MAX_PORT, parse_host_port
from zkdns.cli.command import Command
from zkdns.cli.options import fail
from zkdns.cli.serverset_options import ENVIRONMENT, ParsedOptions, fail_in_zookeeper, server_set_options
from zkdns.config import Setting
from zkdns.config.parsers import boolean, integer, text
from zkdns.durations import duration_parser
from zkdns.errors import BadValueError, ZkdnsError
from zkdns.registrar.runner import ProgramError, RegisterOptions, Registrar
from zkdns.serverset.checks import FORMS, parse_check
from zkdns.serverset.member import canonical_host
from zkdns.serverset.server_set import make_member

_AUTO = "auto"
_MAX_SHARD = 2**31 - 1


def _parse_host(value: str) -> str:
    return value if value == _AUTO else canonical_host(value)


def _parse_endpoint(value: str) -> tuple[str, str | int]:
    name, equals, target = value.partition("=")
    if not name or not equals or not target:
        raise BadValueError(f"is {value!r}; write NAME=PORT or NAME=HOST:PORT, such as admin=9990")
    if not target.isascii() or not target.isdigit():
        return name, str(parse_host_port(target))
    if len(target) > len(str(MAX_PORT)) or not 1 <= int(target) <= MAX_PORT:
        raise BadValueError(f"is {value!r}, which has port {target}; ports are 1 to {MAX_PORT}")
    return name, int(target)


def _parse_metadata(value: str) -> tuple[str, str]:
    key, equals, item = value.partition("=")
    if not key or not equals:
        raise BadValueError(f"is {value!r}; write KEY=VALUE")
    return key, item


_option = partial(Setting, in_environment=False)


def _duration_option(key: str, lowest: float, help_text: str) -> Setting:
    return _option(key, text(duration_parser(lowest, 3600), "a duration"), "DURATION", help_text)


_ROWS = (
    ENVIRONMENT,
    _option(
        "port", integer(0, MAX_PORT), "PORT", "Port of the service; 0: it has only additional endpoints."
    ),
    _option(
        "host",
        text(_parse_host, "an address, a host name or auto"),
        "ADDRESS",
        "Address of the service. Default: auto, this machine's address towards ZooKeeper.",
    ),
    _option(
        "endpoint",
        text(_parse_endpoint, "NAME=PORT"),
        "NAME=[HOST:]PORT",
        "Additional endpoint, such as admin=9990.",
        many=True,
    ),
    _option("shard", integer(0, _MAX_SHARD), "NUMBER", "Shard number of this member."),
    _option("metadata", text(_parse_metadata, "KEY=VALUE"), "KEY=VALUE", "Metadata for clients.", many=True),
    _option("check", text(parse_check, FORMS), "CHECK", f"Register only while this check passes: {FORMS}."),
    _duration_option("interval", 0.01, "Time between two checks. Default: 1s."),
    _duration_option("timeout", 0.01, "Time-out of a check. Default: the interval, at least 1s."),
    _duration_option(
        "session_timeout",
        0.1,
        "Time until ZooKeeper removes the member of a dead command. Default: 5s.",
    ),
    _duration_option("drain", 0, "Time from unregistering to sending the signal to CMD. Default: 5s."),
    _option("wait", boolean, "", "If ZooKeeper is unreachable, wait until it is reachable."),
)


@click.command(
    cls=Command,
    examples=(
        (
            "zkdns register web.staging --port 8080 -- ./server",
            "Run a server, and register it while it runs",
        ),
        (
            "zkdns register web.staging --port 8080 --check http:/health",
            "Register a server that runs already, while its health check passes",
        ),
    ),
)
@click.argument("service")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD [ARGS]...]")
@server_set_options(*_ROWS, port="required")
def register(service: str, config_file: str | None, command: tuple[str, ...], **flags: object) -> None:
    """Register a member of SERVICE, until SIGTERM or Ctrl-C.

    SERVICE is a name such as web.staging, the path of its znode, or web with --environment staging.

    With CMD, run it, and keep the member registered while CMD runs and the check passes. On SIGTERM or
    Ctrl-C, unregister the member, wait for the time of --drain, then send the signal to CMD.

    The exit status is 2 for usage errors, 3 if ZooKeeper is unreachable, 5 if it denies access, 126 if CMD is
    not executable, 127 if CMD does not exist. Otherwise it is the status of CMD, or 128 and the number of the
    signal that ended CMD.
    """
    parsed = ParsedOptions({row.flag: row for row in _ROWS}, flags, config_file)
    parsed.locate_set(service)
    _check_member(parsed)
    config, place = parsed.config_or_fail("register"), parsed.place
    values = parsed.values
    interval = values.get("interval", 1.0)
    options = RegisterOptions(
        environment=place.environment,
        service=place.service,
        zookeeper=str(config.zookeeper.hosts),
        access=parsed.access,
        namespace=place.template,
        member_prefix=place.member_prefix,
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
        status = Registrar(options).run()
    except ProgramError as error:
        fail(error, error.status)
    except ZkdnsError as error:
        fail_in_zookeeper(error, config, parsed.service)
    sys.exit(status)


def _check_member(parsed: ParsedOptions) -> None:
    """Check that the options make a member together."""
    values, errors = parsed.values, parsed.errors
    if "port" not in values:
        errors.append(f"--port: is missing; write an integer from 0 to {MAX_PORT}")
    elif values["port"] == 0 and not values.get("endpoint"):
        errors.append("--port: is 0, so the member needs an additional endpoint; add --endpoint")
    for key in ("endpoint", "metadata"):
        names = [pair[0] for pair in values.get(key, ()) if pair]
        for name in sorted({name for name in names if names.count(name) > 1}):
            errors.append(f"--{key}: {name} is given twice")
    check = values.get("check")
    if check and check.needs_service_port and values.get("port") == 0:
        errors.append("--check: needs a port, because --port is 0; write http:PORT/PATH or exec:CMD")
    if errors:
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
        errors.append(str(error))
