"""The man pages zkdns(1), zkdns-serve(8) and zkdns.toml(5), in the macros of man(7).

Their text is that of `zkdns --help` and of the schema of settings. `tests/run reference` writes them to
`zkdns/docs/man/`, from which the wheel installs them; tests/test_manpages.py compares them with the code.
They have no date, so that they change only if their content does.
"""

import re
import textwrap
from collections.abc import Iterable
from itertools import pairwise

import click

import zkdns
from tests.support.reference import (
    MANY,
    NAMED_TABLES,
    PROGRAM,
    commands,
    paragraphs,
    rows,
    statuses,
)
from zkdns.cli import main
from zkdns.cli.command import Command
from zkdns.cli.options import SettingOption, default_text
from zkdns.cli.statuses import COMMON_STATUSES, ExitStatus
from zkdns.config import SETTINGS, Setting
from zkdns.host.setup.journal import JOURNAL_FILE

_WIDTH = 78  # columns of the source
_HEADINGS = {".SH", ".SS"}
_ESCAPES = str.maketrans(
    {
        "\\": r"\e",
        "-": r"\-",
        "'": r"\(aq",
        '"': r"\(dq",
        "`": r"\(ga",
        "~": r"\(ti",
        "^": r"\(ha",
        "…": "...",
    }
)
_CODE = re.compile(r"`([^`]+)`")
_OPTION = re.compile(r"(?<![\w-])(--?[A-Za-z][a-z0-9-]*)")
_PLACEHOLDER = re.compile(r"\b([A-Z]+)\b")

_TOP_LEVEL = "Top level"  # of the configuration file

_CONFIGURATION_FILE = {
    "/etc/zkdns/zkdns.toml": "The configuration file of the systemd unit; see zkdns.toml(5).",
}
_SERVER_FILES = {
    **_CONFIGURATION_FILE,
    "/run/zkdns/api": "The Unix socket of root's server, at which commands on the same machine find it.",
    "$XDG_RUNTIME_DIR/zkdns/api": "The Unix socket of another user's server.",
    "/var/lib/zkdns/table": "The snapshot of the systemd unit.",
}
_FILES = {
    **_SERVER_FILES,
    JOURNAL_FILE: "The files before `zkdns setup --apply`, for `zkdns setup --undo`.",
}
_SYSTEMD = {
    "CONFIGURATION_DIRECTORY": "The configuration file is `zkdns.toml` in this directory, if it exists.",
    "STATE_DIRECTORY": "The snapshot is `table` in this directory, and stored zones are in `zones`.",
    "RUNTIME_DIRECTORY": "The Unix socket of the HTTP API is `api` in this directory.",
    "CREDENTIALS_DIRECTORY": "The credentials for ZooKeeper are `zookeeper.toml` in this directory, and the "
    "token for changes over HTTP is `admin_token`.",
    "LISTEN_FDS": "The server takes over the sockets that systemd passes, so that a restart loses no query.",
    "NOTIFY_SOCKET": "The server notifies systemd when it is ready.",
    "WATCHDOG_USEC": "The server notifies systemd after each successful query to itself.",
}
EXAMPLE = """\
listen = ["127.0.0.1:53", "[::1]:53"]
snapshot.path = "/var/lib/zkdns/table"

[zookeeper]
hosts = "zk01:2181,zk02:2181,zk03:2181"

# Names of this domain have other upstreams.
[forward.zone."corp.example"]
upstreams = ["10.0.0.53", "10.0.0.54"]

# Settings of one service.
[service."web.staging"]
ttl = 1
max_answers = 4
"""
"""The example in zkdns.toml(5)."""


def man_pages() -> dict[str, str]:
    """The text of each page, by its path in the source tree."""
    return {
        "zkdns/docs/man/man1/zkdns.1": _program(),
        "zkdns/docs/man/man5/zkdns.toml.5": _configuration(),
        "zkdns/docs/man/man8/zkdns-serve.8": _server(),
    }


# -- the pages ----------------------------------------------------------------------------------------------


