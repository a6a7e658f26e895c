"""Searches of the whole table, in pieces."""

import asyncio
import difflib

from hypothesis import given
from hypothesis import strategies as st

from zkdns.daemon.explain.searches import MAX_COMPARED, ServicesBelow, SimilarNames

WORDS = st.text("abcde.", max_size=8)


@given(WORDS, st.lists(WORDS, unique=True))
def test_similar_names_are_those_of_difflib(text: str, names: list[str]) -> None:
    found = asyncio.run(SimilarNames(text, names, str).run())
    assert list(found) == difflib.get_close_matches(text, names)


def test_a_limited_number_of_names_is_compared() -> None:
    """Names that cannot be similar do not count, and neither do those without a name."""
    names = ["other"] * 10 + ["xyz"] * MAX_COMPARED + ["we"] * MAX_COMPARED + ["web"]

    def name_of(name: str) -> str | None:
        return None if name == "other" else name

    assert asyncio.run(SimilarNames("web", names, name_of).run()) == ("we",) * 3
    assert asyncio.run(SimilarNames("web", [*names[:-2], "web"], name_of).run())[0] == "web"


def test_services_below_a_name_are_counted_and_the_first_ones_returned() -> None:
    keys = [(b"%d" % number, b"staging") for number in range(9, 0, -1)] + [(b"0", b"prod")]
    assert asyncio.run(ServicesBelow((b"staging",), keys).run()) == (9, tuple(sorted(keys[:9])[:3]))
    assert asyncio.run(ServicesBelow((b"qa",), keys).run()) == (0, ())
