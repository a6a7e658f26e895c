"""The `zkdns` command. Each subcommand is in the module with its name; the others are helpers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

import zkdns
from zkdns.cli.command import Command
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import run_checked, write_error

# In the order of the help. Commands are not imported here: loading the libraries of all commands would take
# longer than starting the server.
_COMMANDS = (
    *("serve", "status", "reload", "check", "lookup", "explain", "history", "wait", "register", "watch"),
    *("services", "accept", "flush", "dump", "diff", "prometheus", "top", "setup", "doctor", "completion"),
    "help",
)
_LOGGING = frozenset({"serve", "register", "watch", "dump", "doctor"})
"""The commands that configure logging. `services` does so only with --direct."""


def import_structlog() -> None:
    """Import structlog without rich.

    It imports rich if it can, only to format tracebacks in a way that is not used here. That would take
    longer than the rest of a command.
    """
    if "rich" in sys.modules:
        import_module("structlog")
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # makes the import fail
    try:
        import_module("structlog")
    finally:
        del sys.modules["rich"]


_HELP_ERROR: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # click before 8.2 has none


@contextlib.contextmanager
def _own_errors(context: click.Context | None) -> Iterator[None]:
    """Print click's errors in the form of all others, and exit with the status of the table."""
    try:
        yield
    except _HELP_ERROR:
        raise
    except click.UsageError as error:
        from zkdns.cli.usage_errors import usage_sentence  # noqa: PLC0415 - slow to load, rarely used

        write_error(usage_sentence(error, context or click.Context(main, info_name="zkdns")))
        sys.exit(ExitStatus.USAGE)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(ExitStatus.INTERRUPTED)


class _Commands(Command, click.Group):
    """The commands by name. A command is imported when it is used."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:  # noqa: ANN401 - click's arguments
        """Run a command, and exit with its status or with that of an error of its output."""
        run_checked(lambda: super(_Commands, self).main(*args, **extra))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:  # noqa: ANN401 - as above
        """Parse the options before the command."""
        with _own_errors(None):
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as in click
        """Parse the command's options, and run it."""
        with _own_errors(ctx):
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import the command with this name. None: there is no such command."""
        if cmd_name not in _COMMANDS:
            return None
        if cmd_name in _LOGGING:
            import_structlog()
        command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - each module has its command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. If it does not exist, name the most similar one in the error."""
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(name, _COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "'zkdns --help' lists the commands"
            ctx.fail(f"there is no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands and options. No command is imported for it: that takes too long."""
        names = [CompletionItem(name) for name in _COMMANDS if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(
    cls=_Commands,
    examples=(
        ("zkdns serve --demo", "Serve the built-in example, at 127.0.0.1:5300"),
        ("zkdns lookup web.staging.discovery", "Query the running server"),
        ("zkdns help names", "Show a page of the documentation"),
    ),
    epilog="'zkdns help' lists the pages of the documentation.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(zkdns.__version__, "-V", "--version", prog_name="zkdns")
def main() -> None:
    """DNS server and tools for the services in ZooKeeper server sets."""