def _program() -> str:
    lines = _head("zkdns", 1, "User Commands", main.help or "")
    lines += [rf"\fBzkdns\fR {_usage('[OPTIONS] COMMAND [ARGS]...')}"]
    lines += [".SH DESCRIPTION", *_filled("zkdns answers DNS queries for services in ZooKeeper server sets.")]
    lines += _paragraph(
        "Its commands run the server, query it, register services, and set up this machine. An option "
        "overrides its variable, and a variable overrides the configuration file, zkdns.toml(5)."
    )
    lines += _paragraph("`zkdns help` lists the pages of the documentation, and shows them.")
    lines += [".SH OPTIONS", *_options(main.get_params(PROGRAM)), ".SH COMMANDS"]
    for name, command in commands().items():
        lines += _command(name, command)
    lines += _exit_statuses(ExitStatus)
    lines += [".SH ENVIRONMENT", *_definitions(_variables())]
    lines += _paragraph("The variables of the settings are in zkdns.toml(5).")
    lines += [".SH FILES", *_definitions(_FILES)]
    lines += [".SH EXAMPLES", *_examples(main)]
    return _page(lines, "zkdns-serve(8)", "zkdns.toml(5)", "dig(1)", "resolv.conf(5)")


def _server() -> str:
    serve = commands()["serve"]
    summary, *description = paragraphs(serve)
    lines = _head("zkdns-serve", 8, "System Administration", summary)
    lines += [rf"\fBzkdns serve\fR {_usage('[OPTIONS]')}", ".SH DESCRIPTION"]
    for paragraph in description:
        lines += _paragraph(paragraph)
    lines.append(".SH OPTIONS")
    lines += _paragraph("Most options are settings. zkdns.toml(5) also lists those that have no option.")
    sections: dict[str, list[click.Parameter]] = {"": [], _TOP_LEVEL: []}
    for option in serve.params:
        section = option.section if isinstance(option, SettingOption) else None
        sections.setdefault(section or "", []).append(option)
    for section, options in sections.items():
        lines += [*([f".SS {_escaped(section)}"] if section else []), *_options(options)]
    lines += _exit_statuses(statuses(serve) | set(COMMON_STATUSES))
    lines.append(".SH ENVIRONMENT")
    lines += _paragraph("The variable of an option is listed with it. These variables are set by systemd:")
    lines += _definitions(_SYSTEMD)
    lines += [".SH FILES", *_definitions(_SERVER_FILES), ".SH EXAMPLES", *_examples(serve)]
    return _page(lines, "zkdns(1)", "zkdns.toml(5)", "systemd.socket(5)", "resolv.conf(5)")


def _configuration() -> str:
    lines = _head("zkdns.toml", 5, "File Formats", "Configuration file of zkdns.")
    lines += [".I /etc/zkdns/zkdns.toml", ".SH DESCRIPTION"]
    lines += _paragraph(
        "The file is in the format TOML. Commands read the file that the option --config or the variable "
        "ZKDNS_CONFIG names, and in a systemd unit `zkdns.toml` in its configuration directory. "
        "`zkdns check` validates it, and `zkdns reload` makes a running server read it again."
    )
    lines += _paragraph(
        "Most settings also have a variable and an option of `zkdns serve`. An option overrides the "
        "variable, and the variable overrides the file. A repeatable setting is a list in the file, "
        "separated by commas in a variable, and a repeated option."
    )
    lines.append(".SH SETTINGS")
    sections: dict[str, list[Setting]] = {_TOP_LEVEL: []}
    for setting in SETTINGS:
        if setting.key not in NAMED_TABLES:
            section = setting.key.rpartition(".")[0]
            sections.setdefault(f"[{section}]" if section else _TOP_LEVEL, []).append(setting)
    for title, settings in (*sections.items(), *NAMED_TABLES.values()):
        lines.append(f".SS {_escaped(title)}")
        for setting in settings:
            lines += _definition(
                _setting_head(setting), _setting_text(setting, is_named=title not in sections)
            )
    lines += [
        ".SH FILES",
        *_definitions(_CONFIGURATION_FILE),
        ".SH EXAMPLES",
        *_literal(EXAMPLE.splitlines()),
    ]
    return _page(lines, "zkdns(1)", "zkdns-serve(8)")


def _command(name: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=name, parent=PROGRAM)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    summary, *description = paragraphs(command)
    lines = [f".SS {_escaped(usage)}", *_filled(summary)]
    if name == "serve":
        return [*lines, *_paragraph("zkdns-serve(8) describes this command.")]
    for paragraph in description:
        lines += _paragraph(paragraph)
    options = [option for option in command.params if isinstance(option, click.Option)]
    of_server = rows(commands()["serve"])
    assert len(of_server) >= MANY
    if set(of_server) <= set(rows(command)):
        lines += _paragraph("All options of zkdns-serve(8), and:")
        options = [option for option, row in zip(options, rows(command), strict=True) if row not in of_server]
    return [*lines, *_options(options), *_examples(command)]


def _exit_statuses(listed: Iterable[int]) -> list[str]:
    meanings = {str(status): f"{status.meaning}." for status in ExitStatus if status in set(listed)}
    return [".SH EXIT STATUS", *_definitions(meanings)]


