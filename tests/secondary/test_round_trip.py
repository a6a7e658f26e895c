"""A table, its zone, and the table that a secondary builds from the zone have the same answers."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dns.helpers import NAMESPACE, endpoint, member, origin_of, put
from tests.secondary.helpers import apply_services, full_copy, sorted_lines, zone_text
from zkdns.config import Config
from zkdns.errors import BadValueError
from zkdns.names import Labels, to_wire
from zkdns.namespace import STATIC_PREFIX, Namespace, ServiceName, parse_namespace
from zkdns.secondary.members import find_services, read_service
from zkdns.secondary.records import Records
from zkdns.serverset.changes import Change, HostResolved, MembersHeld, SetPut
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import Table

ZONE: Labels = (b"discovery",)
INNER: Labels = (b"deep", b"inner", b"discovery")


def assert_round_trip(changes: Iterable[Change], namespaces: Sequence[Namespace] = (NAMESPACE,)) -> Table:
    """The zone files of both tables have the same records in every zone. Returns the secondary's table."""
    table, copy = Table(departed_seconds=0), Table(departed_seconds=0)
    for change in changes:
        table.apply(change)
    config = Config(listen=(), namespaces=tuple(namespaces))
    texts = {zone: zone_text(table, config, zone) for zone in config.zones}
    for zone, text in texts.items():
        transferred, services = full_copy(text, zone, namespaces)
        assert transferred.has_digest
        assert not [each.skipped for each in services.values() if each is not None and each.skipped]
        apply_services(copy, services)
    for zone, text in texts.items():
        assert sorted_lines(zone_text(copy, config, zone)) == sorted_lines(text)
    return copy


def static(name: str, *members: str | Member) -> SetPut:
    made = [one if isinstance(one, Member) else member(f"m{at}", one) for at, one in enumerate(members)]
    parsed = NAMESPACE.split_name(name)
    return SetPut(f"{STATIC_PREFIX}{parsed.absolute}", parsed, tuple(made))


def test_members_of_znodes() -> None:
    additional = {"admin": "10.0.0.1:9990", "far": "10.0.0.9:1", "v2.Stats": "10.0.0.9:2"}
    copy = assert_round_trip(
        [
            put(
                "web.staging",
                [
                    member(318, "10.0.0.1:80", shard=3, additional=additional),
                    member(319, "[2001:db8::1]:80", weight=2.5),
                    member(320, "10.0.0.3:80", shard=3, status="ALIVE", weight=0.0),
                    member(321, "10.0.0.3:80", shard=-1),
                    member("member_x y", "10.0.0.4:80"),
                ],
            ),
            put("m318.web.staging", ["10.0.0.77:1"]),
            put("api.v2.prod", [member(1, "10.1.0.1:8080")]),
            put('odd "name";\\@$(é.prod', [member(2, "10.2.0.1:1")]),
        ]
    )
    found = copy.set_of("/discovery/staging/web")
    assert found is not None
    assert [one.name for one in found.members.values()][:3] == [f"member_{n:010d}" for n in (318, 319, 320)]
    assert found.members["member_0000000318"].additional == {
        name: endpoint(text) for name, text in additional.items()
    }


def test_the_spelling_of_znodes_is_kept() -> None:
    copy = assert_round_trip([put("Web.Staging", [member(1, "10.0.0.1:80")], "/discovery/Staging/Web")])
    assert copy.origins == {"/discovery/Staging/Web"}


def test_an_environment_with_dots_is_told_by_the_znode() -> None:
    name = ServiceName("api", "eu.staging")
    copy = assert_round_trip([SetPut("/discovery/eu.staging/api", name, (member(1, "10.0.0.1:80"),))])
    assert copy.services[name.key].first.name == name


def test_held_members() -> None:
    name = "web.staging"
    copy = assert_round_trip(
        [
            put(name, [member(1, "10.0.0.1:80"), member(2, "10.0.0.2:80")]),
            MembersHeld(origin_of(name), ("member_0000000002",)),
        ]
    )
    found = copy.set_of(origin_of(name))
    assert found is not None
    assert found.held.keys() == {"member_0000000002"}


def test_host_names_with_their_addresses() -> None:
    assert_round_trip(
        [
            put("db.prod", [member(1, "db1.example.com:5432", additional={"admin": "db1.example.com:9"})]),
            put("pair.prod", [member(1, "example.com:1"), member(2, "example.com:2")]),
            put("short.prod", [member(1, "web1:80"), member(2, "web1:81", additional={"x": "web2:82"})]),
            put("far.prod", [member(1, "10.0.0.1:1", additional={"admin": "far.example.com:2"})]),
            put("unresolved.prod", [member(1, "nowhere.example.com:1")]),
            HostResolved("db1.example.com", ("10.5.0.1", "2001:db8::5")),
            HostResolved("example.com", ("192.0.2.7", "192.0.2.8", "2001:db8::7")),
            HostResolved("web1", ("10.6.0.1", "10.6.0.2")),
            HostResolved("web2", ("10.6.0.3",)),
            HostResolved("far.example.com", ("10.7.0.1",)),
        ]
    )


