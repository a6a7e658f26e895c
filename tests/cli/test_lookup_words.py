"""The words of `zkdns lookup`: server, names and types, and the names to query for each."""

import pytest

from zkdns.cli.lookup_words import names_to_try, parse_words
from zkdns.errors import BadValueError
from zkdns.names import to_text
from zkdns.namespace import parse_namespace
from zkdns.resolv_conf import ResolvConf

NAMESPACES = (
    parse_namespace("/discovery/{environment}/{service}"),
    parse_namespace("/aurora/{role}/{environment}/{job}", (b"aurora",)),
)
A, PTR, AAAA, SRV = 1, 12, 28, 33


@pytest.mark.parametrize(
    ("words", "questions"),
    [
        ("web.staging", [("web.staging", A)]),
        ("web.staging srv", [("web.staging", SRV)]),
        ("web.staging A Aaaa SRV", [("web.staging", A), ("web.staging", AAAA), ("web.staging", SRV)]),
        ("web.staging web.prod AAAA", [("web.staging", A), ("web.prod", AAAA)]),
        ("web.staging TYPE65280 /discovery/prod/web", [("web.staging", 65280), ("/discovery/prod/web", A)]),
        # The first word is a name, also if it is spelled as a type; with a dot, each word is.
        ("a", [("a", A)]),
        ("srv a", [("srv", A)]),
        ("web.staging a.staging a", [("web.staging", A), ("a.staging", A)]),
        ("web.staging a. a", [("web.staging", A), ("a.", A)]),
        ("10.0.0.1", [("10.0.0.1", PTR)]),
        ("[2001:db8::1]:80 A", [("[2001:db8::1]:80", A)]),
        (".", [(".", A)]),
    ],
)
def test_words_are_names_with_types(words: str, questions: list[tuple[str, int]]) -> None:
    parsed = parse_words(words.split(), ())
    assert [(question.text, question.qtype) for question in parsed.questions] == questions
    assert parsed.server is None


@pytest.mark.parametrize(
    ("word", "server"),
    [
        ("@127.0.0.1", "127.0.0.1:53"),
        ("@127.0.0.1:5300", "127.0.0.1:5300"),
        ("@::1", "[::1]:53"),
        ("@[::1]:5300", "[::1]:5300"),
        ("@localhost", "localhost:53"),
    ],
)
@pytest.mark.parametrize("words", ["{} web.staging SRV", "web.staging {} SRV", "web.staging SRV {}"])
def test_the_server_may_stand_anywhere(words: str, word: str, server: str) -> None:
    parsed = parse_words(words.format(word).split(), ())
    assert str(parsed.server) == server
    assert [(question.text, question.qtype) for question in parsed.questions] == [("web.staging", SRV)]


def test_addresses_of_the_option_come_first() -> None:
    parsed = parse_words(["web.staging"], ["10.0.0.1", "::1"])
    assert [question.text for question in parsed.questions] == ["10.0.0.1", "::1", "web.staging"]
    assert [question.qtype for question in parsed.questions] == [PTR, PTR, A]


@pytest.mark.parametrize(
    ("words", "addresses", "error"),
    [
        ("", (), "there is no name; write NAME, such as web.staging, or -x ADDRESS"),
        ("@127.0.0.1", (), "there is no name"),
        ("@ web.staging", (), "'@' names no server; write @ADDRESS or @ADDRESS:PORT, such as @127.0.0.1:53"),
        ("@127.0.0.1:99999 web.staging", (), "has the port '99999'"),
        ("@a @b web.staging", (), "there are 2 servers; write one @SERVER"),
        ("web.staging SVR", (), "'SVR' is not a record type (did you mean SRV?); write A, AAAA, SRV"),
        ("web.staging 7even", (), "'7even' is not a record type; write A"),
        ("web.staging SRV +short", (), "'+short' is an option of dig; zkdns lookup --help lists the options"),
        ("web.staging TYPE65536", (), "'TYPE65536' is not a record type"),
        ("web.staging api", (), "or a further name with a dot, such as web.staging"),
        ("", ("foo",), "-x: 'foo' is not an address; write an IP address, such as 10.0.0.1"),
        ("", ("web.staging",), "-x: 'web.staging' is not an address"),
        ("", ("10.0.0.1:x",), "-x: '10.0.0.1:x' has the port 'x'"),
        ("a..b", (), "'a..b' is not a domain name"),
    ],
)
def test_other_words_are_errors_with_what_is_accepted(
    words: str, addresses: tuple[str, ...], error: str
) -> None:
    with pytest.raises(BadValueError) as refusal:
        parse_words(words.split(), addresses)
    assert error in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "search", "options", "names"),
    [
        ("web.staging", (), (), ["web.staging.discovery", "web.staging.aurora", "web.staging"]),
        ("web.staging.discovery.", ("example.com",), (), ["web.staging.discovery"]),
        (
            "Web.Staging.DISCOVERY",
            ("example.com",),
            (),
            ["Web.Staging.DISCOVERY", "Web.Staging.DISCOVERY.discovery", "Web.Staging.DISCOVERY.aurora"],
        ),
        (
            "web",
            ("staging.discovery", "a..b", "example.com."),
            (),
            ["web.discovery", "web.aurora", "web.staging.discovery", "web.example.com", "web"],
        ),
        ("web.x", ("y",), (), ["web.x.discovery", "web.x.aurora", "web.x", "web.x.y"]),
        ("web.x", ("y",), ("ndots:2",), ["web.x.discovery", "web.x.aurora", "web.x.y", "web.x"]),
        ("/aurora/www/prod/hello", ("y",), (), ["hello.prod.www.aurora"]),
        ("10.0.0.1:8080", ("y",), (), ["1.0.0.10.in-addr.arpa"]),
        (".", ("y",), (), [""]),
    ],
)
def test_the_names_to_query(
    text: str, search: tuple[str, ...], options: tuple[str, ...], names: list[str]
) -> None:
    (question,) = parse_words([text], ()).questions
    conf = ResolvConf(search=search, options=options)
    assert [to_text(name) for name in names_to_try(question, NAMESPACES, conf)] == names


def test_a_path_that_is_no_service_is_an_error() -> None:
    (question,) = parse_words(["/discovery/staging"], ()).questions
    with pytest.raises(BadValueError) as refusal:
        names_to_try(question, NAMESPACES, ResolvConf())
    assert "those are /discovery/{environment}/{service} or /aurora/" in str(refusal.value)
