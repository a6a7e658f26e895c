from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.errors import BadValueError
from zkdns.names import short_name
from zkdns.namespace import Namespace, ServiceName, check_znode_path, parse_namespace, source_of
from zkdns.spelling import ServiceText, parse_spelling

DISCOVERY = parse_namespace("/discovery/{environment}/{service}")
AURORA = parse_namespace("/aurora/{role}/{environment}/{job}")
FLAT = parse_namespace("/{service}")
FIXED = parse_namespace("/twitter/{service}/live/{environment}")

ELEMENTS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)

BAD_PATHS = [
    ("", "is not a path"),
    ("discovery", "is not a path"),
    ("/a/", "is not a path"),
    ("//", "is not a path"),
    ("/a//b", "is not a path"),
    ("/a/./b", "ZooKeeper rejects the elements"),
    ("/..", "ZooKeeper rejects the elements"),
    ("/a\x00", "ZooKeeper rejects the character"),
    ("/a\x7f", "ZooKeeper rejects the character"),
    ("/\ue000", "ZooKeeper rejects the character"),
    ("/\udcff", "ZooKeeper rejects the character"),
    ("/\N{GRINNING FACE}", "ZooKeeper rejects the character"),
]

BAD_TEMPLATES = [
    *BAD_PATHS,
    ("/", "does not end in a placeholder"),
    ("/discovery", "does not end in a placeholder"),
    ("/{environment}/web", "does not end in a placeholder"),
    ("/discovery/{Service}", "a placeholder is a whole element"),
    ("/discovery/{}", "a placeholder is a whole element"),
    ("/discovery/x{service}", "a placeholder is a whole element"),
    ("/discovery/{service", "a placeholder is a whole element"),
    ("/{service}/{service}", "has two placeholders with the same name"),
]


def with_only(namespace: Namespace, patterns: list[str]) -> Namespace:
    return msgspec.structs.replace(namespace, only=tuple(map(namespace.parse_pattern, patterns)))


@pytest.mark.parametrize(
    ("namespace", "root", "depth", "elements", "name"),
    [
        (DISCOVERY, "/discovery", 2, ["staging", "web"], "web.staging"),
        (DISCOVERY, "/discovery", 2, ["eu.staging", "api.v2"], "api.v2.eu.staging"),
        (AURORA, "/aurora", 3, ["www", "prod", "hello"], "hello.prod.www"),
        (FLAT, "/", 1, ["web"], "web"),
        (FIXED, "/twitter", 3, ["web", "live", "prod"], "web.prod"),
    ],
)
def test_a_path_below_the_root_makes_a_name(
    namespace: Namespace, root: str, depth: int, elements: list[str], name: str
) -> None:
    assert (namespace.root, namespace.depth) == (root, depth)
    assert str(namespace.name_of(elements)) == name


@pytest.mark.parametrize(
    ("namespace", "values", "path"),
    [
        (DISCOVERY, {"environment": "staging", "service": "web"}, "/discovery/staging/web"),
        (AURORA, {"role": "www", "environment": "prod", "job": "hello"}, "/aurora/www/prod/hello"),
        (FLAT, {"service": "web"}, "/web"),
        (FIXED, {"service": "web", "environment": "prod"}, "/twitter/web/live/prod"),
    ],
)
def test_values_of_the_placeholders_make_a_path(
    namespace: Namespace, values: dict[str, str], path: str
) -> None:
    assert namespace.path_of(values) == path


@pytest.mark.parametrize("service", ["", "a/b", ".", ".."])
def test_a_value_that_is_not_a_znode_name_is_rejected(service: str) -> None:
    with pytest.raises(BadValueError, match="service is"):
        DISCOVERY.path_of({"environment": "staging", "service": service})


def test_a_missing_value_is_rejected() -> None:
    with pytest.raises(BadValueError, match="environment is None"):
        DISCOVERY.path_of({"service": "web"})


@given(st.sampled_from([DISCOVERY, AURORA, FLAT, FIXED]), st.data())
def test_a_path_made_from_values_makes_the_name_of_these_values(
    namespace: Namespace, data: st.DataObject
) -> None:
    values = {
        step: data.draw(ELEMENTS)
        for step, fixed in zip(namespace.steps, namespace.fixed, strict=True)
        if fixed is None
    }
    path = namespace.path_of(values)
    below = path.removeprefix(namespace.root).strip("/").split("/")
    name = namespace.name_of(below)
    assert sorted(str(name).split(".")) == sorted(values.values())
    assert namespace.split_name(str(name)) == name


@pytest.mark.parametrize(("path", "why"), BAD_PATHS)
def test_a_path_that_zookeeper_rejects_is_invalid(path: str, why: str) -> None:
    with pytest.raises(BadValueError) as refusal:
        check_znode_path(path)
    assert why in str(refusal.value)


@pytest.mark.parametrize("path", ["/", "/a", "/a/b.c/...", "/ä"])
def test_paths_of_znodes_are_accepted(path: str) -> None:
    check_znode_path(path)


