"""What the commands to a running server share: reaching it, and telling when that fails."""

from __future__ import annotations

import asyncio
from typing import NoReturn, TypeVar

import click

from zkdns.cli.options import (
    NO_ANSWER,
    NOT_FOUND,
    complete_file,
    exit_failed,
    exit_mistaken,
    load_or_exit,
)
from zkdns.daemon.ipc.control import ControlError, send_request
from zkdns.daemon.ipc.control_messages import Refused, Request, Response
from zkdns.errors import ZkdnsError

T = TypeVar("T", bound=Response)

control_option = click.option(
    "--control",
    metavar="FILE",
    help="The server's control socket (default: the configured one).",
    shell_complete=complete_file,
)


def ask_server(request: Request, wanted: type[T], control: str | None, config_file: str | None) -> T:
    """What the server responds; where it refuses or does not answer, tell why and exit.

    Args:
        request: what to ask.
        wanted: the response of a server that does it.
        control: what `--control` says.
        config_file: what `--config` says.
    """
    path = control_path(control, config_file)
    try:
        response = asyncio.run(send_request(path, request))
    except ControlError as error:
        exit_failed(error, NO_ANSWER)
    if isinstance(response, Refused):
        exit_refused(response)
    if not isinstance(response, wanted):
        exit_failed(ControlError(f"the server at {path} is of another version of zkdns"), NO_ANSWER)
    return response


def control_path(control: str | None, config_file: str | None) -> str:
    """Where the server's control socket is; where there is none, say so and exit."""
    path = load_or_exit({"control": control}, config_file, with_static=False).control
    if path is None:
        exit_failed(
            ZkdnsError("there is no control socket; name the server's with --control FILE"), NO_ANSWER
        )
    return path


def exit_refused(refused: Refused) -> NoReturn:
    """Tell why the server has done nothing, and exit."""
    if refused.reason == "invalid":
        exit_mistaken([refused.message])
    exit_failed(ZkdnsError(refused.message), NOT_FOUND)
