"""Requests to the control socket of a running server, and the exit if one fails."""

from __future__ import annotations

import asyncio
from typing import NoReturn, TypeVar

import click

from zkdns.cli.options import (
    NO_ANSWER,
    NOT_FOUND,
    SettingOption,
    complete_file,
    fail,
    fail_usage,
    load_or_exit,
)
from zkdns.daemon.ipc.control import ControlError, send_request
from zkdns.daemon.ipc.control_messages import Refused, Request, Response
from zkdns.errors import ZkdnsError

T = TypeVar("T", bound=Response)

control_option = click.option(
    "--control",
    cls=SettingOption,
    variable="ZKDNS_CONTROL",
    metavar="FILE",
    help="The server's control socket. Default: the configured one.",
    shell_complete=complete_file,
)


def request_or_exit(request: Request, expected: type[T], control: str | None, config_file: str | None) -> T:
    """Send a request to the server and return the response. If there is none, or an error, print it and exit.

    Args:
        request: the request.
        expected: the type of the response to it.
        control: the value of `--control`.
        config_file: the value of `--config`.
    """
    path = control_path(control, config_file)
    try:
        response = asyncio.run(send_request(path, request))
    except ControlError as error:
        fail(error, NO_ANSWER)
    if isinstance(response, Refused):
        fail_refused(response)
    if not isinstance(response, expected):
        fail(other_version(path), NO_ANSWER)
    return response


def control_path(control: str | None, config_file: str | None) -> str:
    """Return the path of the server's control socket. If none is configured, print an error and exit."""
    path = load_or_exit({"control": control}, config_file, with_static=False).control
    if path is None:
        fail(
            ZkdnsError("no control socket is configured; specify the server's with --control FILE"), NO_ANSWER
        )
    return path


def other_version(path: str) -> ControlError:
    """The error for a response that this version does not expect."""
    return ControlError(f"the server at {path} is of another version of zkdns")


def fail_refused(refused: Refused) -> NoReturn:
    """Print the server's reason for refusing a request, and exit."""
    if refused.reason == "invalid":
        fail_usage([refused.message])
    fail(ZkdnsError(refused.message), NOT_FOUND)
