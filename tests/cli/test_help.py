"""`zkdns help`: the list of topics, the pages, and the help of commands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import zkdns
from tests.cli import SCRIPTS, Terminal, completions
from tests.support.forked_command import run_forked
from zkdns.cli import main
from zkdns.cli.command import Command
from zkdns.cli.help import pages, summary
from zkdns.cli.options import SettingOption
from zkdns.cli.statuses import ExitStatus
from zkdns.config import SETTINGS

DOCS = Path(__file__).parents[2] / "zkdns" / "docs"
SECTIONS = (
    "zookeeper",
    "primary",
    "forward",
    "cache",
    "access",
    "tls",
    "transfer",
    "admin",
    "snapshot",
    "log",
)
COMMANDS = main.list_commands(main.make_context("zkdns", ["x"]))


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.stdout, result.stderr


# -- topics -------------------------------------------------------------------------------------------------


def test_every_page_is_listed_with_its_summary() -> None:
    status, shown, _ = invoke("help")
    assert status == ExitStatus.SUCCESS
    listed = dict(re.findall(r"^  ([\w-]+) +(\S.*)$", shown, re.MULTILINE))
    files = {path.stem.lower(): path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
    assert len(files) >= 15
    assert listed == {topic: summary(page) for topic, page in files.items()}


def test_related_pages_stand_together() -> None:
    topics = list(pages())
    assert topics[topics.index("host-setup") + 1] == "host-setup-other"


@pytest.mark.parametrize("topic", pages())
def test_a_page_begins_with_its_name_and_a_summary(topic: str) -> None:
    page = pages()[topic].read_text(encoding="utf-8")
    assert page.partition("\n")[0].lower() == f"# {topic}"
    assert re.fullmatch(r"[^\n|#]{10,100}\.", summary(page))


def test_no_page_has_the_name_of_a_command() -> None:
    assert set(pages()) & set(COMMANDS) == set()


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("# a\n\nOne. Two.\n", "One."),
        ("# a\n\nOne\ntwo 1.2 three.\nFour.\n\nFive.\n", "One two 1.2 three."),
        ("<!-- note -->\n\n# a\n\nWithout an end\n", "Without an end"),
    ],
)
def test_a_summary_is_the_first_sentence_of_the_first_paragraph(page: str, sentence: str) -> None:
    assert summary(page) == sentence


# -- pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", pages())
def test_a_page_is_printed_as_written_without_a_terminal(topic: str) -> None:
    page = pages()[topic].read_text(encoding="utf-8")
    assert invoke("help", topic) == (ExitStatus.SUCCESS, page, "")
    assert invoke("help", topic.upper())[1] == page


def test_a_command_has_its_own_help() -> None:
    assert invoke("help", "lookup") == invoke("lookup", "--help")
    shown = [
        run_forked(*typed, environment=os.environ, is_script=True).output
        for typed in (("help", "lookup"), ("lookup", "--help"))
    ]
    assert shown[0] == shown[1]
    assert shown[0].startswith("Usage: zkdns lookup [OPTIONS] [@SERVER] NAME [TYPE]...\n")


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        ("forwading", "there is no topic or command 'forwading'; did you mean 'forwarding'?"),
        ("regster", "there is no topic or command 'regster'; did you mean 'register'?"),
        ("qqq", "there is no topic or command 'qqq'; 'zkdns help' lists the topics"),
    ],
)
def test_an_unknown_topic_is_a_usage_error_that_names_the_nearest(typed: str, error: str) -> None:
    status, printed, errors = invoke("help", typed)
    assert (status, printed) == (ExitStatus.USAGE, "")
    assert errors == f"zkdns: {error}\n"


def test_a_page_is_rendered_and_paged_in_a_terminal(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho BEGIN; cat; echo END\n")
    pager.chmod(0o755)
    with Terminal("help", "names", environment={"PAGER": str(pager)}) as terminal:
        assert terminal.wait() == ExitStatus.SUCCESS
        text = terminal.screen
    assert text.startswith("BEGIN\n")
    assert text.endswith("END\n")
    assert "Reverse lookup" in text
    assert "## " not in text
    assert "| name |" not in text
    assert 80 < max(map(len, text.splitlines())) <= 100


# -- help of commands ---------------------------------------------------------------------------------------


PROGRAM = main.make_context("zkdns", ["x"])
COMMAND_OF = {"": main, **{name: main.get_command(PROGRAM, name) for name in COMMANDS}}


@pytest.fixture
def columns_80(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def context_of(name: str) -> click.Context:
    """A context of the command as it is called; the empty name is the program itself."""
    command = COMMAND_OF[name]
    assert command is not None
    return (
        click.Context(command, parent=PROGRAM, info_name=name, **command.context_settings)
        if name
        else PROGRAM
    )


def help_at_80_columns(name: str) -> list[str]:
    return context_of(name).get_help().splitlines()


@pytest.mark.usefixtures("columns_80")
def test_the_summary_of_every_command_is_complete() -> None:
    lines = help_at_80_columns("")
    summaries = {name: line for line in lines for name in COMMANDS if line.startswith(f"  {name} ")}
    assert list(summaries) == list(COMMANDS)
    assert [line for line in summaries.values() if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.usefixtures("columns_80")
@pytest.mark.parametrize("name", COMMAND_OF)
def test_no_line_of_the_help_is_longer_than_80_columns(name: str) -> None:
    lines = help_at_80_columns(name)
    assert len(lines) > 10
    assert [line for line in lines if len(line) > 80] == []


def test_without_a_terminal_the_help_has_80_columns() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    shown = subprocess.run(
        [SCRIPTS / "zkdns", "lookup", "-h"],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        timeout=30,
    ).stdout.splitlines()
    assert 70 < max(map(len, shown)) <= 80


@pytest.mark.parametrize("typed", ["-V", "--version"])
def test_the_version(typed: str) -> None:
    assert invoke(typed) == (ExitStatus.SUCCESS, f"zkdns, version {zkdns.__version__}\n", "")


@pytest.mark.usefixtures("columns_80")
@pytest.mark.parametrize("name", COMMAND_OF)
def test_the_help_has_two_examples_before_the_options(name: str) -> None:
    command, lines = COMMAND_OF[name], help_at_80_columns(name)
    assert isinstance(command, Command)
    assert len(command.examples) >= 2
    shown = lines[lines.index("Examples:") + 1 : lines.index("Options:") - 1]
    assert shown == [line for one in command.examples for line in (f"  # {one.meaning}", f"  {one.command}")]
    assert not any(one.meaning.endswith(".") for one in command.examples)


@pytest.mark.parametrize("name", COMMAND_OF)
def test_the_command_line_of_an_example_is_accepted(name: str) -> None:
    command = COMMAND_OF[name]
    assert isinstance(command, Command)
    for example in command.examples:
        program, called, *arguments = shlex.split(example.command)
        assert (program, called) == ("zkdns", name or called)
        if ">" in arguments:
            arguments = arguments[: arguments.index(">")]
        context_of(called).command.make_context(called, arguments, parent=PROGRAM)


NO_DEFAULTS = (None, False, (), "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_an_option_has_its_default_and_its_variable(name: str) -> None:
    context = context_of(name)
    for option in context.command.params:
        if not isinstance(option, click.Option):
            continue
        record = option.get_help_record(context)
        assert record is not None
        if isinstance(option, SettingOption) and option.variable:
            assert f"env var: {option.variable}" in record[1]
        if default_of(option) not in NO_DEFAULTS:
            assert re.search(r"\bdefault: |Default: ", record[1]), record


def default_of(option: click.Option) -> object:
    """The default of its setting, or that of click."""
    return (isinstance(option, SettingOption) and option.default_text) or option.to_info_dict()["default"]


@pytest.mark.parametrize(
    ("typed", "required"),
    [
        ("register web.staging", {"--port"}),
        ("dump", {"--zone", "--json"}),
        ("accept", {"--all"}),
    ],
)
def test_an_option_that_an_error_reports_as_missing_is_marked_as_required(
    typed: str, required: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("ZKDNS_")]:
        monkeypatch.delenv(name)
    status, _, errors = invoke(*typed.split())
    assert status == ExitStatus.USAGE
    assert set(re.findall(r"--[a-z]+(?=: is missing| for )", errors)) == required
    name = typed.split(maxsplit=1)[0]
    context = context_of(name)
    records = [parameter.get_help_record(context) or ("", "") for parameter in context.command.params]
    marked = {forms.split()[0] for forms, text in records if re.search(r"\brequired\b[^\]]*\]$", text)}
    assert marked == required


@pytest.mark.usefixtures("columns_80")
@pytest.mark.parametrize("command", ["serve", "check", "doctor"])
def test_the_help_lists_the_settings_by_sections(command: str) -> None:
    titles: list[str] = []
    options: dict[str, list[str]] = {}
    for line in help_at_80_columns(command):
        if title := re.fullmatch(r"(Options|Top level|\[\w+\]):", line):
            titles.append(title[1])
        elif option := re.match(r"  (?:-h, )?(--[\w-]+)", line):
            options.setdefault(titles[-1], []).append(option[1])
    assert titles == ["Options", "Top level", *(f"[{section}]" for section in SECTIONS)]
    assert {"--config", "--help"} <= set(options.pop("Options"))
    flags: dict[str, list[str]] = {}
    for setting in SETTINGS:
        if setting.in_flags:
            section = setting.key.rpartition(".")[0]
            flags.setdefault(f"[{section}]" if section else "Top level", []).append(setting.flag)
    assert options == flags


# -- the shell and other commands ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("zkdns help forw", ["forwarding"]),
        ("zkdns help co", ["configuration", "containers", "contributing", "completion"]),
        ("zkdns help look", ["lookup"]),
    ],
)
def test_topics_and_commands_are_completed(typed: str, words: list[str]) -> None:
    environment = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    assert completions(typed, environment) == [f"plain,{word}" for word in words]


def test_other_commands_do_not_load_it() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from zkdns.cli import main; "
        "CliRunner().invoke(main, ['check', '--demo']); print('zkdns.cli.help' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=30
    ).stdout
    assert printed == "False\n"
