"""`zkdns help`: the list of topics, the pages, and the help of commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cli import SCRIPTS, Terminal, completions
from zkdns.cli import main
from zkdns.cli.help import pages, summary
from zkdns.cli.options import default_text
from zkdns.cli.statuses import ExitStatus
from zkdns.config import SETTINGS

DOCS = Path(__file__).parents[2] / "zkdns" / "docs"
SECTIONS = ("zookeeper", "forward", "cache", "access", "admin", "snapshot", "log")
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
        subprocess.run(
            [SCRIPTS / "zkdns", *typed], check=True, capture_output=True, text=True, timeout=30
        ).stdout
        for typed in (["help", "lookup"], ["lookup", "--help"])
    ]
    assert shown[0] == shown[1]
    assert shown[0].startswith("Usage: zkdns lookup [OPTIONS] NAME [TYPE]\n")


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


def help_at_80_columns(*command: str) -> list[str]:
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(
        [SCRIPTS / "zkdns", *command, "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=30,
    ).stdout.splitlines()


def test_at_80_columns_the_summary_of_every_command_is_complete() -> None:
    lines = help_at_80_columns()
    summaries = {name: line for line in lines for name in COMMANDS if line.startswith(f"  {name} ")}
    assert list(summaries) == list(COMMANDS)
    assert [line for line in summaries.values() if not line.endswith(".") or line.endswith("...")] == []
    assert [line for line in lines if len(line) > 80] == []


def test_the_help_of_an_option_has_the_variable_and_the_default_of_its_setting() -> None:
    text = " ".join(" ".join(help_at_80_columns("serve")).split())
    for setting in SETTINGS:
        if not setting.in_flags:
            continue
        option = text[text.index(f" {setting.flag} ") :]
        extra = re.search(r"\[env var: (\w+)(?:; default: ([^]]*))?\]", option)
        assert extra is not None
        assert extra[1] == setting.variable
        if "Default: " not in setting.help:
            assert (extra[2] or "") == default_text(setting)


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