@pytest.mark.parametrize(("template", "why"), BAD_TEMPLATES)
def test_an_invalid_template_is_rejected_with_the_reason(template: str, why: str) -> None:
    with pytest.raises(BadValueError) as refusal:
        parse_namespace(template)
    assert why in str(refusal.value)
    assert repr(template) in str(refusal.value)


@given(st.text(st.characters() | st.sampled_from("/{}.ab")))
def test_any_text_is_a_valid_template_or_an_error(text: str) -> None:
    try:
        namespace = parse_namespace(text)
    except BadValueError:
        return
    assert namespace.template == text


@pytest.mark.parametrize(
    ("namespace", "text", "name"),
    [
        (DISCOVERY, "web.staging", ServiceName("web", "staging")),
        (DISCOVERY, "web.staging.", ServiceName("web", "staging")),
        (DISCOVERY, "api.v2.staging", ServiceName("api.v2", "staging")),
        (AURORA, "hello.prod.www", ServiceName("hello", "prod.www")),
        (FLAT, "web", ServiceName("web")),
        (FLAT, "api.v2", ServiceName("api.v2")),
    ],
)
def test_a_written_name_is_split_into_service_and_scope(
    namespace: Namespace, text: str, name: ServiceName
) -> None:
    assert namespace.split_name(text) == name


@pytest.mark.parametrize(
    ("namespace", "text", "why"),
    [
        (DISCOVERY, "", "write {service}.{environment}, without the zone"),
        (DISCOVERY, "web", "write {service}.{environment}, without the zone"),
        (AURORA, "hello.prod", "write {job}.{environment}.{role}, without the zone"),
        (DISCOVERY, "web..staging", "an empty label"),
        (DISCOVERY, ".staging", "an empty label"),
        (FLAT, "", "an empty label"),
        (DISCOVERY, "a" * 64 + ".staging", "64 bytes"),
        (DISCOVERY, "web.\udcff", "not UTF-8"),
    ],
)
def test_an_invalid_service_name_is_rejected(namespace: Namespace, text: str, why: str) -> None:
    with pytest.raises(BadValueError) as refusal:
        namespace.split_name(text)
    assert why in str(refusal.value)


def test_a_name_has_its_labels_and_a_lower_case_key() -> None:
    name = ServiceName("Api.v2", "Staging")
    assert name.labels == (b"Api", b"v2", b"Staging", b"discovery")
    assert name.key == (b"api", b"v2", b"staging", b"discovery")
    assert ServiceName("web").labels == (b"web", b"discovery")


ABOVE = (b"discovery",)
BELOW = (b"staging", b"discovery")
OTHER = (b"mesh",)


@pytest.mark.parametrize(
    ("name", "first", "short"),
    [
        (ServiceName("Web", "staging", ABOVE), ABOVE, "Web.staging"),
        (ServiceName("web", "staging", OTHER), ABOVE, "web.staging.mesh"),
        (ServiceName("web", "staging", ABOVE), OTHER, "web.staging.discovery"),
        (ServiceName("web", "eu", BELOW), ABOVE, "web.eu.staging"),
        (ServiceName("web", "eu", BELOW), BELOW, "web.eu"),
        (ServiceName("web", "Staging", ABOVE), BELOW, "web"),
        (ServiceName("web", "", BELOW), ABOVE, "web.staging"),
        (ServiceName("discovery", "discovery", ABOVE), ABOVE, "discovery.discovery"),
    ],
)
def test_a_name_is_shortened_by_the_first_zone_and_stays_findable(
    name: ServiceName, first: tuple[bytes, ...], short: str
) -> None:
    """Also if one zone is below another."""
    assert name.without(first) == short
    assert short_name(name.key, first) == short.lower()
    spelled = parse_spelling(short)
    assert isinstance(spelled, ServiceText)
    assert name.key in spelled.keys(dict.fromkeys((first, ABOVE, BELOW, OTHER)))


def test_a_namespace_survives_serialization() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(AURORA), type=Namespace) == AURORA


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/discovery/staging/web", DISCOVERY.template),
        ("/discovery/staging", DISCOVERY.template),
        ("/discovery", DISCOVERY.template),
        ("/aurora/www/prod/hello", AURORA.template),
        ("/auroras/www", ""),
        ("/", ""),
        ("static:web.staging.discovery", "static"),
    ],
)
def test_a_set_or_a_directory_belongs_to_a_source(path: str, source: str) -> None:
    assert source_of(path, (DISCOVERY, AURORA)) == source


