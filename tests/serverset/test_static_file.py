"""The static file: accepted contents, and errors with their keys."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zkdns.errors import ConfigError
from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.member import Endpoint, Member, Status
from zkdns.serverset.static_file import StaticSets, load_demo, load_static, parse_static

NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
WEB = ServiceName("web", "staging")


def parse(text: str) -> StaticSets:
    return parse_static(text, (NAMESPACE,), origin="fixed.toml")


def errors(text: str) -> list[str]:
    """All errors of a text."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return sorted(caught.value.errors)


def members(*entries: str) -> str:
    """A file with one service and these members."""
    return f'[services."web.staging"]\nmembers = [{", ".join(entries)}]\n'


# -- accepted contents --------------------------------------------------------------------------------------

GOOD = {
    '"10.0.0.1:8080"': Member("m0", Endpoint("10.0.0.1", 8080)),
    '"[2001:DB8::1]:8080"': Member("m0", Endpoint("2001:db8::1", 8080)),
    '"db.example.com:5432"': Member("m0", Endpoint("db.example.com", 5432)),
    '{ host = "10.0.0.1", port = 80 }': Member("m0", Endpoint("10.0.0.1", 80)),
    '{ host = "2001:db8::1", port = 80 }': Member("m0", Endpoint("2001:db8::1", 80)),
    '{ host = "a", port = 80, shard = 0 }': Member("m0", Endpoint("a", 80), shard=0),
    '{ host = "a", port = 80, status = "stopping" }': Member("m0", Endpoint("a", 80), status=Status.STOPPING),
    '{ host = "a", port = 80, additional = { admin = "b:81" } }': Member(
        "m0", Endpoint("a", 80), additional={"admin": Endpoint("b", 81)}
    ),
    '{ host = "a", port = 80, additional = { admin = { host = "b", port = 81 } } }': Member(
        "m0", Endpoint("a", 80), additional={"admin": Endpoint("b", 81)}
    ),
    '{ host = "a", port = 80, metadata = { role = "primary" } }': Member(
        "m0", Endpoint("a", 80), metadata={"role": "primary"}
    ),
}


@pytest.mark.parametrize(("entry", "expected"), GOOD.items())
def test_a_member_may_be_written_like_this(entry: str, expected: Member) -> None:
    assert parse(members(entry)) == {WEB: (expected,)}


def test_members_are_named_by_their_position() -> None:
    ((_, found),) = parse(members('"b:1"', '"a:2"', '{ host = "c", port = 3 }')).items()
    assert [(member.name, member.service) for member in found] == [
        ("m0", Endpoint("b", 1)),
        ("m1", Endpoint("a", 2)),
        ("m2", Endpoint("c", 3)),
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "[services]\n"])
def test_a_file_may_have_no_services(text: str) -> None:
    assert parse(text) == {}


def test_a_service_may_have_no_members_and_dots_in_its_name() -> None:
    text = '[services."api.v2.staging"]\nmembers = []\n[services."Web.Prod."]\n'
    assert parse(text) == {ServiceName("api.v2", "staging"): (), ServiceName("Web", "Prod"): ()}


def test_a_name_may_end_in_its_zone() -> None:
    aurora = parse_namespace("/aurora/{role}/{environment}/{job}", (b"aurora",))
    names = ("web.staging", "web.prod.Discovery", "hello.prod.www.aurora")
    sets = parse_static("".join(f'[services."{name}"]\n' for name in names), (NAMESPACE, aurora), origin="x")
    assert list(sets) == [
        WEB,
        ServiceName("web", "prod"),
        ServiceName("hello", "prod.www", (b"aurora",)),
    ]
    assert [name.absolute for name in sets] == [
        "web.staging.discovery",
        "web.prod.discovery",
        "hello.prod.www.aurora",
    ]
    with pytest.raises(ConfigError, match=r"is the same name as 'web\.staging'"):
        parse_static('[services."web.staging"]\n[services."Web.staging.discovery"]', (NAMESPACE,), origin="x")


def test_the_namespace_determines_the_length_of_a_name() -> None:
    text = '[services."web"]\nmembers = ["a:1"]\n'
    plain = parse_namespace("/services/{service}")
    assert parse_static(text, (plain,), origin="x") == {ServiceName("web"): (Member("m0", Endpoint("a", 1)),)}
    assert len(errors(text)) == 1


