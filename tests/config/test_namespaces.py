"""Settings of namespaces, and names of services in service tables."""

from __future__ import annotations

import pytest

from tests.config.helpers import FILE, decoded_copy, errors_of, load
from zkdns.config import (
    Config,
    ServiceOverride,
)
from zkdns.namespace import parse_namespace

TWICE = "names the same service as another table; names are case-insensitive (RFC 4343)"


def test_service_tables_use_names_of_the_configured_namespace() -> None:
    toml = '[service."hello.prod.www"]\nttl = 9'
    template = "/aurora/{role}/{environment}/{job}"
    assert load(toml, namespace=template).service == {"hello.prod.www.discovery": ServiceOverride(ttl=9)}
    by_variable = load('[service."web"]', {"ZKDNS_NAMESPACE": "/{service}"})
    assert by_variable.service == {"web.discovery": ServiceOverride()}


TWO = """
[[namespace]]
path = "/discovery/{environment}/{service}"

[[namespace]]
path = "/aurora/{role}/{environment}/{job}"
zone = "Aurora."
"""


def test_several_namespaces_each_with_its_zone() -> None:
    config = load(TWO)
    assert config.namespaces == (
        parse_namespace("/discovery/{environment}/{service}", (b"discovery",)),
        parse_namespace("/aurora/{role}/{environment}/{job}", (b"aurora",)),
    )
    assert (config.namespace, config.zone) == (config.namespaces[0], (b"discovery",))
    assert config.zones == ((b"discovery",), (b"aurora",))
    assert decoded_copy(config) == config
    assert load(TWO, zone="sd.example").zones == ((b"sd", b"example"), (b"aurora",))
    assert load(TWO, zone="aurora").zones == ((b"aurora",),)
    assert load(TWO, namespace="/{service}").namespaces == (parse_namespace("/{service}"),)
    other = load(TWO, zone="other").namespaces
    assert set(map(str, load(TWO).namespaces)) != set(map(str, other))


def test_a_service_table_may_name_the_zone() -> None:
    names = ("web.staging", "hello.prod.www.AURORA", "api.prod.discovery", "x.aurora", "web.prod.www.aurora.")
    toml = TWO + "".join(f'[service."{name}"]\n' for name in names)
    assert list(load(toml).service) == [
        "web.staging.discovery",
        "hello.prod.www.aurora",
        "api.prod.discovery",
        "x.aurora.discovery",  # service `x` in an environment with the name of a zone
        "web.prod.www.aurora",
    ]
    (error,) = errors_of(TWO + '[service."web.staging"]\n[service."Web.staging.discovery"]')
    assert error == f'{FILE}: service."Web.staging.discovery": {TWICE}'


def test_a_service_table_belongs_to_the_first_namespace_with_such_names() -> None:
    toml = """
        namespace = [{ path = "/a/{role}/{environment}/{job}" }, { path = "/b/{environment}/{service}" }]
        [service."x.y.discovery"]
        [service."x.y.z.discovery"]
        [service."x.y.z"]
    """
    (error,) = errors_of(toml)
    assert error == f'{FILE}: service."x.y.z": {TWICE}'
    assert len(load(toml.replace('[service."x.y.z"]', "")).service) == 2


@pytest.mark.parametrize(
    ("others", "is_valid"),
    [
        (["/discovery/{environment}/{service}"], False),
        (["/discovery/{service}/{environment}"], False),
        (["/discovery/staging/{service}"], False),
        (["/{a}/staging/{service}"], False),
        (["/other/{service}", "/other/{service}"], False),
        (["/discovery/{service}"], True),
        (["/discovery/{role}/{environment}/{job}"], True),
        (["/discover/{environment}/{service}"], True),
        (["/other/a/{service}", "/other/b/{service}"], True),
    ],
)
def test_two_namespaces_must_not_match_the_same_znode(others: list[str], *, is_valid: bool) -> None:
    toml = '[[namespace]]\npath = "/discovery/{environment}/{service}"\n'
    toml += "".join(f'[[namespace]]\npath = "{other}"\nzone = "x"\n' for other in others)
    if is_valid:
        assert len(load(toml).namespaces) == len(others) + 1
        return
    before = others[-2] if len(others) > 1 else "/discovery/{environment}/{service}"
    (error,) = errors_of(toml)
    assert error == (
        f"{FILE}: namespace[{len(others)}]: {others[-1]!r} matches the same znodes as {before!r}; "
        "a service belongs to one namespace"
    )


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("namespace = []", "namespace: is an empty list; write tables"),
        ("namespace = 5", "namespace: is 5; write a path with placeholders in quotes"),
        ("namespace = [5]", "namespace[0]: is 5; write a table"),
        ("namespace = [[]]", "namespace[0]: is a list; write a table"),
        (
            '[[namespace]]\nzone = "a"',
            "namespace[0]: has no path; write the path of services: /discovery/{environment}/{service}",
        ),
        (
            '[[namespace]]\npath = "/{a}"\nzon = "a"',
            "namespace[0]: unknown key 'zon'; did you mean zone?",
        ),
        (
            '[[namespace]]\npath = "/{a}"\n[[namespace]]\npath = "/b/{a}"\nzone = "."\n[service."a.b.c.d"]',
            "namespace[1].zone: '.' is the root; a zone has at least one label, such as discovery",
        ),
        (
            '[[namespace]]\npath = "/a"\n[service."a.b.c.d"]',
            (
                "namespace[0].path: '/a' does not end in a placeholder, "
                "such as /discovery/{environment}/{service}"
            ),
        ),
        ('[namespace]\npath = "/{a}"', "namespace: is a table; write a path with placeholders in quotes"),
    ],
)
def test_a_wrong_namespace_is_an_error_with_its_index(toml: str, expected: str) -> None:
    assert errors_of(toml) == (f"{FILE}: {expected}",)