@pytest.mark.parametrize(
    ("namespace", "directory", "name", "expected"),
    [
        (DISCOVERY, "/discovery", "web.staging", True),
        (DISCOVERY, "/discovery/staging", "web.staging", True),
        (DISCOVERY, "/discovery/staging", "m1.web.staging", True),
        (DISCOVERY, "/discovery/STAGING", "staging", True),
        (DISCOVERY, "/discovery/staging", "web.prod", False),
        (DISCOVERY, "/discovery/staging", "prod", False),
        (DISCOVERY, "/discovery/eu.staging", "web.eu.staging", True),
        (AURORA, "/aurora/www", "hello.prod.www", True),
        (AURORA, "/aurora/www", "www", True),
        (AURORA, "/aurora/www", "hello.prod.api", False),
        (AURORA, "/aurora/www/prod", "hello.prod.www", True),
        (AURORA, "/aurora/www/prod", "www", True),
        (AURORA, "/aurora/www/prod", "hello.test.www", False),
        (FIXED, "/twitter/web", "web.prod", True),
        (FIXED, "/twitter/web", "m1.web.prod", True),
        (FIXED, "/twitter/web", "prod", True),
        (FIXED, "/twitter/web", "api.prod", False),
        (FIXED, "/twitter/web/live", "web.prod", True),
        (FLAT, "/", "web", True),
    ],
)
def test_a_name_may_belong_to_a_service_below_a_directory(
    namespace: Namespace, directory: str, name: str, expected: bool
) -> None:
    assert namespace.may_be_below(directory, tuple(name.encode().split(b"."))) is expected


@given(
    st.sampled_from([DISCOVERY, AURORA, FLAT, FIXED]), st.lists(ELEMENTS, min_size=4, max_size=4), st.data()
)
def test_the_name_of_a_service_may_be_below_each_directory_above_it(
    namespace: Namespace, values: list[str], data: st.DataObject
) -> None:
    fixed = namespace.fixed
    elements = [fixed[step] or values[step] for step in range(namespace.depth)]
    below = elements[: data.draw(st.integers(0, namespace.depth - 1))]
    directory = "/".join((namespace.root.rstrip("/"), *below)) or "/"
    name = namespace.name_of(elements)
    assert namespace.may_be_below(directory, name.key[: -len(name.zone)])


@pytest.mark.parametrize(
    ("namespace", "patterns", "roots"),
    [
        (DISCOVERY, [], ["/discovery"]),
        (DISCOVERY, ["web.staging"], ["/discovery/staging/web"]),
        (DISCOVERY, ["api.v2.staging"], ["/discovery/staging/api.v2"]),
        (DISCOVERY, ["*.prod", "web.prod", "a.test"], ["/discovery/prod", "/discovery/test/a"]),
        (DISCOVERY, ["a.prod", "aa.prod"], ["/discovery/prod/a", "/discovery/prod/aa"]),
        (DISCOVERY, ["web.*", "*.prod"], ["/discovery"]),
        (DISCOVERY, ["w*.prod"], ["/discovery/prod"]),
        (AURORA, ["*.prod.www"], ["/aurora/www/prod"]),
        (AURORA, ["hello.*.www"], ["/aurora/www"]),
        (FLAT, ["web"], ["/web"]),
        (FLAT, ["w*"], ["/"]),
        (FIXED, ["web.*"], ["/twitter/web/live"]),
    ],
)
def test_the_roots_of_followed_services_are_as_long_as_possible(
    namespace: Namespace, patterns: list[str], roots: list[str]
) -> None:
    assert list(with_only(namespace, patterns).followed_roots) == roots


@pytest.mark.parametrize(
    ("patterns", "followed", "others"),
    [
        ([], ["staging", "staging/web"], []),
        (["*.prod", "web.staging"], ["prod", "prod/x.y", "staging", "staging/web"], ["test", "staging/api"]),
        (["a+b.prod"], ["prod/a+b"], ["prod/aab", "prod/A+b", "PROD"]),
        (["w*b.p*"], ["prod/wb", "p/w.x.b"], ["rp", "prod/web1"]),
    ],
)
def test_a_znode_is_followed_if_it_may_lead_to_a_matching_service(
    patterns: list[str], followed: list[str], others: list[str]
) -> None:
    namespace = with_only(DISCOVERY, patterns)
    for path in followed:
        assert namespace.follows(path.split("/")), path
        assert namespace.follows_path(f"/discovery/{path}"), path
    for path in others:
        assert not namespace.follows(path.split("/")), path
        assert not namespace.follows_path(f"/discovery/{path}"), path
    assert namespace.follows_path("/discovery")


@pytest.mark.parametrize(
    ("name", "followed"),
    [
        ("web.staging", True),
        ("m1.web.staging", True),
        ("_http._tcp.web.staging", True),
        ("_web._tcp.staging", True),
        ("staging", True),
        ("prod", True),
        ("anything.prod", True),
        ("x.y.prod", True),
        ("api.staging", False),
        ("m1.api.staging", False),
        ("_api._tcp.staging", False),
        ("test", False),
        ("web.test", False),
    ],
)
def test_a_name_may_belong_to_a_followed_service(name: str, followed: bool) -> None:
    namespace = with_only(DISCOVERY, ["*.prod", "Web.staging"])
    assert namespace.follows_name(tuple(name.encode().split(b"."))) is followed