def test_a_host_name_with_addresses_of_its_own() -> None:
    own = Endpoint("db9.example.com", 1, "10.9.0.1", "2001:db8::9")
    assert_round_trip([put("db.prod", [member(1, own), member(2, Endpoint("db8", 1, "10.9.0.2"))])])


def test_a_member_with_additional_endpoints_only() -> None:
    assert_round_trip(
        [
            put("a.prod", [member(1, None, additional={"admin": "10.0.0.1:9", "http": "10.0.0.2:80"})]),
            put(
                "b.prod", [member(1, None, additional={"admin": "b.example.com:9"}), member(2, "10.0.0.3:1")]
            ),
            HostResolved("b.example.com", ("10.7.0.1",)),
        ]
    )


def test_several_endpoints_on_one_other_host() -> None:
    """The name of the host is made from its first endpoint."""
    additional = {"stats": "10.0.0.9:1", "admin": "10.0.0.9:2", "Admin": "10.0.0.9:3"}
    assert_round_trip([put("a.prod", [member(1, "10.0.0.1:1", additional=additional)])])


def test_members_of_the_static_file() -> None:
    copy = assert_round_trip(
        [
            static("web.staging", *(f"10.0.0.{n}:80" for n in range(1, 13))),
            static("m0.web.staging", "10.0.1.1:80"),
            static("x.m0.web.staging", "10.0.1.2:80"),
            static("db.prod", "db.example.com:5432"),
            HostResolved("db.example.com", ("10.5.0.1",)),
            put("web.staging", [member(7, "10.0.2.1:80")]),
        ]
    )
    assert copy.origins == {
        *("static:web.staging.discovery", "static:m0.web.staging.discovery"),
        *("static:x.m0.web.staging.discovery", "static:db.prod.discovery", "/discovery/staging/web"),
    }
    found = copy.set_of("static:web.staging.discovery")
    assert found is not None
    assert list(found.members) == [f"m{n}" for n in range(12)]


def test_nested_zones_and_templates_with_other_depths() -> None:
    inner = parse_namespace("/inner/{service}", INNER)
    aurora = parse_namespace("/aurora/{role}/{environment}/{job}", (b"aurora",))
    assert_round_trip(
        [
            put("web.staging", [member(1, "10.0.0.1:80")]),
            SetPut("/inner/web", ServiceName("web", "", INNER), (member(1, "10.0.0.2:80"),)),
            # By its name, it is in the inner zone; by its znode, in the namespace of the outer one.
            SetPut("/discovery/deep.inner/x", ServiceName("x", "deep.inner"), (member(3, "10.0.0.3:1"),)),
            SetPut(
                "/aurora/www/prod/hello",
                ServiceName("hello", "prod.www", (b"aurora",)),
                (member(1, "10.0.0.4:80"),),
            ),
        ],
        (NAMESPACE, inner, aurora),
    )


def test_a_service_without_answered_members_has_no_records() -> None:
    """A zone cannot express it: its secondaries answer NXDOMAIN."""
    table = Table(departed_seconds=0)
    for change in (put("empty.prod", []), put("down.prod", [member(1, "10.0.0.1:1", status="DEAD")])):
        table.apply(change)
    config = Config(listen=(), namespaces=(NAMESPACE,))
    _, services = full_copy(zone_text(table, config, ZONE), ZONE, (NAMESPACE,))
    assert services == {}


HOSTS = st.sampled_from(
    ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1", "2001:db8::2", "a.example.com", "b", "c.d.example"]
)
ENDPOINTS = st.builds(Endpoint, HOSTS, st.sampled_from([80, 443, 65535]))
ENDPOINT_NAMES = st.sampled_from(["admin", "http", "Admin", "a.b", "a_b", "é", "x=y", "long" * 10])
PREFIXES = st.sampled_from(["member_0000000001", "member_0000000002", "member_0000000010", "member_x", "m3"])
WORDS = st.sampled_from(["web", "m1", "m3", "Web", "a.b", "m1-x", "é", "sp ace", "x" * 63])


@st.composite
def members(draw: st.DrawFn) -> tuple[Member, ...]:
    names = draw(st.lists(PREFIXES, unique=True, max_size=4))
    found = []
    for name in names:
        additional = draw(st.dictionaries(ENDPOINT_NAMES, ENDPOINTS, max_size=3))
        service = draw(st.none() | ENDPOINTS if additional else ENDPOINTS)
        found.append(
            Member(
                name,
                service,
                additional=dict(sorted(additional.items())),
                shard=draw(st.none() | st.sampled_from([0, 3, -1])),
                weight=draw(st.sampled_from([1.0, 0.0, 0.25, 3.0, 123456.0])),
            )
        )
    # A zone does not have the order in which members without a number have joined.
    return tuple(sorted(found, key=lambda each: by_numbers(each.name)))


