"""`zkdns reload`: make a running server read its configuration again."""

from __future__ import annotations

import asyncio

import click
import msgspec

from zkdns.cli.control_client import control_option, control_path, other_version
from zkdns.cli.options import NO_ANSWER, config_option, fail, fail_usage
from zkdns.daemon.ipc.control import ControlError, reload_socket_path, send_request
from zkdns.daemon.ipc.control_messages import NotReloaded, Reload, Reloaded
from zkdns.durations import format_duration

_TIMEOUT = 600.0  # seconds; each new process may take 30 s, and another reload may run first


@click.command()
@click.option("--all", "is_all", is_flag=True, help="Replace all processes, even if nothing has changed.")
@control_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def reload(is_all: bool, control: str | None, config_file: str | None, as_json: bool) -> None:
    """Make a running server read its configuration again.

    The server reads the same file, options and variables as at its start, and replaces the processes that use
    a changed setting, without losing queries. The command returns when the new configuration is in force. If
    it has errors, they are printed, and the old configuration stays in force. The exit status is 2 for errors
    in the configuration, 3 if the server does not respond.
    """
    # With --control, the file is not read here: only the server reports its errors.
    named = control if control not in {None, "none"} else None
    path = reload_socket_path(named or control_path(control, config_file))
    try:
        response = asyncio.run(send_request(path, Reload(is_all), _TIMEOUT))
    except ControlError as error:
        fail(error, NO_ANSWER)
    match response:
        case NotReloaded(errors):
            fail_usage((*errors, "the old configuration stays in force"))
        case Reloaded():
            click.echo(_as_json(response) if as_json else _summary(response))
        case _:
            fail(other_version(path), NO_ANSWER)


def _as_json(reloaded: Reloaded) -> str:
    report = {"changed": reloaded.changed, "replaced": reloaded.replaced, "seconds": reloaded.seconds}
    return msgspec.json.encode(report).decode()


def _summary(reloaded: Reloaded) -> str:
    if not reloaded.changed and not reloaded.replaced:
        return "nothing has changed"
    changed = ", ".join(reloaded.changed) or "nothing"
    count = len(reloaded.replaced)
    processes = f"{count} process{'' if count == 1 else 'es'} replaced"
    return f"reloaded in {format_duration(reloaded.seconds)}: {changed} changed, {processes}"
