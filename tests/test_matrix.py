"""Each rule in dns-compliance.md has tests named after its number, and each such test has a rule."""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "zkdns" / "docs" / "dns-compliance.md").read_text(encoding="utf-8")

_ROW = re.compile(
    r"^\| (\d+) \| (?P<rule>[^|]+) \|(?: (?P<rfcs>[\d, ]+))? \| (?P<directories>[^|]+) \|$", re.MULTILINE
)
_TEST = re.compile(r"^def test_dns_(\w+)\(", re.MULTILINE)


class Row(NamedTuple):
    """A row of the page: the number of a rule, and the directories of its tests."""

    number: int
    directories: list[str]


def rows() -> list[Row]:
    return [Row(int(row[1]), re.findall(r"`(\w+)`", row["directories"])) for row in _ROW.finditer(PAGE)]


def directories_by_number() -> dict[int, set[str]]:
    """Directories of the tests with a rule number, by number."""
    found: dict[int, set[str]] = defaultdict(set)
    for file in TESTS.rglob("test_*.py"):
        for name in _TEST.findall(file.read_text(encoding="utf-8")):
            number, _, sentence = name.partition("_")
            assert re.fullmatch(r"\d\d", number), f"{file}: test_dns_{name} has no number of two digits"
            assert sentence, f"{file}: test_dns_{name} does not say what holds"
            found[int(number)].add(file.relative_to(TESTS).parts[0])
    return found


def test_each_rule_has_tests_and_each_test_has_its_rule() -> None:
    numbers = [row.number for row in rows()]
    assert numbers, "the page has no rules"
    assert numbers == sorted(set(numbers)), "rules must be in order, each once"
    tested = directories_by_number().keys()
    assert sorted(tested - set(numbers)) == [], "there are tests of rules that the page does not have"
    assert sorted(set(numbers) - tested) == [], "there are rules without a test"


def test_the_tests_of_a_rule_are_in_the_listed_directories() -> None:
    found = directories_by_number()
    assert [
        (row.number, directory)
        for row in rows()
        for directory in row.directories
        if directory not in found[row.number]
    ] == []
    assert [row.number for row in rows() if not row.directories] == []
