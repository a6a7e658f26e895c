"""Digests: what they depend on, and that they follow every change of the table."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dns.helpers import member
from tests.support.line_count import at_most_calls, at_most_lines
from zkdns.config import Config
from zkdns.digest import MEMBERS_PER_STEP, Digest, TableDigests, attributes, member_digest
from zkdns.names import Labels
from zkdns.namespace import STATIC_SOURCE, ServiceName, parse_namespace
from zkdns.serverset.changes import Change, MembersHeld, SetChanged, SetDropped, SetPut
from zkdns.serverset.member import Member
from zkdns.table import Table

ZONE: Labels = (b"discovery",)
INNER: Labels = (b"inner", b"discovery")
DISCOVERY = parse_namespace("/discovery/{environment}/{service}")
CONFIG = Config(listen=(), namespaces=(DISCOVERY, parse_namespace("/inner/{service}", INNER)))
WEB = ServiceName("web", "staging")
PATH = "/discovery/staging/web"
MEMBER = member(1, "10.0.0.1:80", shard=3, additional={"admin": "10.0.0.1:90"})


def put(*members: Member, origin: str = PATH, name: ServiceName = WEB) -> SetPut:
    return SetPut(origin, name, members)


def counted(table: Table, config: Config = CONFIG) -> TableDigests:
    """The digests of a table, with all members counted."""
    digests = table.need_digests(config)
    while not digests.is_complete:
        digests.count_some()
    return digests


def table_of(*changes: Change) -> Table:
    table = Table()
    for change in changes:
        table.apply(change)
    return table


def fresh(table: Table) -> Digest:
    """The digest of a table with the same content, which has applied no other change."""
    return counted(table_of(*table.contents())).of_zone(ZONE)


# -- the digest of a member ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        member(2, "10.0.0.1:80", shard=3, additional={"admin": "10.0.0.1:90"}),
        member(1, "10.0.0.2:80", shard=3, additional={"admin": "10.0.0.1:90"}),
        member(1, "10.0.0.1:81", shard=3, additional={"admin": "10.0.0.1:90"}),
        member(1, None, shard=3, additional={"admin": "10.0.0.1:90"}),
        member(1, "myhost:80", shard=3, additional={"admin": "10.0.0.1:90"}),
        member(1, "10.0.0.1:80", shard=4, additional={"admin": "10.0.0.1:90"}),
        member(1, "10.0.0.1:80", additional={"admin": "10.0.0.1:90"}),
        member(1, "10.0.0.1:80", shard=3, additional={"admin": "10.0.0.1:91"}),
        member(1, "10.0.0.1:80", shard=3, additional={"Admin": "10.0.0.1:90"}),
        member(1, "10.0.0.1:80", shard=3),
        member(1, "10.0.0.1:80", shard=3, status="STARTING", additional={"admin": "10.0.0.1:90"}),
        member(1, "10.0.0.1:80", shard=3, weight=2.0, additional={"admin": "10.0.0.1:90"}),
    ],
)
def test_a_member_that_differs_in_a_record_has_another_digest(other: Member) -> None:
    assert member_digest("web", other, is_held=False) != member_digest("web", MEMBER, is_held=False)


def test_the_service_and_a_held_member_have_other_digests() -> None:
    digests = {member_digest(name, MEMBER, is_held=held) for name in ("web", "api") for held in (False, True)}
    assert len(digests) == 4


def test_what_no_record_has_does_not_count() -> None:
    same = msgspec.structs.replace(MEMBER, metadata={"a": "b"}, written="10.0.0.1:080")
    assert member_digest("web", same, is_held=False) == member_digest("web", MEMBER, is_held=False)
    upper = member(1, "Db1.Example.com:80")
    lower = member(1, "db1.example.com:80")
    assert member_digest("web", upper, is_held=False) == member_digest("web", lower, is_held=False)


def test_a_digest_is_the_same_in_every_version() -> None:
    assert f"{member_digest('web.staging.discovery', MEMBER, is_held=False):016x}" == "7fbbd25266356685"


def test_the_attributes_contain_the_host_only_if_no_record_has_it() -> None:
    assert attributes(member(1, "db1:80"), is_held=True) == [
        "member=member_0000000001",
        "status=ALIVE",
        "held=1",
        "host=db1",
    ]
    assert not any("host=" in text for text in attributes(member(1, "db1.example:80"), is_held=False))


def test_an_attribute_that_does_not_fit_is_left_out() -> None:
    long = member(1, "10.0.0.1:80", additional={"x" * 250: "10.0.0.1:81", "admin": "10.0.0.1:82"})
    assert [text for text in attributes(long, is_held=False) if text.startswith("endpoint")] == [
        "endpoint.admin=10.0.0.1:82"
    ]


def test_digests_are_16_hexadecimal_digits() -> None:
    assert Digest(3, 0xAB).strings == ("v=1", "members=3", "digest=00000000000000ab")


# -- the digests of a table ----------------------------------------------------------------------------------


def test_only_answered_members_count() -> None:
    hidden = member(2, "10.0.0.2:80", status="STARTING"), member(3, "10.0.0.3:80", weight=-1.0)
    digest = counted(table_of(put(MEMBER, *hidden))).of_zone(ZONE)
    assert digest == Digest(1, member_digest("web.staging.discovery", MEMBER, is_held=False))


def test_the_order_of_members_and_of_changes_does_not_matter() -> None:
    others = [member(number, f"10.0.0.{number}:80") for number in range(2, 5)]
    one = table_of(put(MEMBER, *others))
    other = table_of(put(*reversed(others)), SetChanged(PATH, (MEMBER,), ()))
    assert counted(one).of_zone(ZONE) == counted(other).of_zone(ZONE)


def test_a_set_counts_for_its_source_and_for_the_longest_zone() -> None:
    inner = ServiceName("web", "", INNER)
    table = table_of(
        put(MEMBER),
        put(member(2, "10.0.0.2:80"), origin="/inner/web", name=inner),
        put(member(3, "10.0.0.3:80"), origin="static:web.prod", name=ServiceName("web", "prod")),
    )
    digests = counted(table)
    assert {zone: digest.members for zone, digest in digests.of_zones.items()} == {INNER: 1, ZONE: 2}
    assert digests.of_source(DISCOVERY.template).members == 1
    assert digests.of_source("/inner/{service}") == digests.of_zone(INNER)
    assert digests.of_source(STATIC_SOURCE).members == 1
    assert digests.of_source("/other/{service}") == Digest()


def test_the_sets_of_a_service_are_added_up() -> None:
    upper = put(member(2, "10.0.0.2:80"), origin="/discovery/staging/WEB", name=ServiceName("WEB", "staging"))
    table = table_of(put(MEMBER), upper)
    digests = counted(table)
    assert digests.of_service(table.services[WEB.key].sets.values()) == digests.of_zone(ZONE)


def test_no_member_is_counted_before_the_first_call() -> None:
    table = table_of(put(MEMBER))
    assert table.digests is None
    assert table.services[WEB.key].sets[PATH].digest is None


def test_members_are_counted_in_steps_that_bear_changes_between_them() -> None:
    members = [member(number, f"10.0.0.{number}:80") for number in range(1, 201)]
    table = table_of(put(*members), MembersHeld(PATH, (members[0].name,), 1.0))
    digests = table.need_digests(CONFIG)
    assert digests.count_some() == MEMBERS_PER_STEP
    assert not digests.is_complete
    changed = member(2, "10.9.9.9:80")
    gone = (members[4].name, members[150].name)
    table.apply(SetChanged(PATH, (members[0], changed, member(999, "10.9.9.8:80")), gone))
    table.apply(MembersHeld(PATH, (members[199].name, members[10].name), 2.0))
    assert counted(table).of_zone(ZONE) == fresh(table)
    assert digests.of_zone(ZONE).members == 199


def test_a_set_of_which_many_members_change_is_counted_again_in_steps() -> None:
    before, after = ([member(number, f"10.0.0.1:{port}") for number in range(1000)] for port in (80, 81))
    table = table_of(put(*before))
    digests = counted(table)
    for change in (
        put(*after),
        MembersHeld(PATH, tuple(each.name for each in after), 1.0),
        SetChanged(PATH, (), tuple(each.name for each in before[:900])),
    ):
        with at_most_calls(len(before) * 6):
            table.apply(change)
        assert not digests.is_complete
        assert counted(table).of_zone(ZONE) == fresh(table)


def test_a_replaced_member_costs_two_hashes_and_one_difference() -> None:
    table = table_of(put(MEMBER, member(2, "10.0.0.2:80")))
    counted(table)
    found = table.set_of(PATH)
    assert found is not None
    other = member(2, "10.0.0.3:80")
    with at_most_lines(40):
        found.put(other)
    assert counted(table).of_zone(ZONE) == fresh(table)


def test_a_set_that_goes_while_it_is_counted_leaves_nothing() -> None:
    members = [member(number, f"10.0.0.{number}:80") for number in range(1, 201)]
    other = put(MEMBER, origin="/discovery/prod/web", name=ServiceName("web", "prod"))
    table = table_of(put(*members), other)
    digests = table.need_digests(CONFIG)
    digests.count_some()
    table.apply(SetDropped(PATH))
    assert counted(table).of_zone(ZONE) == fresh(table)
    table.apply(put(*members[:3]))
    assert not digests.is_complete
    assert counted(table).of_zone(ZONE).members == 4
    table.apply(SetDropped(PATH))
    table.apply(SetDropped(other.origin))
    assert digests.of_zone(ZONE) == digests.of_source(DISCOVERY.template) == Digest()


_MEMBERS = st.builds(
    lambda number, host, weight, status: member(
        number,
        f"10.0.0.{host}:80",
        weight=weight,
        status=status,
        additional={"a": "h:1"} if host == 1 else {},
    ),
    st.integers(0, 3),
    st.integers(1, 3),
    st.sampled_from((1.0, 0.0, -1.0)),
    st.sampled_from(("ALIVE", "STARTING")),
)
_NAMES = st.integers(0, 3).map(lambda number: f"member_{number:010d}")
_ORIGINS = st.sampled_from((PATH, "/discovery/staging/WEB"))
_CHANGES = st.one_of(
    st.builds(
        lambda at, some: SetPut(at, WEB, tuple({m.name: m for m in some}.values())),
        _ORIGINS,
        st.lists(_MEMBERS),
    ),
    st.builds(lambda at, one, name: SetChanged(at, (one,), (name,)), _ORIGINS, _MEMBERS, _NAMES),
    st.builds(lambda at, names: MembersHeld(at, tuple(names), 1.0), _ORIGINS, st.lists(_NAMES)),
    st.builds(SetDropped, _ORIGINS),
)


@given(st.lists(st.one_of(_CHANGES, st.none()), max_size=30))
def test_a_digest_that_follows_changes_equals_a_fresh_one(steps: list[Change | None]) -> None:
    """None stands for a step of counting."""
    table = Table()
    digests = table.need_digests(CONFIG)
    for step in steps:
        if step is None:
            digests.count_some()
        else:
            table.apply(step)
    assert counted(table).of_zone(ZONE) == fresh(table)