def test_the_demo_has_every_kind_of_service() -> None:
    demo = load_demo((NAMESPACE,))
    assert len(demo[WEB]) == 3
    assert demo[ServiceName("idle", "staging")] == ()
    assert [member.shard for member in demo[WEB]] == [0, 1, 2]
    assert "admin" in demo[WEB][0].additional
    for name in demo:
        name.check()


# -- errors -------------------------------------------------------------------------------------------------

_AT = 'services."web.staging".members[0]'
BAD = {
    members('"10.0.0.1"'): (_AT, "has no port"),
    members('"10.0.0.1:0"'): (_AT, "1 to 65535"),
    members('"10.0.0.1:65536"'): (_AT, "1 to 65535"),
    members('"10.0.0:80"'): (_AT, "not an IPv4 address"),
    members('"2001:db8::1:80x"'): (_AT, "1 to 65535"),
    members('"[fe80::1%eth0]:80"'): (_AT, "scope"),
    members('""'): (_AT, "no port"),
    members("80"): (_AT, '"HOST:PORT"'),
    members("[]"): (_AT, '"HOST:PORT"'),
    members("true"): (_AT, '"HOST:PORT"'),
    members("{ port = 80 }"): (f"{_AT}.host", "is missing"),
    members('{ host = "", port = 80 }'): (f"{_AT}.host", "host name"),
    members("{ host = 10, port = 80 }"): (f"{_AT}.host", "host name"),
    members("{ host = 0, port = 80 }"): (f"{_AT}.host", "host name"),
    members('{ host = "a b", port = 80 }'): (f"{_AT}.host", "host name"),
    members('{ host = "a" }'): (f"{_AT}.port", "is missing"),
    members('{ host = "a", port = 0 }'): (f"{_AT}.port", "1 to 65535"),
    members('{ host = "a", port = "80" }'): (f"{_AT}.port", "1 to 65535"),
    members('{ host = "a", port = true }'): (f"{_AT}.port", "1 to 65535"),
    members('{ host = "a", port = 80.0 }'): (f"{_AT}.port", "1 to 65535"),
    members('{ host = "a", port = 80, prot = 1 }'): (f"{_AT}.prot", "host, port, shard"),
    members('{ host = "a", port = 80, shard = "1" }'): (f"{_AT}.shard", "32-bit"),
    members('{ host = "a", port = 80, shard = 2147483648 }'): (f"{_AT}.shard", "32-bit"),
    members('{ host = "a", port = 80, shard = true }'): (f"{_AT}.shard", "32-bit"),
    members('{ host = "a", port = 80, status = "FINE" }'): (f"{_AT}.status", "ALIVE"),
    members('{ host = "a", port = 80, status = 2 }'): (f"{_AT}.status", "ALIVE"),
    members('{ host = "a", port = 80, additional = "b:1" }'): (f"{_AT}.additional", "table"),
    members('{ host = "a", port = 80, additional = { x = "b" } }'): (f"{_AT}.additional.x", "no port"),
    members('{ host = "a", port = 80, additional = { x = 1 } }'): (f"{_AT}.additional.x", "HOST:PORT"),
    members('{ host = "a", port = 80, additional = { x = { host = "b" } } }'): (
        f"{_AT}.additional.x.port",
        "is missing",
    ),
    members('{ host = "a", port = 80, additional = { x = { host = "b", port = 1, shard = 1 } } }'): (
        f"{_AT}.additional.x.shard",
        "host, port",
    ),
    members('{ host = "a", port = 80, metadata = 1 }'): (f"{_AT}.metadata", "table"),
    members('{ host = "a", port = 80, metadata = { x = 1 } }'): (f"{_AT}.metadata.x", "quotes"),
    '[services."web.staging"]\nmembers = "a:1"\n': ('services."web.staging".members', "list"),
    '[services."web.staging"]\nmember = ["a:1"]\n': ('services."web.staging".member', "members"),
    '[services]\n"web.staging" = ["a:1"]\n': ('services."web.staging"', "table"),
    '[services."web"]\n': ('services."web"', "{service}.{environment}"),
    '[services."web..staging"]\n': ('services."web..staging"', "empty label"),
    f'[services."{"a" * 64}.staging"]\n': (f'services."{"a" * 64}.staging"', "at most 63"),
    '[services."web.staging"]\n[services."Web.Staging"]\n': ('services."Web.Staging"', "'web.staging'"),
    "services = 1\n": ("services", "table"),
    "[service]\n": ("service", '[services."NAME"]'),
    "x = \n": ("is not TOML", "line 1"),
    "x = " + "1" * 5000 + "\n": ("is not TOML", ""),
    "\x00": ("is not TOML", ""),
}


