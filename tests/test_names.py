from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.errors import BadValueError
from zkdns.names import MAX_NAME, Labels, check_name, lower, parse_name, to_text, to_wire, wire_length

LABELS = st.lists(st.binary(min_size=1, max_size=63), max_size=8).map(tuple)
NAMES = LABELS.filter(lambda name: wire_length(name) <= MAX_NAME)
LONGEST = (b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61)

READ: list[tuple[str, Labels]] = [
    ("", ()),
    (".", ()),
    ("web", (b"web",)),
    ("web.staging.discovery", (b"web", b"staging", b"discovery")),
    ("web.staging.discovery.", (b"web", b"staging", b"discovery")),
    ("Web.STAGING", (b"Web", b"STAGING")),
    (r"a\.b.c", (b"a.b", b"c")),
    (r"a\.", (b"a.",)),
    (r"a\046b", (b"a.b",)),
    (r"\000\255", (b"\x00\xff",)),
    (r"a\\b", (b"a\\b",)),
    ("müller", ("müller".encode(),)),
    ("_http._tcp.web", (b"_http", b"_tcp", b"web")),
    ("a" * 63, (b"a" * 63,)),
]

REFUSED = [
    ("..", "an empty label"),
    (".web", "an empty label"),
    ("web..staging", "an empty label"),
    ("web..", "an empty label"),
    ("a" * 64, "64 bytes"),
    ("ü" * 32, "64 bytes"),
    (".".join(["a" * 63] * 4), "257 bytes"),
    ("a\\", "a backslash"),
    (r"a\25", "a backslash"),
    (r"a\256", "a backslash"),
    (r"a\2x5", "a backslash"),
    ("a\udcff", "not UTF-8"),
]


@pytest.mark.parametrize(("text", "name"), READ)
def test_a_name_is_parsed_into_labels(text: str, name: Labels) -> None:
    assert parse_name(text) == name


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_an_invalid_name_is_rejected_with_reason_and_text(text: str, why: str) -> None:
    with pytest.raises(BadValueError) as refusal:
        parse_name(text)
    assert why in str(refusal.value)
    assert repr(text) in str(refusal.value)


@given(NAMES)
def test_the_text_form_parses_to_the_same_name(name: Labels) -> None:
    assert parse_name(to_text(name)) == name


@given(NAMES)
def test_the_text_form_is_ascii_without_spaces(name: Labels) -> None:
    assert to_text(name).isascii()
    assert not any(character.isspace() for character in to_text(name))


@given(st.text(st.characters(), max_size=300))
def test_any_text_is_a_valid_name_or_an_error(text: str) -> None:
    try:
        name = parse_name(text)
    except BadValueError:
        return
    check_name(name)


@given(LABELS)
def test_wire_length_is_the_length_on_the_wire(name: Labels) -> None:
    assert len(to_wire(name)) == wire_length(name)


def test_the_wire_form_has_length_bytes_and_a_final_zero() -> None:
    assert to_wire((b"web", b"discovery")) == b"\x03web\x09discovery\x00"
    assert to_wire(()) == b"\x00"


def test_the_longest_name_takes_255_bytes() -> None:
    check_name(LONGEST)
    assert wire_length(LONGEST) == 255
    with pytest.raises(BadValueError, match="256 bytes"):
        check_name((*LONGEST[:3], b"d" * 62))


def test_without_text_the_error_shows_the_name() -> None:
    with pytest.raises(BadValueError, match=r"'a\.\.b' is not a domain name: it has an empty label"):
        check_name((b"a", b"", b"b"))


def test_only_ascii_letters_are_folded() -> None:
    assert lower((b"WeB-9", "Ü".encode())) == (b"web-9", "Ü".encode())
