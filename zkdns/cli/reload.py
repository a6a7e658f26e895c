"""`zkdns reload`: let a running server read its configuration again."""

from __future__ import annotations

import asyncio

import click
import msgspec

from zkdns.cli.options import NO_ANSWER, config_option, exit_failed, exit_mistaken
from zkdns.cli.running import control_option, control_path
from zkdns.daemon.ipc.control import ControlError, reload_socket_path, send_request
from zkdns.daemon.ipc.control_messages import NotReloaded, Reload, Reloaded

_SECONDS = 600.0  # each new process may take half a minute, and somebody else's reload comes before


@click.command()
@click.option("--all", "is_all", is_flag=True, help="Replace every process, also where nothing has changed.")
@control_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def reload(is_all: bool, control: str | None, config_file: str | None, as_json: bool) -> None:
    """Let a server read its configuration again.

    It reads the same file with the same flags and variables that it was started with, and replaces those of
    its processes that know what has changed; no query is lost. This ends when the new configuration is in
    force. Where that has mistakes or cannot be had, they are told, and the old one stays in force. The exit
    status is 2 for such mistakes, 3 where no server answers.
    """
    # With a socket named, a file that has mistakes is for the server alone to read.
    known = control if control not in {None, "none"} else None
    path = reload_socket_path(known or control_path(control, config_file))
    try:
        response = asyncio.run(send_request(path, Reload(is_all), _SECONDS))
    except ControlError as error:
        exit_failed(error, NO_ANSWER)
    match response:
        case NotReloaded(mistakes):
            exit_mistaken((*mistakes, "the old configuration stays in force"))
        case Reloaded():
            told = _as_json(response) if as_json else _told(response)
            click.echo(told)
        case _:
            exit_failed(ControlError(f"the server at {path} is of another version of zkdns"), NO_ANSWER)


def _as_json(reloaded: Reloaded) -> str:
    told = {"changed": reloaded.changed, "replaced": reloaded.replaced, "seconds": reloaded.seconds}
    return msgspec.json.encode(told).decode()


def _told(reloaded: Reloaded) -> str:
    if not reloaded.changed and not reloaded.replaced:
        return "nothing has changed"
    changed = ", ".join(reloaded.changed) or "nothing"
    count = len(reloaded.replaced)
    processes = f"{count} process{'' if count == 1 else 'es'} replaced"
    return f"in force after {reloaded.seconds:.1f} s: {changed} changed, {processes}"
