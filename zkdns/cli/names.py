"""The names of services that a shell proposes: those that the running server knows, quickly or not at all."""

from __future__ import annotations

import asyncio
import os

import click
from click.shell_completion import CompletionItem

from zkdns.config import load_config
from zkdns.daemon.ipc.control import send_request
from zkdns.daemon.ipc.control_messages import ListNames, Names
from zkdns.errors import ZkdnsError

_PATIENCE = 0.2  # seconds; somebody has pressed a key and waits


def complete_names(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Propose the server's services."""
    return _complete(context, ListNames(incomplete, only_held=False))


def complete_held(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Propose those of them that hold members."""
    return _complete(context, ListNames(incomplete, only_held=True))


def _complete(context: click.Context, request: ListNames) -> list[CompletionItem]:
    """What the server says; nothing where that fails, since nobody would read why."""
    try:
        control = load_config(
            flags={"control": context.params.get("control")},
            environment=os.environ,
            file=context.params.get("config_file"),
        ).control
        if control is None:
            return []
        response = asyncio.run(_ask(control, request))
    except (ZkdnsError, TimeoutError):
        return []
    return [CompletionItem(name) for name in response.names] if isinstance(response, Names) else []


async def _ask(path: str, request: ListNames) -> object:
    async with asyncio.timeout(_PATIENCE):
        return await send_request(path, request)