@pytest.mark.parametrize(("text", "key", "accepted"), [(text, *expected) for text, expected in BAD.items()])
def test_an_error_has_its_key_and_the_accepted_form(text: str, key: str, accepted: str) -> None:
    (found,) = errors(text)
    assert found.startswith(f"fixed.toml: {key}: ")
    assert accepted in found


def test_a_file_that_is_nested_too_deeply_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^fixed\.toml: is nested too deeply to be read$"):
        parse("x = " + "[" * 5000 + "\n")


def test_all_errors_are_reported_at_once_in_order() -> None:
    text = """
        servces = 1
        zone = 1
        [services."web.staging"]
        weight = 3
        order = 1
        members = ["10.0.0.1", { host = "", port = 0, status = "x", shard = "y", speed = 1 }, "a:1"]
        [services."web"]
        [services."api.staging"]
        members = 3
    """
    with pytest.raises(ConfigError) as caught:
        parse(text)
    web = 'fixed.toml: services."web.staging"'
    assert [error.split(": ")[1] for error in caught.value.errors] == [
        "servces",
        "zone",
        *(f"{web}.{key}".partition(": ")[2] for key in ("order", "weight", "members[0]", "members[1].speed")),
        *(f"{web}.members[1].{key}".partition(": ")[2] for key in ("host", "port", "status", "shard")),
        'services."web"',
        'services."api.staging".members',
    ]
    assert str(caught.value).count("\n") == len(caught.value.errors) - 1


# -- files --------------------------------------------------------------------------------------------------


def test_a_file_is_read_and_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "sets.toml"
    path.write_text(members('"wäb.example:1"'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sets\.toml: services"):
        load_static(path, (NAMESPACE,))
    path.write_text(members('"10.0.0.1:1"'), encoding="utf-8")
    assert list(load_static(path, (NAMESPACE,))) == [WEB]


def test_an_unreadable_file_is_reported_with_the_reason(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# caf\xe9\n")
    for path, why in (
        (tmp_path / "none.toml", "no such file"),
        (tmp_path, "directory"),
        (latin, "UTF-8"),
        (Path("a\0b"), "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=why):
            load_static(path, (NAMESPACE,))


# -- arbitrary contents -------------------------------------------------------------------------------------

_WORDS = st.sampled_from(
    [
        "[services",
        '."web.staging"',
        "]",
        "\n",
        "members",
        " = ",
        '"a:1"',
        "{",
        "}",
        "[",
        ",",
        "host",
        "port",
        "1",
        '"""',
        "'",
        "\\",
        "=",
        "inf",
        "1979-05-27",
        "additional",
        "status",
        "\r",
        "\0",
        "[[",
        "services.",
        "0x",
        "é",
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["host", "port", "shard", "status", "additional", "metadata", "members", "x", ""]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def toml(value: object) -> str:
    """A value as inline TOML."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{toml(str(key))} = {toml(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case str():
            escaped = (f"\\U{ord(letter):08X}" for letter in value)
            return '"' + "".join(escaped) + '"'
        case None:
            return '""'
        case _:
            return str(value)


@given(st.text(max_size=200) | st.lists(_WORDS, max_size=40).map("".join))
@example('"\ud800" = 1')
@example('[services."\ud800.x"]')
@example("[services.'a.\x7f']")
@settings(max_examples=500, deadline=None)
def test_arbitrary_text_raises_only_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(text)


@given(
    st.dictionaries(
        st.sampled_from(["web.staging", "x", "WEB.staging", "a..b"]) | st.text(max_size=5), _VALUES
    )
)
@settings(max_examples=400, deadline=None)
def test_arbitrary_values_raise_only_config_error(services: dict[str, object]) -> None:
    with contextlib.suppress(ConfigError):
        for name, found in parse(f"services = {toml(services)}\n").items():
            assert found == () or name.labels