def by_numbers(name: str) -> list[tuple[int, str]]:
    """A sort key that compares the numbers in names as numbers."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


@st.composite
def tables(draw: st.DrawFn) -> list[Change]:
    changes: list[Change] = []
    for service, scope in draw(st.lists(st.tuples(WORDS, WORDS), unique=True, max_size=4)):
        name = ServiceName(service, scope)
        try:
            name.check()
        except BadValueError:
            continue
        origin = f"/discovery/{scope}/{service}"
        found = draw(members())
        changes.append(SetPut(origin, name, found))
        held = draw(st.sets(st.sampled_from([each.name for each in found]), max_size=2)) if found else ()
        if held:
            changes.append(MembersHeld(origin, tuple(sorted(held))))
    resolved = {
        "a.example.com": ("10.5.0.1",),
        "b": ("10.5.0.2", "10.5.0.3"),
        "c.d.example": ("2001:db8::9",),
    }
    hosts = draw(st.sets(st.sampled_from(sorted(resolved))))
    # Of several spellings of a name, a zone has only those of sets with members.
    filled = {change.name.key for change in changes if isinstance(change, SetPut) and change.members}
    changes = [
        change
        for change in changes
        if not isinstance(change, SetPut) or change.members or change.name.key not in filled
    ]
    return [*changes, *(HostResolved(host, resolved[host]) for host in sorted(hosts))]


@given(tables())
def test_generated_tables(changes: list[Change]) -> None:
    assert_round_trip(changes)


@pytest.mark.parametrize("znode", ["/discovery/staging/web/member_0000000001", "", "/other/web/m1"])
def test_a_zone_of_another_template_keeps_its_answers_for_services(znode: str) -> None:
    """A znode that no namespace has counts as none."""
    text = "\n".join(
        [
            "discovery.\t2\tIN\tSOA\tlocalhost. hostmaster.discovery. 1 60 10 86400 2",
            f'web.staging.discovery.\t5\tIN\tTXT\t"member=x" "status=ALIVE" "znode={znode}"',
            "web.staging.discovery.\t5\tIN\tSRV\t0 100 80 m1.web.staging.discovery.",
            f'm1.web.staging.discovery.\t5\tIN\tTXT\t"member=x" "status=ALIVE" "znode={znode}"',
            "m1.web.staging.discovery.\t5\tIN\tSRV\t0 100 80 m1.web.staging.discovery.",
            "m1.web.staging.discovery.\t5\tIN\tA\t10.0.0.1",
        ]
    )
    _, services = full_copy(text, ZONE, (NAMESPACE,))
    content = services[(b"web", b"staging", b"discovery")]
    assert content is not None
    assert [one.origin for one in content.sets] == ["static:web.staging.discovery"]
    assert content.sets[0].members[0].addresses == ("10.0.0.1",)


def services_in(records: Records) -> set[Labels]:
    steps = find_services(records, ZONE, (NAMESPACE,))
    while True:
        try:
            assert next(steps) == []
        except StopIteration as end:
            found: set[Labels] = end.value
            return found


TEXTS = st.sampled_from(
    [
        *(
            "member=member_0000000001",
            "member=m0",
            "member=",
            "status=ALIVE",
            "status=?",
            "shard=x",
            "shard=3",
        ),
        *("weight=nan", "weight=-1", "weight=2", "held=1", "host=web1", "host=..", "endpoint.a=10.0.0.1:1"),
        *(
            "endpoint.=x",
            "endpoint.a=1",
            "znode=/discovery/prod/web/member_0000000001",
            "znode=/a/b",
            "",
            "=",
        ),
    ]
)
NAMES = st.sampled_from(
    [(b"web", b"prod"), (b"m1", b"web", b"prod"), (b"m0", b"web", b"prod"), (b"prod",), (b"x.y", b"prod"), ()]
)


@given(st.data())
def test_any_records_are_read_without_an_error(data: st.DataObject) -> None:
    """A hostile primary can send any records: each member is used or skipped."""
    records: Records = {}
    for _ in range(data.draw(st.integers(0, 6))):
        owner = (*data.draw(NAMES), *ZONE)
        found = records.setdefault(owner, [])
        kind = data.draw(st.sampled_from(["TXT", "SRV", "A", "AAAA", "bytes"]))
        if kind == "TXT":
            strings = [text.encode() for text in data.draw(st.lists(TEXTS, max_size=5))]
            found.append((16, b"".join(bytes((len(one),)) + one for one in strings)))
        elif kind == "bytes":
            found.append((16, data.draw(st.binary(max_size=20))))
        elif kind == "SRV":
            target = to_wire((*data.draw(NAMES), *data.draw(st.sampled_from([ZONE, (b"com",), ()]))))
            found.append((33, struct.pack("!3H", 0, 100, data.draw(st.sampled_from([0, 80]))) + target))
        else:
            size = 4 if kind == "A" else 16
            found.append((1 if kind == "A" else 28, data.draw(st.binary(min_size=size, max_size=size))))
    table = Table(departed_seconds=0)
    for key in services_in(records):
        apply_services(table, {key: read_service(key, records, (NAMESPACE,))})
    zone_text(table, Config(listen=(), namespaces=(NAMESPACE,)), ZONE)
    msgspec.msgpack.encode(list(table.contents()))
