"""The keys of `zkdns top`: views, order, and the filter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.cli.top_state import SORTS, VIEWS, KeyDecoder, TopState


def after(*reads: str | bytes) -> TopState:
    """The state after these reads from the keyboard."""
    state, decoder = TopState(), KeyDecoder()
    for read in reads:
        state.press(decoder.keys(read.encode() if isinstance(read, str) else read))
    return state


@pytest.mark.parametrize(
    ("typed", "view"),
    [
        ("2", "services"),
        ("4", "names"),
        ("41", "overview"),
        ("\t\t", "upstreams"),
        ("\x1b[Z", "names"),
        ("\x1b[C\x1bOC\x1b[D", "services"),
        ("\x1b[A\x1b[1;5C9x", "overview"),
    ],
)
def test_keys_change_the_view(typed: str, view: str) -> None:
    assert after(typed).view == view


def test_each_view_has_its_own_order() -> None:
    state = after("2s")
    assert state.sort == "members"
    state.press("3")
    assert state.sort == "queries/s"
    state.press(["2", *"s" * (len(SORTS["services"]) - 1)])
    assert state.sort == "queries/s"


def test_the_filter_is_edited_until_enter_or_escape() -> None:
    state = after("2/qeb\x7f\x7f\x7fWeb p")
    assert (state.is_editing, state.words, state.has_ended) == (True, "Web p", False)
    assert state.selects("my-web.prod")
    assert not state.selects("web.staging")
    state.press("\r")
    assert (state.is_editing, state.words) == (False, "Web p")
    state.press("q")
    assert state.has_ended
    for typed in (("2/web", "\x1b"), ("2/web\r", "\x1b"), ("2/web\x15",)):
        assert after(*typed).words == ""
    assert after("2/é", b"\xc3", b"\xbc").words == "éü"
    assert not after("/").is_editing  # the overview has no names


def test_help_ends_with_the_same_key_escape_or_a_view() -> None:
    assert after("?").has_help
    for end in ("?", "\x1b", "2"):
        assert not after("?", end).has_help


@given(st.lists(st.binary(max_size=8)))
def test_no_bytes_are_an_error(reads: list[bytes]) -> None:
    state = after(*reads)
    assert state.view in VIEWS
    assert state.words.isprintable()
