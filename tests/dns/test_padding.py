"""Padding of responses over TLS."""

from __future__ import annotations

import dns.edns
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.dns.padding import BLOCK, pad, wants_padding

NAME = "web.staging.discovery."
PADDING = dns.edns.GenericOption(dns.edns.OptionType.PADDING, b"")
COOKIE = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"\0\0\x29" * 8)


def query(**options: object) -> bytes:
    """A query after its id."""
    return dns.message.make_query(NAME, "A", **options).to_wire()[2:]  # type: ignore[arg-type]


def response(texts: int = 0, **edns: object) -> bytes:
    """A response after its id with this number of TXT records."""
    made = dns.message.make_response(dns.message.make_query(NAME, "TXT"))
    if texts:
        made.answer.append(dns.rrset.from_text(NAME, 5, "IN", "TXT", *(f"{n:0200}" for n in range(texts))))
    if edns:
        made.use_edns(**edns)  # type: ignore[arg-type]
    return made.to_wire(max_size=65535)[2:]


def parsed(body: bytes) -> dns.message.Message:
    return dns.message.from_wire(bytes(2) + body)


def test_dns_41_queries_with_the_padding_option_are_recognized() -> None:
    assert wants_padding(query(use_edns=0, pad=128))
    assert wants_padding(query(use_edns=0, options=[COOKIE, PADDING]))
    assert wants_padding(query(use_edns=0, options=[PADDING]) + b"trailing")
    assert not wants_padding(query(use_edns=0, options=[COOKIE]))
    assert not wants_padding(query(use_edns=0))
    assert not wants_padding(query(use_edns=False))


@given(st.binary(max_size=80), st.integers(0, 60))
def test_any_bytes_are_no_query_with_padding_or_one(data: bytes, cut: int) -> None:
    assert wants_padding(data) in {True, False}
    assert wants_padding(query(use_edns=0, pad=128)[:cut] + data) in {True, False}


@pytest.mark.parametrize("texts", [0, 1, 2, 30])
@pytest.mark.parametrize(
    "options", [[], [COOKIE], [dns.edns.GenericOption(dns.edns.OptionType.NSID, b"identity"), COOKIE]]
)
def test_dns_41_lengths_are_multiples_of_a_block(texts: int, options: list[dns.edns.Option]) -> None:
    before = response(texts, edns=0, options=options)
    padded = pad(before)
    assert (2 + len(padded)) % BLOCK == 0
    assert len(padded) - len(before) < BLOCK + 4
    old, new = parsed(before), parsed(padded)
    assert new.answer == old.answer
    assert [option.otype for option in new.options] == [*(option.otype for option in old.options), 12]


def test_dns_41_all_lengths_up_to_a_block_become_the_same() -> None:
    lengths = {
        len(pad(response(edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.NSID, b"x" * n)])))
        for n in range(400)
    }
    assert lengths == {BLOCK - 2}


def test_dns_41_a_response_without_an_opt_record_or_room_stays() -> None:
    assert pad(response(1)) == response(1)
    long = response(300, edns=0)
    room = 65_535 - 2 - len(long)
    nearly = response(
        300, edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.NSID, bytes(room - 4 - 10))]
    )
    assert len(pad(nearly)) == 65_535 - 2
    full = response(
        300, edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.NSID, bytes(room - 4 - 3))]
    )
    assert pad(full) == full
