"""The commands. Never here: logic."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module

import click
from click.shell_completion import CompletionItem

import zkdns

# In the order of the help. Each is imported when it is used: a server that starts needs no other command's
# libraries, which take longer to load than it takes to be ready.
_COMMANDS = (
    *("serve", "reload", "check", "lookup", "explain", "history", "wait", "register", "watch", "services"),
    *("accept", "flush", "dump", "top", "setup", "doctor", "completion", "help"),
)


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Within this the package cannot be imported, unless it was before.

    structlog would load rich, for tracebacks that nobody asks for, in a tenth of the time that a start takes.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


class _Commands(click.Group):
    """The commands by their modules' names."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """The command of a name, which its module calls the same; None: there is none."""
        if cmd_name not in _COMMANDS:
            return None
        with _hidden("rich") if cmd_name == "serve" else contextlib.nullcontext():
            command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - what such a module holds
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; where there is none, tell which one may have been meant."""
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(name, _COMMANDS, n=1)
            ctx.fail(f"There is no command {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What a shell may propose; commands by their names alone, as loading all takes too long."""
        names = [CompletionItem(name) for name in _COMMANDS if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(zkdns.__version__, prog_name="zkdns")
def main() -> None:
    """DNS for the services that ZooKeeper server sets know."""
