"""`zkdns help`: the pages of the documentation, and the help of the commands."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable

import click
from click.shell_completion import CompletionItem

from zkdns.cli.command import Command
from zkdns.cli.streams import is_terminal, write_out

_SUFFIX = ".md"
_MAX_WIDTH = 100  # columns; longer lines are hard to read
# The order of the list. Other pages follow in alphabetical order.
_ORDER = (
    *("architecture", "names", "configuration", "forwarding", "scaling", "secondary"),
    *("zone-transfer", "operations", "monitoring", "host-setup", "host-setup-other", "containers"),
    *("registration", "cli", "settings"),
    *("metrics", "log-events", "http-api", "library", "clients", "dns-compliance", "migration"),
    *("changelog", "contributing"),
)
_SENTENCE = re.compile(r".*?\.(?=\s|$)", re.DOTALL)


def pages() -> dict[str, Traversable]:
    """The pages by topic: the name of a page's file in lower case, without its suffix."""
    found = {
        page.name.removesuffix(_SUFFIX).lower(): page
        for page in resources.files("zkdns").joinpath("docs").iterdir()
        if page.name.endswith(_SUFFIX)
    }
    known = [topic for topic in _ORDER if topic in found]
    return {topic: found[topic] for topic in [*known, *sorted(found.keys() - set(known))]}


def summary(page: str) -> str:
    """The first sentence of a page's first paragraph, in one line."""
    paragraph = next(
        part for part in page.split("\n\n") if part.strip() and not part.startswith(("#", "<!--"))
    )
    sentence = _SENTENCE.match(paragraph)
    return " ".join((sentence[0] if sentence else paragraph).split())


def _complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Propose topics and commands."""
    names = [*pages(), *_commands(context)]
    return [CompletionItem(name) for name in names if name.startswith(incomplete.lower())]


@click.command(
    "help",
    cls=Command,
    examples=(
        ("zkdns help configuration", "The page about the configuration file"),
        ("zkdns help lookup", "The help of a command, as 'zkdns lookup --help' prints it"),
    ),
)
@click.argument("topic", required=False, shell_complete=_complete)
@click.pass_context
def help(context: click.Context, topic: str | None) -> None:  # noqa: A001 - the name of the command
    """Show a page of the documentation, or the help of a command.

    TOPIC is the name of a page or of a command; without TOPIC all pages are listed. In a terminal, a page is
    shown in a pager. The exit status is 2 for usage errors.
    """
    found = pages()
    if topic is None:
        write_out(_listed(found) + "\n")
    elif topic.lower() in found:
        _show(found[topic.lower()].read_text(encoding="utf-8"))
    elif topic in _commands(context):
        write_out(_help_of(context, topic) + "\n")
    else:
        near = get_close_matches(topic.lower(), [*found, *_commands(context)], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "'zkdns help' lists the topics"
        context.fail(f"there is no topic or command {topic!r}; {hint}")


def _commands(context: click.Context) -> Iterable[str]:
    program = context.find_root().command
    return program.list_commands(context) if isinstance(program, click.Group) else ()


def _help_of(context: click.Context, name: str) -> str:
    """The text that `zkdns NAME --help` prints."""
    root = context.find_root()
    assert isinstance(root.command, click.Group)  # noqa: S101 - it has listed the command
    command = root.command.get_command(root, name)
    assert command is not None  # noqa: S101 - as above
    return command.get_help(click.Context(command, parent=root, info_name=name, **command.context_settings))


def _listed(found: dict[str, Traversable]) -> str:
    """The topics, a line each with its summary."""
    width = max(map(len, found))
    lines = [
        f"  {topic:{width}}  {summary(page.read_text(encoding='utf-8'))}" for topic, page in found.items()
    ]
    return "\n".join(
        [
            "Topics:",
            *lines,
            "",
            "'zkdns help TOPIC' shows a page, 'zkdns help COMMAND' the help of a command,",
            "'zkdns --help' lists the commands.",
        ]
    )


def _show(page: str) -> None:
    """Print a page: rendered and in a pager in a terminal, otherwise as it is written."""
    text = _rendered(page) if is_terminal(sys.stdout) else page
    click.echo_via_pager(text.rstrip("\n"))  # which adds a line end


def _rendered(page: str) -> str:
    """The page with the terminal's styles for headings, code and tables."""
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it, and it is slow to load
    from rich.markdown import Markdown  # noqa: PLC0415

    width = min(Console().width, _MAX_WIDTH)
    text = io.StringIO()
    Console(file=text, force_terminal=True, width=width).print(Markdown(page, hyperlinks=False))
    return text.getvalue()
