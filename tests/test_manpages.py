"""The man pages: they equal the code, they are complete, and their macros are correct."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.manpages import EXAMPLE, man_pages
from tests.support.reference import ROOT, commands
from zkdns.cli.command import Command
from zkdns.cli.options import SettingOption
from zkdns.config import SETTINGS, load_config

PAGES = man_pages()
SECTIONS = {
    "zkdns/docs/man/man1/zkdns.1": "OPTIONS COMMANDS EXIT_STATUS ENVIRONMENT FILES EXAMPLES",
    "zkdns/docs/man/man5/zkdns.toml.5": "SETTINGS FILES EXAMPLES",
    "zkdns/docs/man/man8/zkdns-serve.8": "OPTIONS EXIT_STATUS ENVIRONMENT FILES EXAMPLES",
}
MISSING_DATE = "missing date"  # on purpose: the pages change only if their content does


@pytest.mark.parametrize("path", PAGES)
def test_a_page_equals_the_code(path: str) -> None:
    written = (ROOT / path).read_text(encoding="utf-8")
    assert written == PAGES[path], "the page is out of date: run tests/run reference"


def test_there_are_no_other_pages() -> None:
    assert {str(file.relative_to(ROOT)) for file in ROOT.glob("zkdns/docs/man/*/*")} == set(PAGES)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_the_usual_sections(path: str) -> None:
    titles = re.findall(r"^\.SH (.+)$", PAGES[path], re.MULTILINE)
    expected = ["NAME", "SYNOPSIS", "DESCRIPTION", *SECTIONS[path].split(), "SEE_ALSO"]
    assert titles == [title.replace("_", " ") for title in expected]


def text_of(path: str) -> str:
    """The page without fonts and escapes."""
    page = re.sub(r"\\f[BIR]", "", PAGES[path])
    for escape, char in ((r"\-", "-"), (r"\(aq", "'"), (r"\(dq", '"'), (r"\(ti", "~"), (r"\e", "\\")):
        page = page.replace(escape, char)
    return page


def test_zkdns_1_has_every_command_with_its_options_and_examples() -> None:
    page = text_of("zkdns/docs/man/man1/zkdns.1")
    sections = {part.split()[1]: part for part in page.split("\n.SS ")[1:]}
    assert list(sections) == list(commands())
    of_server = {option for parameter in commands()["serve"].params for option in parameter.opts}
    for name, command in commands().items():
        if name == "serve":  # which has a page of its own
            continue
        options = {option for parameter in command.params for option in parameter.opts if option[0] == "-"}
        missing = {option for option in options if option not in sections[name]}
        assert missing <= (of_server if "All options of zkdns-serve(8)" in sections[name] else set())
        assert isinstance(command, Command)
        assert all(f"\n{example.command}\n" in sections[name] for example in command.examples)


def test_zkdns_serve_8_has_every_option_with_its_variable() -> None:
    page = " ".join(text_of("zkdns/docs/man/man8/zkdns-serve.8").split())
    for option in commands()["serve"].params:
        assert isinstance(option, SettingOption)
        assert f".TP {option.opts[0]} " in page
        assert f"[env var: {option.variable}" in page


def test_zkdns_toml_5_has_every_setting() -> None:
    page = text_of("zkdns/docs/man/man5/zkdns.toml.5")
    for setting in SETTINGS:
        section, _, key = setting.key.rpartition(".")
        if "TABLE" in setting.metavar:
            titles = f"[{setting.key}]", f"[[{setting.key}]]", f"[{setting.key}."
            assert any(f"\n.SS {title}" in page for title in titles)
        else:
            place = page[page.index(f"\n.SS {f'[{section}]' if section else 'Top level'}\n") :]
            assert f"\n{key} = {setting.metavar}\n" in place


def test_the_example_of_the_configuration_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "zkdns.toml"
    file.write_text(EXAMPLE)
    config = load_config(flags={}, environment={}, file=str(file))
    assert list(config.service) == ["web.staging.discovery"]


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    "command",
    [("groff", "-man", "-ww", "-z", "-Tutf8"), ("mandoc", "-T", "lint")],
    ids=lambda command: command[0],
)
def test_formatters_report_no_problem(command: tuple[str, ...], path: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    ended = subprocess.run(
        [*command, str(ROOT / path)], check=False, capture_output=True, text=True, timeout=30
    )
    reports = ended.stdout if command[0] == "mandoc" else ended.stderr
    assert [line for line in reports.splitlines() if MISSING_DATE not in line] == []
