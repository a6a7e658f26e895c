"""Shell completion of service names: the running server returns them, within a short time-out."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from zkdns.admin.client import ApiClient
from zkdns.cli.api_options import find_server
from zkdns.errors import ZkdnsError

_TIMEOUT = 0.2  # seconds; the user has pressed a key and waits


def complete_names(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the services of the server that begin with the typed text."""
    return _complete(context, incomplete, only_held=False)


def complete_held(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return those services that have held members."""
    return _complete(context, incomplete, only_held=True)


def _complete(context: click.Context, incomplete: str, *, only_held: bool) -> list[CompletionItem]:
    """Send the request to the server. Errors are ignored: a completion cannot show them."""
    try:
        server = find_server(context.params.get("server"), context.params.get("config_file"))
        client = ApiClient(server)
        names = client.names(incomplete, only_held=only_held, seconds=_TIMEOUT).names
    except ZkdnsError:
        return []
    # The scripts of the shells read a completion per line.
    return [CompletionItem(name) for name in names if name.isprintable()]
