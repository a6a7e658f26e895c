"""Queries that differ from cached ones only in the data of an option get the responses of uncached ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dns.helpers import CLIENT_ADDRESS, Server, encode_query, many
from zkdns.dns.cookies import Cookies
from zkdns.dns.edns import pack_option
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.option_forms import MAX_OPTION_FORMS, MAX_QUERY_WITH_OPTIONS, OptionForms
from zkdns.transport.contract import for_client

WEB = "web.staging.discovery"
COOKIES = Cookies(bytes(16), lambda: 1.6e9, is_shared=False)
VALID = b"clientxx" + COOKIES.make(b"clientxx", CLIENT_ADDRESS)
NSID, SUBNET, COOKIE, KEEPALIVE, PADDING, UNKNOWN = 3, 8, 10, 11, 12, 65001
# Lengths that clients send, and some that are wrong; data that looks like an option or an OPT record.
_SIZES = {
    NSID: (0, 3),
    SUBNET: (7, 11),
    COOKIE: (8, 24, 24, 16, 40, 7, 9),
    KEEPALIVE: (0, 2),
    PADDING: (0, 4, 12),
}
_DATA = (b"\0\x0a\0\x08", b"\0\0\x29\4\xd0", b"\0\x08\0\x07\0", b"\xff", b"\0", b"a")


@st.composite
def some_options(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Codes and sizes of options, in any order, perhaps repeated."""
    codes = draw(st.lists(st.sampled_from((*_SIZES, COOKIE, COOKIE, UNKNOWN)), max_size=4))
    return [(code, draw(st.sampled_from(_SIZES.get(code, (0, 4, 20))))) for code in codes]


@st.composite
def some_queries(draw: st.DrawFn) -> list[bytes]:
    """Queries in a few forms, each with other data of its options."""
    forms = draw(st.lists(some_options(), min_size=1, max_size=4))
    names = st.sampled_from((WEB, WEB.upper(), f"m1.{WEB}", f"none.{WEB}", "none.staging.discovery"))
    queries = []
    for _ in range(draw(st.integers(2, 16))):
        options = b""
        for code, size in draw(st.sampled_from(forms)):
            data = (draw(st.sampled_from(_DATA)) * size)[:size]
            options += pack_option(code, VALID if size == len(VALID) and draw(st.booleans()) else data)
        queries.append(
            encode_query(
                draw(names),
                draw(st.sampled_from(("A", "SRV"))),
                edns=draw(st.sampled_from((0, 0, 0, 0, 1))),
                do=draw(st.booleans()),
                options=options[: len(options) - draw(st.sampled_from((0, 0, 0, 0, 1)))],
            )
        )
    return queries


def server(options: EdnsOptions) -> Server:
    made = Server({WEB: many(3)}, order="fixed")
    made.responder.edns_options = options
    return made


@pytest.mark.parametrize("has_cookies", [True, False])
@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(queries=some_queries())
def test_cached_responses_equal_those_without_a_cache(
    queries: list[bytes], stream: bool, has_cookies: bool
) -> None:
    options = EdnsOptions(b"ns1", 10.0, COOKIES if has_cookies else None, for_client)
    cached, fresh = server(options), server(options)
    for query in (*queries, *queries, *reversed(queries)):
        response = cached.respond(query, stream=stream)
        answer = fresh.responder.answer(query[2:], stream=stream, encode=lambda body, _question: body)
        body: Any = next(answer.responses)
        if answer.cookie is not None:
            body = options.finish(body, answer.cookie)
        assert (response or b"")[2:] == fresh.for_address(body)


def test_a_form_is_found_at_its_place_only() -> None:
    """Two queries of one length that are equal without their data, which is at different places."""
    forms = OptionForms()
    forms.add(b"ab12cd", slice(2, 4), b"first")
    forms.add(b"abcd12", slice(4, 6), b"second")
    found = [keys.get((query := b"ab34cd")[:start] + query[end:]) for start, end, keys in forms.places[6]]
    assert found == [b"first", None]


def test_forms_take_bounded_memory() -> None:
    forms = OptionForms()
    for number in range(3 * MAX_OPTION_FORMS):
        query = b"%08d" % number + bytes(number % 90)
        forms.add_whole(query, b"key")
        forms.add(query, slice(8 + number % 7, 8 + number % 7), b"key")
        if not number % 500:
            places = [place for each in forms.places.values() for place in each]
            assert sum(len(place.keys) for place in places) <= MAX_OPTION_FORMS
            assert all(len(each) <= 4 for each in forms.places.values())
            assert len(forms.whole) <= MAX_OPTION_FORMS
    long = bytes(MAX_QUERY_WITH_OPTIONS + 1)
    forms.add_whole(long, b"key")
    forms.add(long, slice(0, 8), b"key")
    assert long not in forms.whole
    assert len(long) not in forms.places
