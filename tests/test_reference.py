"""The generated pages equal the code, and the commands follow the rules that the pages state."""

import click
import pytest
from click.testing import CliRunner

from tests.support.reference import DOCS, commands, pages, paragraphs, statuses
from zkdns.cli import main
from zkdns.cli.options import (
    COMMON_STATUSES,
    DONE,
    EX_USAGE,
    FAILED,
    INTERRUPTED,
    NO_ANSWER,
    NOT_FOUND,
    STATUSES,
)
from zkdns.cli.streams import NOT_WRITTEN, READER_GONE
from zkdns.config import SETTINGS
from zkdns.registrar import runner

# Commands without --json, and why.
WITHOUT_JSON = {
    "serve": "prints only logs, which can be JSON with --log-format json",
    "register": "prints only logs, as serve",
    "completion": "prints a shell script",
    "wait": "prints nothing; the exit status is the result",
    "help": "prints pages of text",
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
    tables = [setting.key for setting in SETTINGS if f"\n## [{setting.key}" in pages()["settings.md"]]
    assert sorted(rows + tables) == sorted(setting.key for setting in SETTINGS)


@pytest.mark.parametrize("name", commands())
def test_a_command_has_json_output_or_a_reason_against_it(name: str) -> None:
    options = {option for parameter in commands()[name].params for option in parameter.opts}
    assert ("--json" in options) != (name in WITHOUT_JSON), "add --json, or a reason to WITHOUT_JSON"


@pytest.mark.parametrize("name", commands())
def test_help_lists_the_exit_statuses_of_the_command(name: str) -> None:
    listed = statuses(commands()[name])
    assert EX_USAGE in listed, "add to its docstring: The exit status is …, 2 for usage errors."
    assert listed <= STATUSES.keys()


def test_each_status_is_listed_by_some_command() -> None:
    listed = set().union(*(statuses(command) for command in commands().values()))
    assert listed | set(COMMON_STATUSES) == STATUSES.keys()


def test_the_statuses_equal_the_constants_of_the_code() -> None:
    of_programs = [runner.NOT_EXECUTABLE, runner.NOT_FOUND, INTERRUPTED]
    assert list(STATUSES) == [
        *(DONE, FAILED, EX_USAGE, NO_ANSWER, NOT_WRITTEN),
        *of_programs,
        READER_GONE,
    ]
    assert NOT_FOUND == FAILED


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
    assert shown[0] == DONE
    assert paragraphs(commands()[name])[0] in " ".join(shown[1].split())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["lokup"], "There is no command 'lokup'. Did you mean 'lookup'?"),
        (["frobnicate"], "There is no command 'frobnicate'."),
    ],
)
def test_a_mistyped_command_gets_a_suggestion(arguments: list[str], error: str) -> None:
    status, output, errors = invoke(*arguments)
    assert (status, output) == (EX_USAGE, "")
    assert f"Error: {error}" in errors
    assert ("Did you mean" in errors) == ("Did you mean" in error)
