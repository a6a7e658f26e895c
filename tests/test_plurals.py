"""Numbers of things as text."""

import pytest

from zkdns.plurals import counted


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 entries"), (1, "1 entry"), (2, "2 entries"), (1200, "1,200 entries")]
)
def test_the_noun_depends_on_the_number(number: int, expected: str) -> None:
    assert counted(number, "entry", "entries") == expected


def test_most_plurals_have_an_s() -> None:
    assert (counted(1, "member"), counted(3, "member")) == ("1 member", "3 members")
