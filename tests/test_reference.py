"""The generated pages equal the code, and the commands follow the rules that the pages state."""

import click
import pytest
from click.testing import CliRunner

from tests.support.reference import DOCS, commands, pages, paragraphs, statuses
from zkdns.cli import main
from zkdns.cli.options import DONE, EX_USAGE, FAILED, INTERRUPTED, NO_ANSWER, NOT_FOUND, STATUSES
from zkdns.config import SETTINGS
from zkdns.registrar import runner

# What these print is nothing to be read by a program as JSON.
WITHOUT_JSON = {
    "serve": "its logs may be JSON: --log-format json",
    "register": "it prints nothing but logs, as above",
    "dump": "a zone file is a format of its own",
    "completion": "a script of a shell",
    "wait": "it prints nothing; its exit status says what came of it",
    "help": "pages of text",
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
def test_what_is_printed_may_be_had_as_json(name: str) -> None:
    options = {option for parameter in commands()[name].params for option in parameter.opts}
    assert ("--json" in options) != (name in WITHOUT_JSON), "either --json, or a reason why not"


@pytest.mark.parametrize("name", commands())
def test_help_tells_the_exit_statuses_and_each_is_known(name: str) -> None:
    told = statuses(commands()[name])
    assert EX_USAGE in told, "write in its docstring: The exit status is …, 2 for usage errors."
    assert told <= STATUSES.keys()


def test_each_status_is_told_by_some_command() -> None:
    told = set().union(*(statuses(command) for command in commands().values()))
    assert told | {DONE} == STATUSES.keys()


def test_the_statuses_are_those_that_the_commands_end_with() -> None:
    of_programs = [runner.NOT_EXECUTABLE, runner.NOT_FOUND, INTERRUPTED]
    assert list(STATUSES) == [DONE, FAILED, EX_USAGE, NO_ANSWER, *of_programs]
    assert NOT_FOUND == FAILED


def test_a_status_is_found_where_it_is_told_and_no_other_number_is() -> None:
    """Do 8 things.

    They take 7 s if that is possible. The exit status is 1 where 5 are
    missing, 3 for others. It is 4 where nobody knows.
    """
    text = test_a_status_is_found_where_it_is_told_and_no_other_number_is.__doc__
    assert statuses(click.Command("one", help=text)) == {1, 3}


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", commands())
def test_help_is_had_by_the_word_and_by_the_flag(name: str) -> None:
    shown = invoke("help", name)
    assert shown == invoke(name, "--help")
    assert shown[0] == DONE
    assert paragraphs(commands()[name])[0] in " ".join(shown[1].split())


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["lokup"], "There is no command 'lokup'. Did you mean 'lookup'?"),
        (["frobnicate"], "There is no command 'frobnicate'."),
    ],
)
def test_who_mistypes_a_command_is_told_which_was_meant(typed: list[str], told: str) -> None:
    status, printed, said = invoke(*typed)
    assert (status, printed) == (EX_USAGE, "")
    assert f"Error: {told}" in said
    assert ("Did you mean" in said) == ("Did you mean" in told)
