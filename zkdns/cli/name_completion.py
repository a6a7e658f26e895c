"""Shell completion of service names: the running server returns them, within a short time-out."""

from __future__ import annotations

import asyncio
import os

import click
from click.shell_completion import CompletionItem

from zkdns.config import load_config
from zkdns.daemon.ipc.control import send_request
from zkdns.daemon.ipc.control_messages import ListNames, Names
from zkdns.errors import ZkdnsError

_TIMEOUT = 0.2  # seconds; the user has pressed a key and waits


def complete_names(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the services of the server that begin with the typed text."""
    return _complete(context, ListNames(incomplete, only_held=False))


def complete_held(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return those services that have held members."""
    return _complete(context, ListNames(incomplete, only_held=True))


def _complete(context: click.Context, request: ListNames) -> list[CompletionItem]:
    """Send the request to the configured server. Errors are ignored: a completion cannot show them."""
    try:
        control = load_config(
            flags={"control": context.params.get("control")},
            environment=os.environ,
            file=context.params.get("config_file"),
        ).control
        if control is None:
            return []
        response = asyncio.run(_send(control, request))
    except (ZkdnsError, TimeoutError):
        return []
    return [CompletionItem(name) for name in response.names] if isinstance(response, Names) else []


async def _send(path: str, request: ListNames) -> object:
    async with asyncio.timeout(_TIMEOUT):
        return await send_request(path, request)
