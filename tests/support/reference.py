"""The README's section "Reference", made from the commands themselves.

`tests/run reference` writes it anew; tests/test_reference.py tells where that was forgotten. Which commands
and options there are is not known here: whatever `zkdns --help` lists gets its place.
"""

import re
import sys
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import click

from zkdns.cli import main
from zkdns.cli.options import STATUSES
from zkdns.config import SETTINGS, Setting, load_config
from zkdns.config.load import FILE_VARIABLE
from zkdns.names import to_text

README = Path(__file__).parents[2] / "README.md"
BEGIN = "<!-- The reference is written by `tests/run reference`. -->\n"
END = "<!-- The end of the reference. -->\n"

_MANY = 20  # options that are not told twice
_DEPENDING = {"zookeeper.hosts", "control"}  # their defaults: on other sources, and on who runs it
_SETTINGS = {setting.name: setting for setting in SETTINGS}
_DEFAULTS = load_config(flags={}, environment={}, file=None)
_TOLD = re.compile(r"exit status is (.+?)\.(?: |$)")
_STATUS = re.compile(r"\b(\d+) (?:where|for)\b")


class Row(NamedTuple):
    """An option, in the columns of its table."""

    option: str
    default: str
    variable: str
    meaning: str


_HEAD = Row("option", "default", "variable", "meaning")
_PROGRAM = click.Context(main, info_name="zkdns", **main.context_settings)


def commands() -> dict[str, click.Command]:
    """All commands, in the order of the help."""
    found = {name: main.get_command(_PROGRAM, name) for name in main.list_commands(_PROGRAM)}
    return {name: command for name, command in found.items() if command is not None and not command.hidden}


def paragraphs(command: click.Command) -> list[str]:
    """What its help says, without the options; the first is its summary."""
    return [" ".join(part.split()) for part in (command.help or "").split("\n\n")]


def statuses(command: click.Command) -> set[int]:
    """The exit statuses that its help tells, in a sentence as "The exit status is 1 where …"."""
    told = _TOLD.findall(" ".join(paragraphs(command)))
    return {int(number) for sentence in told for number in _STATUS.findall(sentence)}


def rows(command: click.Command) -> list[Row]:
    """Its options."""
    context = click.Context(command, parent=_PROGRAM)
    return [_row(option, context) for option in command.params if isinstance(option, click.Option)]


def _row(option: click.Option, context: click.Context) -> Row:
    record = option.get_help_record(context)
    assert record is not None, f"{option.name} is hidden"
    setting = _SETTINGS.get(option.name or "")
    if setting is not None and (option.help or "").startswith(setting.help):
        return Row(record[0], _default(setting), _variable(setting), option.help or "")
    default = str(option.default) if option.show_default else ""
    variable = FILE_VARIABLE if option.name == "config_file" else str(option.envvar or "")
    return Row(record[0], default, variable, option.help or "")


def _variable(setting: Setting) -> str:
    return setting.variable if setting.in_environment else ""


def _default(setting: Setting) -> str:
    """What holds where nobody says anything; nothing where it depends, or is simply off."""
    if setting.is_boolean or setting.key in _DEPENDING:
        return ""
    if setting.key == "zone":
        return to_text(_DEFAULTS.zone)
    if setting.key == "namespace":
        return _DEFAULTS.namespace.template
    value = attrgetter(setting.field)(_DEFAULTS)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def reference() -> str:
    """The whole section, between its two marks."""
    parts = [BEGIN, _statuses()]
    before: dict[str, list[Row]] = {}
    for name, command in commands().items():
        before[name] = rows(command)
        parts.append(_command(name, command, before))
    return "\n".join([*parts, END])


def _statuses() -> str:
    told = {name: statuses(command) for name, command in commands().items()}
    lines = ["| exit status | meaning | commands |", "|---|---|---|"]
    for status, meaning in STATUSES.items():
        names = [name for name, of_it in told.items() if not status or status in of_it]
        named = "all" if names == list(told) else ", ".join(f"`{name}`" for name in names)
        lines.append(f"| {status} | {meaning} | {named} |")
    return "\n".join(lines) + "\n"


def _command(name: str, command: click.Command, before: dict[str, list[Row]]) -> str:
    context = click.Context(command, info_name=name, parent=_PROGRAM)
    summary, *more = map(_escaped, paragraphs(command))
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text = [f"<details>\n<summary><code>zkdns {name}</code>: {summary}</summary>\n"]
    text += [f"```\n{usage}\n```\n", *(f"{paragraph}\n" for paragraph in more)]
    own = before[name]
    for other, theirs in before.items():
        if other != name and len(theirs) >= _MANY and set(theirs) <= set(own):
            own = [row for row in own if row not in theirs]
            text.append(f"All options of `zkdns {other}`{', and:' if own else '.'}\n")
            break
    text += [_table(own)] if own else []
    return "\n".join([*text, "</details>\n"])


def _table(told: list[Row]) -> str:
    """A table of options, without the columns that would be empty."""
    columns = [number for number in range(len(_HEAD)) if any(row[number] for row in told)]
    lines = [" | ".join(_HEAD[number] for number in columns), "|".join("---" for _ in columns)]
    for row in told:
        cells = [_escaped(cell) if number == len(row) - 1 else _code(cell) for number, cell in enumerate(row)]
        lines.append(" | ".join(cells[number] for number in columns))
    return "".join(f"| {line} |\n" if " | " in line else f"|{line}|\n" for line in lines)


def _code(text: str) -> str:
    return "`{}`".format(text.replace("|", "\\|")) if text else ""


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|")


def held(text: str) -> str:
    """The section as it stands in a README.

    Raises:
        ValueError: its marks are not there.
    """
    return text[text.index(BEGIN) : text.index(END) + len(END)]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        text = README.read_text(encoding="utf-8")
        README.write_text(text.replace(held(text), reference()), encoding="utf-8")
    else:
        print(reference(), end="")
