"""EDNS options of clients, and the options of the responses."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import dns.edns
import dns.message
import dns.rcode
import pytest

from tests.dns.helpers import Server, ask, data, ede, encode_query, many, query, rcode, read
from zkdns.config import AccessSettings
from zkdns.dns.answer_source import AnswerSources
from zkdns.dns.cookies import Cookies
from zkdns.dns.edns import pack_option
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.message import end_of_question
from zkdns.dns.query_codec import QueryCodec
from zkdns.dns.refusals import ErrorResponder, refused_response, truncated_response
from zkdns.transport.codecs import TcpCodec, UdpCodec
from zkdns.transport.contract import PerClientResponse, for_client

WEB = "web.staging.discovery"
CLIENT = bytes.fromhex("2464c4abcf10c957")
COOKIES = Cookies(bytes(range(16)), lambda: 1_559_731_985.0, is_shared=True)
HERE, THERE = b"\xc6\x33\x64\x64", bytes.fromhex("20010db8") + bytes(12)
NSID, COOKIE, KEEPALIVE = 3, 10, 11


def option(code: int, content: bytes = b"") -> dns.edns.Option:
    return dns.edns.GenericOption(dns.edns.OptionType.make(code), content)


def cookie_for(address: bytes = HERE) -> bytes:
    return CLIENT + COOKIES.make(CLIENT, address)


@pytest.fixture
def server() -> Server:
    made = Server({"web.staging": many(3)}, access=AccessSettings(rate_limit=1))
    made.responder.edns_options = EdnsOptions(b"ns1.example", 12.5, COOKIES, for_client)
    return made


def response_to(
    server: Server, message: bytes, *, stream: bool = False, address: bytes = HERE
) -> dns.message.Message:
    """The response to a message from this address."""
    codec: QueryCodec = TcpCodec if stream else UdpCodec
    answers = server.streams if stream else server.datagrams
    return finished(codec, message, next(answers[codec.key(message[2:])]), address)


def finished(codec: QueryCodec, message: bytes, response: bytes, address: bytes) -> dns.message.Message:
    if isinstance(response, PerClientResponse):
        assert not response  # so that no transport sends it as a response
        response = response.for_address(address)
    return read(UdpCodec.message(message, response) if codec is UdpCodec else message[:2] + response)


def with_options(*options: dns.edns.Option, name: str = WEB, **how: Any) -> bytes:
    """A query with these EDNS options."""
    return query(name, how.pop("qtype", "A"), edns=how.pop("edns", 0), options=options, **how).to_wire()


def options_of(response: dns.message.Message) -> dict[int, bytes]:
    return {int(option.otype): option.to_wire() or b"" for option in response.options}


@pytest.fixture(params=[False, True], ids=["udp", "tcp"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# -- cookies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "qtype", "code"),
    [
        (WEB, "A", "NOERROR"),
        (WEB, "SRV", "NOERROR"),
        (WEB, "MX", "NOERROR"),
        ("discovery", "SOA", "NOERROR"),
        ("no.staging.discovery", "A", "NXDOMAIN"),
        ("www.example", "A", "REFUSED"),
        (WEB, "AXFR", "REFUSED"),
    ],
)
def test_dns_23_every_response_to_a_client_cookie_has_a_server_cookie(
    server: Server, name: str, qtype: str, code: str, stream: bool
) -> None:
    for address, shown in itertools.product((HERE, THERE), (CLIENT, cookie_for(), CLIENT + bytes(32))):
        message = with_options(option(COOKIE, shown), name=name, qtype=qtype)
        response = response_to(server, message, stream=stream, address=address)
        assert rcode(response) == code
        assert options_of(response)[COOKIE] == cookie_for(address)
        plain = response_to(server, with_options(name=name, qtype=qtype), stream=stream)
        assert [len(section) for section in response.sections[1:3]] == [
            len(section) for section in plain.sections[1:3]
        ]
        assert COOKIE not in options_of(plain)


def test_dns_23_each_client_gets_its_own_cookie_from_one_cache_entry(server: Server, stream: bool) -> None:
    cache = server.streams if stream else server.datagrams
    clients = [bytes(8), CLIENT, *(bytes((number,)) * 8 for number in range(8)), bytes(8)]
    for client, address in itertools.product(clients, (HERE, THERE)):
        response = response_to(server, with_options(option(COOKIE, client)), stream=stream, address=address)
        assert options_of(response) == {COOKIE: client + COOKIES.make(client, address)}
        assert len(data(response)) == 3
    assert (len(cache), cache.misses) == (1, 1)


def test_dns_23_members_rotate_with_and_without_cookies(
    server: Server,
) -> None:
    leaders = []
    for number in range(6):
        options = [option(COOKIE, CLIENT)] if number % 2 else []
        leaders.append(data(response_to(server, with_options(*options)))[0])
    assert sorted(leaders[:3]) == sorted(leaders[3:]) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


@pytest.mark.parametrize("size", [0, 7, 9, 15, 41, 200])
def test_dns_23_a_malformed_cookie_is_formerr(server: Server, size: int, stream: bool) -> None:
    response = response_to(server, with_options(option(COOKIE, bytes(size))), stream=stream)
    assert (rcode(response), response.edns, response.options) == ("FORMERR", 0, ())
    assert len(response.question) == 1


@pytest.mark.parametrize("size", [8, 16, 24, 40])
def test_dns_23_a_cookie_of_every_legal_length_is_answered(server: Server, size: int) -> None:
    assert rcode(response_to(server, with_options(option(COOKIE, bytes(size))))) == "NOERROR"


def test_dns_23_of_several_cookies_the_first_counts(server: Server) -> None:
    response = response_to(server, with_options(option(COOKIE, CLIENT), option(COOKIE, bytes(3))))
    assert options_of(response) == {COOKIE: cookie_for()}
    assert (
        rcode(response_to(server, with_options(option(COOKIE, bytes(3)), option(COOKIE, CLIENT))))
        == "FORMERR"
    )


def test_dns_23_with_cookies_off_the_option_is_ignored(server: Server, stream: bool) -> None:
    server.responder.edns_options = EdnsOptions()
    response = response_to(server, with_options(option(COOKIE, CLIENT)), stream=stream)
    assert (len(data(response)), response.edns, response.options) == (3, 0, ())
    assert rcode(response_to(server, without_question(CLIENT), stream=stream)) == "FORMERR"


def without_question(*cookies: bytes, edns: int = 0) -> bytes:
    """A query without a question."""
    message = dns.message.Message(id=4711)
    message.use_edns(edns, 0, 1232, options=[option(COOKIE, cookie) for cookie in cookies])
    return message.to_wire()


@pytest.mark.parametrize(
    ("cookie", "code"),
    [
        (CLIENT, "NOERROR"),
        (cookie_for(), "NOERROR"),
        (cookie_for(THERE), "BADCOOKIE"),
        (CLIENT + bytes(8), "BADCOOKIE"),
    ],
)
def test_dns_23_a_cookie_can_be_requested_without_a_question(
    server: Server, cookie: bytes, code: str, stream: bool
) -> None:
    response = response_to(server, without_question(cookie), stream=stream)
    assert (rcode(response), response.question) == (code, [])
    assert options_of(response) == {COOKIE: cookie_for()}
    assert not any(response.sections)


def test_dns_04_neither_question_nor_cookie_is_formerr(server: Server, stream: bool) -> None:
    assert rcode(response_to(server, without_question(), stream=stream)) == "FORMERR"
    assert rcode(response_to(server, bytes(12), stream=stream)) == "FORMERR"
    assert rcode(response_to(server, without_question(bytes(9)), stream=stream)) == "FORMERR"


def test_dns_18_another_edns_version_with_a_cookie_is_badvers(server: Server) -> None:
    assert rcode(response_to(server, without_question(CLIENT, edns=1))) == "BADVERS"


@pytest.mark.parametrize("codec", [UdpCodec, TcpCodec], ids=["udp", "tcp"])
@pytest.mark.parametrize("what", [refused_response, truncated_response], ids=["refusal", "truncation"])
def test_dns_23_rejected_clients_get_a_cookie_too(server: Server, codec: QueryCodec, what: Any) -> None:
    """A client that has received a cookie drops responses without one (RFC 7873 §5.3)."""
    responder = ErrorResponder(codec, what, server.responder.edns_options, AnswerSources())
    message = with_options(option(COOKIE, CLIENT))
    response = finished(codec, message, next(responder[codec.key(message[2:])]), HERE)
    assert options_of(response)[COOKIE] == cookie_for()
    assert len(response.to_wire()) <= len(message) + 16 + 6


def test_dns_23_a_valid_cookie_proves_the_clients_address(server: Server) -> None:
    for codec in (UdpCodec, TcpCodec):
        verifying, without_cookies = (
            ErrorResponder(codec, refused_response, options, AnswerSources())
            for options in (server.responder.edns_options, EdnsOptions())
        )
        key = codec.key(with_options(option(COOKIE, cookie_for()))[2:])
        assert verifying.has_valid_cookie(key, HERE)
        assert not verifying.has_valid_cookie(key, THERE)
        assert not without_cookies.has_valid_cookie(key, HERE)
        for message in (
            with_options(),
            with_options(option(COOKIE, CLIENT)),
            query(WEB).to_wire(),
            b"",
            b"\xff" * 40,
        ):
            assert not verifying.has_valid_cookie(codec.key(message[2:]), HERE)


# -- the response cache --------------------------------------------------------------------------------------


def test_options_that_change_nothing_share_the_entry_of_a_query_without_options(
    server: Server, stream: bool
) -> None:
    cache = server.streams if stream else server.datagrams
    server.responder.edns_options = EdnsOptions()
    for number in range(20):
        for options in (
            [],
            [option(8, bytes((0, 1, 24, 0, 10, 0, number)))],  # a client subnet
            [option(12, bytes(number))],  # padding
            [option(COOKIE, bytes((number,)) * 8), option(NSID)],
            [option(65001, b"\0\0\x29" + bytes(8)), option(65002, bytes((number,)))],
            [option(65001, b"\0\0\x29" + bytes(8))],  # it ends like an OPT record without options
        ):
            response = response_to(server, with_options(*options), stream=stream)
            assert (len(data(response)), response.options) == (3, ())
    assert (len(cache), cache.misses) == (1, 1)


def test_options_that_change_the_response_have_entries_of_their_own(server: Server, stream: bool) -> None:
    cache = server.streams if stream else server.datagrams
    for number in range(5):
        for name in (WEB, WEB.upper()):
            cookie = option(COOKIE, bytes((number,)) * 8)
            for options in ([cookie], [option(NSID), cookie], [cookie, option(65001), option(NSID)]):
                found = options_of(response_to(server, with_options(*options, name=name), stream=stream))
                assert (NSID in found) == (len(options) > 1)
                assert found[COOKIE][:8] == bytes((number,)) * 8
    assert len(cache) == 2


@pytest.mark.parametrize("position", range(-30, 0, 3))
def test_similar_queries_get_their_own_responses(position: int, stream: bool) -> None:
    """Each has a byte more, a byte less, or another byte than a query with a cached response."""
    whole = with_options(option(COOKIE, CLIENT))
    server, other = (
        Server({"web.staging": many(3)}, order="fixed"),
        Server({"web.staging": many(3)}, order="fixed"),
    )
    for each in (server, other):
        each.responder.edns_options = EdnsOptions(b"ns1.example", 12.5, COOKIES, for_client)
    for changed in (
        whole[:position] + whole[position + 1 :],
        whole[:position] + b"\0" + whole[position:],
        whole[:position] + bytes((whole[position] ^ 1,)) + whole[position + 1 :],
    ):
        for _ in range(2):
            assert server.respond(whole, stream=stream)
        other.authority.forget_all()
        assert server.respond(changed, stream=stream) == other.respond(changed, stream=stream)


@pytest.mark.parametrize(
    ("code", "size", "limit"),
    [(COOKIE, 8, 8), (COOKIE, 24, 8), (8, 7, 4), (8, 11, 4)],  # the hash of a cookie takes 1
    ids=["client cookie", "server cookie", "IPv4 subnet", "IPv6 subnet"],
)
def test_an_option_with_new_data_in_each_query_takes_few_calls(code: int, size: int, limit: int) -> None:
    """Cookies and subnets are common, and parsing each of these queries would double its time."""
    server = Server({"web.staging": many(3)})
    cookies = Cookies(bytes(16), lambda: 1.6e9, is_shared=False)
    server.responder.edns_options = EdnsOptions(b"", 10.0, cookies, for_client)
    first, second, third = (
        UdpCodec.key(with_options(option(code, bytes((number,)) * size))[2:]) for number in (1, 2, 3)
    )

    def answer(key: bytes) -> bytes:
        response = next(server.datagrams[key])
        return response.for_address(HERE) if isinstance(response, PerClientResponse) else response

    assert answer(first)
    assert answer(second)
    assert calls_of(lambda: answer(third)) - 1 <= limit


# -- NSID and keepalive -------------------------------------------------------------------------------------


def calls_of(work: Callable[[], object]) -> int:
    """The number of calls of Python functions, which take most of the time of a short piece of work."""
    count = 0

    def on_event(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count - 1  # without `work` itself


@pytest.mark.parametrize(
    ("code", "content"),
    [(COOKIE, CLIENT), (COOKIE, cookie_for()), (8, bytes((0, 1, 24, 0, 192, 0, 2))), (12, bytes(20))],
    ids=["client cookie", "server cookie", "client subnet", "padding"],
)
def test_a_cached_query_with_options_takes_few_calls(code: int, content: bytes) -> None:
    """To parse and answer a query takes some 100 calls; a hit without options takes none."""
    server = Server({"web.staging": many(3)})
    server.responder.edns_options = EdnsOptions(b"", 10.0, COOKIES, for_client)
    cache = server.datagrams
    key = UdpCodec.key(with_options(option(code, content))[2:])

    def answer() -> bytes:
        response = next(cache[key])
        return response.for_address(HERE) if isinstance(response, PerClientResponse) else response

    assert calls_of(answer) > 50
    assert answer()
    assert calls_of(answer) <= 7
    if code != COOKIE:
        assert calls_of(answer) == 1  # the same bytes again


def test_a_name_with_the_start_of_an_opt_record_is_no_opt_record(server: Server, stream: bool) -> None:
    """The cache first guesses where the OPT record of a query is. Labels may contain any bytes."""
    name = (b"\0\0\x29" + bytes(16), *(label.encode() for label in WEB.split(".")))
    codec: QueryCodec = TcpCodec if stream else UdpCodec
    cache = server.streams if stream else server.datagrams
    plain = encode_query(name, edns=0)[2:]
    expected = next(cache[codec.key(plain)])
    for padding in (b"", b"\0", b"\0\0\x29" + bytes(9)):
        padded = encode_query(name, edns=0, options=pack_option(12, padding))[2:]
        assert next(cache[codec.key(padded)]) == expected
        assert server.responder.edns_options.separate(padded, padded.find(b"\0\0\x29"), stream=stream) is None
        separated = server.responder.edns_options.separate(padded, end_of_question(padded), stream=stream)
        assert separated is not None
        assert separated.query == plain


def test_nsid_is_returned_on_request(server: Server, stream: bool) -> None:
    for content in (b"", b"whatever"):  # RFC 5001 §2.1: its data is ignored
        response = response_to(server, with_options(option(NSID, content)), stream=stream)
        assert options_of(response) == {NSID: b"ns1.example"}
    assert response_to(server, with_options(), stream=stream).options == ()
    assert response_to(server, query(WEB).to_wire(), stream=stream).edns == -1
    server.responder.edns_options = EdnsOptions()
    server.authority.forget_all()
    assert response_to(server, with_options(option(NSID)), stream=stream).options == ()


def test_dns_29_keepalive_returns_the_idle_time_over_tcp_only(server: Server) -> None:
    response = response_to(server, with_options(option(KEEPALIVE)), stream=True)
    assert options_of(response) == {KEEPALIVE: b"\0\x7d"}  # in tenths of a second (RFC 7828 §3.1)
    assert response_to(server, with_options(option(KEEPALIVE)), stream=False).options == ()
    assert response_to(server, with_options(), stream=True).options == ()


def test_dns_29_keepalive_with_a_time_is_formerr_over_tcp_and_ignored_over_udp(server: Server) -> None:
    response = response_to(server, with_options(option(KEEPALIVE, b"\0\1")), stream=True)
    assert (rcode(response), response.edns) == ("FORMERR", 0)
    assert rcode(response_to(server, with_options(option(KEEPALIVE, b"\0\1")), stream=False)) == "NOERROR"


def test_dns_19_unknown_options_are_ignored(server: Server, stream: bool) -> None:
    unknown = [option(65001, b"x" * 9), option(NSID), option(65002), option(COOKIE, CLIENT), option(8, b"")]
    response = response_to(server, with_options(*unknown), stream=stream)
    assert options_of(response) == {NSID: b"ns1.example", COOKIE: cookie_for()}


@pytest.mark.parametrize("size", [0, 512, 600, 1232])
@pytest.mark.parametrize("labels", [1, 27])
def test_dns_21_no_response_with_all_options_is_too_long(size: int, labels: int) -> None:
    name = ".".join(["longestname"[:7]] * labels + [WEB])
    server = Server({"web.staging": many(100), name.removesuffix(".discovery"): many(100)})
    server.responder.edns_options = EdnsOptions(b"n" * 64, 10.0, COOKIES, for_client)
    server.authority.set_health(ready=True, stale=True)
    for qtype in ("A", "SRV", "MX", "TXT"):
        for denied in ("", "x"):
            message = with_options(
                option(NSID), option(COOKIE, CLIENT), name=denied + name, qtype=qtype, size=size
            )
            response = response_to(server, message)
            assert len(response.to_wire()) <= max(size, 512)
            found = options_of(response)
            assert (found[NSID], found[COOKIE]) == (b"n" * 64, cookie_for())


def test_dns_26_an_extended_error_comes_with_other_options(server: Server) -> None:
    server.authority.set_health(ready=True, stale=True)
    response = response_to(server, with_options(option(COOKIE, CLIENT)))
    assert ede(response) == [3]
    assert options_of(response)[COOKIE] == cookie_for()
    # The cookie is at the end, and the transport fills it in.
    assert [int(each.otype) for each in response.options] == [15, COOKIE]


# -- the server's identity ----------------------------------------------------------------------------------

IDENTITY, VERSION = ("id.server", "hostname.bind", "ID.Server"), ("version.server", "version.bind")


@pytest.mark.parametrize("name", [*IDENTITY, *VERSION])
def test_dns_06_the_identity_is_disclosed_by_setting_only(name: str, stream: bool) -> None:
    silent = ask(Server(), name, "TXT", qclass="CH", stream=stream)
    assert (rcode(silent), data(silent)) == ("REFUSED", [])
    telling = Server(identity="ns1.exämple", show_version=True)
    told_it = ask(telling, name, "TXT", qclass="CH", edns=0, stream=stream)
    text = '"zkdns 0.1.0"' if name in VERSION else '"ns1.ex\\195\\164mple"'
    assert (rcode(told_it), data(told_it), told_it.options) == ("NOERROR", [text], ())
    assert told_it.answer[0].ttl == 0
    one = Server(identity="ns1") if name in IDENTITY else Server(show_version=True)
    other = Server(show_version=True) if name in IDENTITY else Server(identity="ns1")
    assert rcode(ask(one, name, "ANY", qclass="CH")) == "NOERROR"
    assert rcode(ask(other, name, "TXT", qclass="CH")) == "REFUSED"


@pytest.mark.parametrize(
    ("name", "qtype", "qclass"),
    [
        ("authors.bind", "TXT", "CH"),
        ("version.bind", "A", "CH"),
        ("x.version.bind", "TXT", "CH"),
        ("bind", "TXT", "CH"),
        (WEB, "A", "CH"),
        ("version.bind", "TXT", "HS"),
        ("id.server", "TXT", "IN"),
    ],
)
def test_dns_06_all_else_outside_class_in_is_refused(name: str, qtype: str, qclass: str) -> None:
    server = Server({"web.staging": many(3)}, identity="ns1", show_version=True)
    assert rcode(ask(server, name, qtype, qclass=qclass)) == "REFUSED"


# -- extended errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "qtype", "qclass", "codes"),
    [
        (WEB, "AXFR", "IN", [21]),
        (WEB, "IXFR", "IN", [21]),
        (WEB, "A", "CH", [21]),
        ("www.example", "A", "IN", [20]),
        ("no.staging.discovery", "A", "IN", []),
        (WEB, "A", "IN", []),
    ],
)
def test_dns_26_a_refusal_has_an_extended_error_with_edns(
    name: str, qtype: str, qclass: str, codes: list[int]
) -> None:
    server = Server({"web.staging": many(3)})
    assert ede(ask(server, name, qtype, qclass=qclass, edns=0)) == codes
    assert ask(server, name, qtype, qclass=qclass).edns == -1