def test_a_wrong_namespace_causes_no_errors_about_service_names() -> None:
    (error,) = errors_of("[service.web]", namespace="/discovery")
    assert error.startswith("--namespace: ")


def test_the_member_prefix_is_that_of_the_table_or_of_the_top_level() -> None:
    assert load().namespace.member_prefix == "member_"
    assert load('member_prefix = "node-"').namespace.member_prefix == "node-"
    assert load(environment={"ZKDNS_MEMBER_PREFIX": "n"}).namespace.member_prefix == "n"
    assert load(TWO, member_prefix="node-").namespace.member_prefix == "node-"
    config = load(TWO + 'member_prefix = "i_"', member_prefix="node-")
    assert [namespace.member_prefix for namespace in config.namespaces] == ["node-", "i_"]
    assert decoded_copy(config) == config


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ('""', "is empty; write the beginning of members' names"),
        ('"a/b"', "is 'a/b'; write the beginning of members' names, such as 'member_', without slashes"),
        ('"a\\u0007"', "is 'a\\x07'; ZooKeeper rejects the character '\\x07' in names"),
        ('"vector_"', "is 'vector_', which also matches 'vector_': those znodes weight members"),
        ('"vec"', "is 'vec', which also matches 'vector_': those znodes weight members"),
        ('"vector_1"', "is 'vector_1', which also matches 'vector_': those znodes weight members"),
        ("5", "is 5; write the beginning of members' names in quotes"),
    ],
)
def test_a_wrong_member_prefix_is_an_error(toml: str, expected: str) -> None:
    assert errors_of(f"member_prefix = {toml}") == (f"{FILE}: member_prefix: {expected}",)
    table = f"[[namespace]]\npath = '/{{a}}'\nmember_prefix = {toml}"
    assert errors_of(table) == (f"{FILE}: namespace[0].member_prefix: {expected}",)


_NO_PATTERN = "no pattern of services; write {service}.{environment} without the zone; * stands for any text"


def only_of(config: Config) -> list[str]:
    return [namespace.only_as_text for namespace in config.namespaces]


def test_the_followed_services_are_those_of_the_table_or_of_the_top_level() -> None:
    assert load().namespace.only == ()
    assert only_of(load('only = ["*.prod", "web.staging"]')) == ['"*.prod", "web.staging"']
    assert only_of(load(environment={"ZKDNS_ONLY": "*.prod,web.staging"})) == ['"*.prod", "web.staging"']
    assert only_of(load('only = ["*.prod"]', only=("web.prod",))) == ['"web.prod"']
    config = load('only = ["*.prod.*"]\n' + TWO + 'only = ["hello.prod.www"]', only=("a.b.c",))
    assert only_of(config) == ['"a.b.c"', '"hello.prod.www"']
    assert decoded_copy(config) == config
    assert str(load('only = ["*.prod"]').namespace) == str(load().namespace)  # snapshots stay usable


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("5", "is 5; write a pattern of services in quotes"),
        ("[]", "is an empty list; write at least one PATTERN"),
        ('["*.prod", "*.prod"]', "*.prod is given twice"),
        ('["prod"]', f"'prod' is {_NO_PATTERN}"),
        ('["web..prod"]', f"'web..prod' is {_NO_PATTERN}"),
        ('["a/b.prod"]', f"'a/b.prod' is {_NO_PATTERN}"),
    ],
)
def test_a_wrong_pattern_of_followed_services_is_an_error(toml: str, expected: str) -> None:
    assert errors_of(f"only = {toml}") == (f"{FILE}: only: {expected}",)
    table = f"[[namespace]]\npath = '/discovery/{{environment}}/{{service}}'\nonly = {toml}"
    assert errors_of(table) == (f"{FILE}: namespace[0].only: {expected}",)


def test_snapshots_of_the_default_prefix_stay_usable() -> None:
    """A snapshot has the namespace as text."""
    default = str(load().namespace)
    assert default == "/discovery/{environment}/{service} in the zone discovery"
    assert str(load(member_prefix="member_").namespace) == default
    assert str(load(member_prefix="node-").namespace) != default
