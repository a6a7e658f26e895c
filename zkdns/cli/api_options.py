"""The client of the HTTP API for commands: its options, and the exit if a request fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NoReturn, ParamSpec, TypeVar

import click

from zkdns.admin.client import (
    ApiClient,
    RefusedError,
    ServerAddress,
    UnreachableError,
    configured_server,
    parse_server,
)
from zkdns.admin.token_file import read_token
from zkdns.cli.options import SettingOption, complete_file, fail, fail_usage, load
from zkdns.cli.statuses import ExitStatus
from zkdns.errors import BadValueError, ConfigError

P = ParamSpec("P")
T = TypeVar("T")

SERVER_VARIABLE = "ZKDNS_SERVER"
_TOKEN_VARIABLE = "ZKDNS_TOKEN_FILE"  # noqa: S105 - the name of a variable

_STATUSES: Mapping[int, ExitStatus] = {
    HTTPStatus.BAD_REQUEST: ExitStatus.USAGE,
    HTTPStatus.CONFLICT: ExitStatus.USAGE,
    HTTPStatus.FORBIDDEN: ExitStatus.FAILED,
    HTTPStatus.NOT_FOUND: ExitStatus.NEGATIVE,
}
"""The exit statuses for HTTP statuses of refused requests; all others mean that the server cannot respond."""

server_option = click.option(
    "--server",
    cls=SettingOption,
    variable=SERVER_VARIABLE,
    metavar="URL|FILE",
    help="The server: http://HOST:PORT, https://HOST:PORT, or its socket. Default: the configured one.",
    shell_complete=complete_file,
)

token_option = click.option(
    "--token-file",
    cls=SettingOption,
    variable=_TOKEN_VARIABLE,
    metavar="FILE",
    help="Private file with the server's token for changes over HTTP. The socket needs none.",
    shell_complete=complete_file,
)


def make_client(
    server: str | None, config_file: str | None, token_file: str | None = None, *, hint: str = ""
) -> ApiClient:
    """Return a client of the server that the options name. If there is an error, print it and exit.

    Args:
        server: the value of `--server`.
        config_file: the value of `--config`. It is not read if the server is named.
        token_file: the value of `--token-file`.
        hint: added to the error for an invalid `--server`.
    """
    try:
        address = find_server(server, config_file)
    except BadValueError as error:
        fail_usage([f"{error}{hint}"])
    except ConfigError as error:
        fail_usage(error.errors)
    return ApiClient(address, _token(token_file))


def find_server(server: str | None, config_file: str | None) -> ServerAddress:
    """Return the server that the option, the variable or the configuration names.

    Args:
        server: the value of `--server`.
        config_file: the value of `--config`. It is not read if the server is named.

    Raises:
        BadValueError: the option or the variable is invalid.
        ConfigError: the configuration has errors, or names no server.
    """
    if named := server or os.environ.get(SERVER_VARIABLE):
        try:
            return parse_server(named)
        except BadValueError as error:
            raise BadValueError(f"{'--server' if server else SERVER_VARIABLE}: {error}") from None
    configured = configured_server(load({}, config_file, with_static=False, with_access=False))
    if configured is None:
        raise ConfigError(["no address of a server is configured; name the server with --server URL"])
    return configured


def _token(file: str | None) -> str | None:
    place = "--token-file" if file else _TOKEN_VARIABLE
    file = file or os.environ.get(_TOKEN_VARIABLE)
    if not file:
        return None
    try:
        return read_token(file).decode("ascii")
    except BadValueError as error:
        fail_usage([f"{place}: {file!r} {error}"])


def request_or_exit(request: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Send a request with a method of the client. If it fails, print the error and exit."""
    try:
        return request(*arguments, **options)
    except UnreachableError as error:
        fail(error, ExitStatus.NO_RESPONSE)
    except RefusedError as error:
        fail_refused(error)


def fail_refused(refused: RefusedError) -> NoReturn:
    """Print the server's reason for refusing a request, and exit."""
    if refused.status == HTTPStatus.UNAUTHORIZED:
        fail_usage(["the server's token is missing or wrong; name the file that has it with --token-file"])
    fail(str(refused), _STATUSES.get(refused.status, ExitStatus.NO_RESPONSE))
