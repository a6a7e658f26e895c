"""The generated pages equal the code, and the commands follow the rules that the pages state."""

import click
import pytest
from click.testing import CliRunner

from tests.support.reference import DOCS, commands, pages, paragraphs, statuses
from zkdns.cli import main
from zkdns.cli.statuses import COMMON_STATUSES, ExitStatus
from zkdns.config import SETTINGS
from zkdns.registrar import runner

# Commands without --json, and why.
WITHOUT_JSON = {
    "serve": "prints only logs, which can be JSON with --log-format json",
    "register": "prints only logs, as serve",
    "completion": "prints a shell script",
    "wait": "prints nothing; the exit status is the result",
    "help": "prints pages of text",
    "prometheus": "prints the formats of Prometheus and Grafana",
}


@pytest.mark.parametrize("name", pages())
def test_a_generated_page_equals_the_code(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == pages()[name], "the page is out of date: run tests/run reference"


def test_every_command_has_a_section() -> None:
    assert len(commands()) >= 10
    assert [name for name in commands() if f"\n## zkdns {name}\n" not in pages()["cli.md"]] == []


def test_every_setting_has_a_row() -> None:
    rows = [setting.key for setting in SETTINGS if f"\n| `{setting.key}` |" in pages()["settings.md"]]
    tables = [
        setting.key
        for setting in SETTINGS
        if any(f"\n## {start}{setting.key}" in pages()["settings.md"] for start in ("[", "[["))
    ]
    assert sorted(rows + tables) == sorted(setting.key for setting in SETTINGS)


@pytest.mark.parametrize("name", commands())
def test_a_command_has_json_output_or_a_reason_against_it(name: str) -> None:
    options = {option for parameter in commands()[name].params for option in parameter.opts}
    assert ("--json" in options) != (name in WITHOUT_JSON), "add --json, or a reason to WITHOUT_JSON"


@pytest.mark.parametrize("name", commands())
def test_help_lists_the_exit_statuses_of_the_command(name: str) -> None:
    listed = statuses(commands()[name])
    assert ExitStatus.USAGE in listed, "add to its docstring: The exit status is …, 2 for usage errors."
    assert listed <= set(ExitStatus)


def test_each_status_is_listed_by_some_command() -> None:
    listed = set().union(*(statuses(command) for command in commands().values()))
    assert listed | set(COMMON_STATUSES) == set(ExitStatus)


def test_the_statuses_of_programs_equal_those_of_the_registrar() -> None:
    own = [runner.NOT_EXECUTABLE, runner.NOT_FOUND]
    assert own == [ExitStatus.NOT_EXECUTABLE, ExitStatus.NOT_FOUND]


def test_each_status_has_a_meaning_of_its_own() -> None:
    assert len({status.meaning for status in ExitStatus}) == len(ExitStatus)


def test_only_numbers_in_the_sentence_about_the_exit_status_are_statuses() -> None:
    """Do 8 things.

    They take 7 s where that is possible. The exit status is 1 where 5 are
    missing, 3 for others. It is 4 if unknown.
    """
    text = test_only_numbers_in_the_sentence_about_the_exit_status_are_statuses.__doc__
    assert statuses(click.Command("one", help=text)) == {1, 3}


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", commands())
def test_help_command_and_help_flag_print_the_same(name: str) -> None:
    shown = invoke("help", name)
    assert shown == invoke(name, "--help")
    assert shown[0] == ExitStatus.SUCCESS
    assert paragraphs(commands()[name])[0] in " ".join(shown[1].split())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["lokup"], "there is no command 'lokup'; did you mean 'lookup'?"),
        (["frobnicate"], "there is no command 'frobnicate'; 'zkdns --help' lists the commands"),
    ],
)
def test_a_mistyped_command_gets_a_suggestion(arguments: list[str], error: str) -> None:
    status, output, errors = invoke(*arguments)
    assert (status, output) == (ExitStatus.USAGE, "")
    assert errors == f"zkdns: {error}\n"
