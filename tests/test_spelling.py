"""The spellings of services: names, paths, addresses, and what they stand for without a server."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.errors import BadValueError
from zkdns.namespace import parse_namespace
from zkdns.spelling import (
    MemberAddress,
    ServiceText,
    Spelling,
    ZnodePath,
    locate_set,
    parse_spelling,
)

DISCOVERY = parse_namespace("/discovery/{environment}/{service}")
AURORA = parse_namespace("/aurora/{role}/{environment}/{job}", (b"aurora",))
FLAT = parse_namespace("/flat/{service}", (b"flat",), "node-")
ZONES = (DISCOVERY.zone, AURORA.zone)
TEMPLATE = DISCOVERY.template
WWW = "/aurora/www/{environment}/{service}"


def named(*labels: bytes, is_absolute: bool = False) -> ServiceText:
    return ServiceText(labels, is_absolute)


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("web.staging", named(b"web", b"staging")),
        ("WEB.Staging.Discovery", named(b"web", b"staging", b"discovery")),
        ("web.staging.discovery.", named(b"web", b"staging", b"discovery", is_absolute=True)),
        ("web", named(b"web")),
        (".", named(is_absolute=True)),
        (r"a\.b.staging", named(b"a.b", b"staging")),
        ("10.0.0", named(b"10", b"0", b"0")),
        ("10.0.0.1.", named(b"10", b"0", b"0", b"1", is_absolute=True)),
        ("10.0.0.256", named(b"10", b"0", b"0", b"256")),
        ("web:http.staging", named(b"web:http", b"staging")),
        ("/discovery/staging/web", ZnodePath("/discovery/staging/web")),
        ("/discovery/Staging/Web//", ZnodePath("/discovery/Staging/Web")),
        ("/", ZnodePath("/")),
        ("10.0.0.1", MemberAddress("10.0.0.1")),
        ("10.0.0.1:8080", MemberAddress("10.0.0.1", 8080)),
        ("10.0.0.1:0", MemberAddress("10.0.0.1", 0)),
        ("2001:DB8:0::1", MemberAddress("2001:db8::1")),
        ("[2001:db8::1]", MemberAddress("2001:db8::1")),
        ("[2001:db8::1]:8080", MemberAddress("2001:db8::1", 8080)),
        ("::1:80", MemberAddress("::1:80")),
    ],
)
def test_a_text_is_a_name_a_path_or_an_address(text: str, spelling: Spelling) -> None:
    assert parse_spelling(text) == spelling


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "write"),
        ("web..staging", "an empty label"),
        (".staging", "an empty label"),
        ("a" * 64 + ".staging", "64 bytes"),
        ("web.\udcff", "not UTF-8"),
        (r"web\999.staging", "a backslash"),
        ("/discovery//web", "no empty element"),
        ("/discovery/../web", "'.' and '..'"),
        ("/discovery/\x00", "ZooKeeper rejects the character"),
        ("10.0.0.1:", "ports are 0 to 65535"),
        ("10.0.0.1:http", "the port 'http'"),
        ("10.0.0.1:65536", "the port '65536'"),
        ("[::1]:-1", "the port '-1'"),
    ],
)
def test_anything_else_is_an_error_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(BadValueError) as refusal:
        parse_spelling(text)
    assert why in str(refusal.value)


@given(st.text(max_size=20))
def test_every_text_is_a_spelling_or_an_error(text: str) -> None:
    with contextlib.suppress(BadValueError):
        spelling = parse_spelling(text)
        assert isinstance(spelling, ZnodePath) == text.startswith("/")


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("web.staging", ["web.staging", "web.staging.discovery", "web.staging.aurora"]),
        # An environment may be named like the zone, so the zones follow also here.
        (
            "web.discovery",
            ["web.discovery", "web.discovery.discovery", "web.discovery.aurora"],
        ),
        (
            "discovery.staging",
            ["discovery.staging", "discovery.staging.discovery", "discovery.staging.aurora"],
        ),
        ("web.staging.discovery.", ["web.staging.discovery"]),
    ],
)
def test_a_name_is_tried_as_it_is_and_then_in_every_zone(text: str, keys: list[str]) -> None:
    spelling = parse_spelling(text)
    assert isinstance(spelling, ServiceText)
    assert [b".".join(key).decode() for key in spelling.keys(ZONES)] == keys


def test_names_that_are_too_long_are_not_tried() -> None:
    spelling = parse_spelling(".".join(["a" * 60] * 4))
    assert isinstance(spelling, ServiceText)
    assert len(spelling.keys(((b"b" * 60,),))) == 1


@pytest.mark.parametrize(
    ("text", "environment", "place", "name"),
    [
        ("web.staging", None, ("staging", "web", TEMPLATE), "web.staging"),
        ("Web.staging.DISCOVERY", None, ("staging", "Web", TEMPLATE), "Web.staging"),
        ("web.staging.discovery.", None, ("staging", "web", TEMPLATE), "web.staging"),
        ("api.v2.staging", None, ("staging", "api.v2", TEMPLATE), "api.v2.staging"),
        ("discovery.staging", None, ("staging", "discovery", TEMPLATE), "discovery.staging"),
        ("web.discovery", None, ("discovery", "web", TEMPLATE), "web.discovery"),
        ("/discovery/staging/web", None, ("staging", "web", TEMPLATE), "web.staging"),
        ("/discovery/staging.eu/api.v2/", None, ("staging.eu", "api.v2", TEMPLATE), "api.v2.staging.eu"),
        ("web", "staging", ("staging", "web", TEMPLATE), "web.staging"),
        ("api.v2", "staging", ("staging", "api.v2", TEMPLATE), "api.v2.staging"),
        ("10.0.0.1", "staging", ("staging", "10.0.0.1", TEMPLATE), "10.0.0.1.staging"),
        ("web", "staging.eu", ("staging.eu", "web", TEMPLATE), "web.staging.eu"),
        ("hello.prod.www.aurora", None, ("prod", "hello", WWW), "hello.prod.www.aurora"),
        ("/aurora/www/prod/hello", None, ("prod", "hello", WWW), "hello.prod.www.aurora"),
        ("hello.flat", None, ("flat", "hello", TEMPLATE), "hello.flat"),
        ("/flat/hello", None, ("", "hello", "/flat/{service}"), "hello.flat"),
    ],
)
def test_a_spelling_stands_for_one_set_without_a_server(
    text: str, environment: str | None, place: tuple[str, str, str], name: str
) -> None:
    prefix = "node-" if place[2].startswith("/flat") else "member_"
    namespaces = (DISCOVERY, AURORA) if text == "hello.flat" else (DISCOVERY, AURORA, FLAT)
    found = locate_set(text, environment, namespaces)
    assert (found.environment, found.service, found.template, found.member_prefix) == (*place, prefix)
    assert found.name.without(DISCOVERY.zone) == name


@pytest.mark.parametrize(
    ("text", "environment", "why"),
    [
        ("web", None, "'web' is not a service's name; write {service}.{environment}"),
        ("web.", None, "ends in a dot"),
        ("web.discovery.", None, "ends in a dot"),
        ("web.staging.", None, "ends in a dot"),
        ("10.0.0.1:8080", None, "is an address, which only a server can find; write web.staging"),
        ("/discovery/staging", None, "is not the path of a service; those are /discovery/{environment}"),
        ("/discovery/staging/web/member_1", None, "is not the path of a service"),
        ("a/b", "staging", "contains no slash"),
        ("/discovery/staging/web", "staging", "contains no slash"),
        ("", "staging", "is not empty"),
        ("..", "staging", "service is '..'"),
        ("a\x00", "staging", "ZooKeeper rejects"),
        ("web..staging", None, "an empty label"),
    ],
)
def test_a_spelling_of_no_set_is_an_error_that_names_accepted_ones(
    text: str, environment: str | None, why: str
) -> None:
    with pytest.raises(BadValueError) as refusal:
        locate_set(text, environment, (DISCOVERY, AURORA))
    assert why in str(refusal.value)


def test_an_environment_does_not_suffice_if_the_template_has_more_placeholders() -> None:
    with pytest.raises(BadValueError) as refusal:
        locate_set("hello", "prod", (AURORA,))
    assert "contains {role}; write the whole name or path" in str(refusal.value)
    assert locate_set("hello.prod.www", None, (AURORA,)).template == WWW
