"""The rules in dns-compliance.md and the tests named after their numbers match."""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "zkdns" / "docs" / "dns-compliance.md").read_text(encoding="utf-8")

_ROW = re.compile(
    r"^\| (\d+) \| (?P<rule>[^|]+) \|(?: (?P<rfcs>[\d, ]+))? \| (?P<rooms>[^|]+) \|$", re.MULTILINE
)
_TEST = re.compile(r"^def test_dns_(\w+)\(", re.MULTILINE)


class Row(NamedTuple):
    """A row of the page: the number of a rule, and the directories of its tests."""

    number: int
    rooms: list[str]


def rows() -> list[Row]:
    return [Row(int(row[1]), re.findall(r"`(\w+)`", row["rooms"])) for row in _ROW.finditer(PAGE)]


def rooms_by_number() -> dict[int, set[str]]:
    """The rooms of all tests that carry a number."""
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
    assert numbers == sorted(set(numbers)), "rules stand in their order, each once"
    tested = rooms_by_number().keys()
    assert sorted(tested - set(numbers)) == [], "there are tests of rules that the page does not have"
    assert sorted(set(numbers) - tested) == [], "there are rules without a test"


def test_the_tests_of_a_rule_are_in_the_listed_directories() -> None:
    found = rooms_by_number()
    assert [(row.number, room) for row in rows() for room in row.rooms if room not in found[row.number]] == []
    assert [row.number for row in rows() if not row.rooms] == []