def _variables() -> dict[str, str]:
    """The variables of options that belong to no setting, with the help of their options."""
    return {
        option.variable: option.help or ""
        for command in commands().values()
        for option in command.params
        if isinstance(option, SettingOption) and option.variable and option.section is None
    }


def _examples(command: click.Command) -> list[str]:
    assert isinstance(command, Command)
    lines = []
    for example, meaning in command.examples:
        lines += [*_paragraph(f"{meaning}:"), *_literal([example])]
    return lines


def _options(options: Iterable[click.Parameter]) -> list[str]:
    lines = []
    for option in options:
        record = option.get_help_record(PROGRAM)
        if record is not None:
            lines += _definition(_usage(record[0]), record[1])
    return lines


def _setting_head(setting: Setting) -> str:
    return rf"\fB{_escaped(setting.key.rpartition('.')[2])}\fR = {_usage(setting.metavar)}"


def _setting_text(setting: Setting, *, is_named: bool) -> str:
    places = [setting.flag] if setting.in_flags and not is_named else []
    places += [f"env var: {setting.variable}"] if setting.in_environment and not is_named else []
    places += [f"default: {text}"] if not is_named and (text := default_text(setting)) else []
    text = setting.help + (" Repeatable." if setting.many else "")
    return f"{text} [{'; '.join(places)}]" if places else text


# -- roff ---------------------------------------------------------------------------------------------------


def _head(name: str, section: int, manual: str, summary: str) -> list[str]:
    """The lines up to the synopsis."""
    title = f'.TH {name.upper()} {section} "" "zkdns {zkdns.__version__}" "{manual}"'
    summary = summary.removesuffix(".")
    described = summary if summary.startswith("DNS") else summary[0].lower() + summary[1:]
    comment = r".\" Generated by tests/run reference."
    # Neither hyphenated nor justified, so that names can be searched and copied.
    return [
        comment,
        title,
        ".nh",
        ".ad l",
        ".SH NAME",
        rf"{_escaped(name)} \- {_escaped(described)}",
        ".SH SYNOPSIS",
    ]


def _page(lines: list[str], *others: str) -> str:
    """The whole page, with references to other pages. A paragraph after a heading needs no macro."""
    references = [_reference(other) for other in others]
    kept = [line for before, line in pairwise(["", *lines]) if line != ".PP" or before[:3] not in _HEADINGS]
    return "\n".join([*kept, ".SH SEE ALSO", *(f"{one}," for one in references[:-1]), references[-1], ""])


def _reference(page: str) -> str:
    name, _, section = page.partition("(")
    return f".BR {_escaped(name)} ({section}"


def _escaped(text: str) -> str:
    """The text as roff prints it literally: hyphens are those of options, and quotes are straight."""
    escaped = text.translate(_ESCAPES)
    return "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in escaped)


def _usage(text: str) -> str:
    """Bold options and italic placeholders, as in a synopsis."""
    escaped = "".join(
        rf"\fB{_escaped(part)}\fR" if number % 2 else _PLACEHOLDER.sub(r"\\fI\1\\fR", _escaped(part))
        for number, part in enumerate(_OPTION.split(text))
    )
    return _guarded(escaped)


def _filled(text: str) -> list[str]:
    """Lines of running text, with code and options in bold."""
    parts = [
        rf"\fB{_escaped(part)}\fR" if number % 2 else _OPTION.sub(lambda found: f"\0{found[1]}\1", part)
        for number, part in enumerate(_CODE.split(" ".join(text.split())))
    ]
    parts[::2] = [_escaped(part).replace("\0", r"\fB").replace("\1", r"\fR") for part in parts[::2]]
    lines = textwrap.wrap("".join(parts), _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [_guarded(line) for line in lines]


def _guarded(line: str) -> str:
    """A line that is text although it begins with a dot."""
    return rf"\&{line}" if line.startswith(".") else line


def _paragraph(text: str) -> list[str]:
    return [".PP", *_filled(text)]


def _definition(head: str, text: str) -> list[str]:
    return [".TP", head, *_filled(text)]


def _definitions(meanings: dict[str, str]) -> list[str]:
    return [line for term, text in meanings.items() for line in _definition(rf"\fB{_escaped(term)}\fR", text)]


def _literal(lines: Iterable[str]) -> list[str]:
    """Lines as they are, indented."""
    return [".PP", ".RS 4", ".nf", *(_guarded(_escaped(line)) for line in lines), ".fi", ".RE"]
