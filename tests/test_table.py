"""The table: the effects of changes, and departed members."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkdns.namespace import ServiceName
from zkdns.serverset.changes import (
    Change,
    DirectoryUnread,
    HostResolved,
    MembersHeld,
    SetChanged,
    SetDropped,
    SetPut,
    SetUnread,
)
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import ANY_SERVICE, CHANGED_AT_ONCE, DEPARTED_SECONDS, Table

WEB = ServiceName("web", "staging")
KEY = WEB.key
PATH = "/discovery/staging/web"


def member(number: int, host: str | None = None, **fields: object) -> Member:
    return Member(f"member_{number:010d}", Endpoint(host or f"10.0.0.{number}", 80), **fields)  # type: ignore[arg-type]


def put(*members: Member, origin: str = PATH, name: ServiceName = WEB) -> SetPut:
    return SetPut(origin, name, members)


def names(table: Table, origin: str = PATH) -> list[str]:
    """The members of a set, in order."""
    return list(table.services[KEY].sets[origin].members)


def table_of(*changes: Change, departed_seconds: float = DEPARTED_SECONDS) -> Table:
    table = Table(departed_seconds=departed_seconds)
    for change in changes:
        table.apply(change)
    return table


def test_a_new_table_is_empty() -> None:
    table = Table()
    assert (table.services, table.origins, table.hosts, table.serial) == ({}, set(), set(), 0)
    assert list(table.contents()) == []


# -- sets ---------------------------------------------------------------------------------------------------


def test_a_set_without_members_is_a_service() -> None:
    table = Table()
    assert table.apply(put()) == {KEY}
    assert names(table) == []
    assert table.apply(put()) == set()


def test_a_put_replaces_the_members_and_returns_whether_they_changed() -> None:
    table = table_of(put(member(1), member(2)))
    assert table.apply(put(member(1), member(2))) == set()
    assert table.apply(put(member(2), member(3))) == {KEY}
    assert names(table) == [member(2).name, member(3).name]
    assert table.apply(put(member(2, "10.9.9.9"), member(3))) == {KEY}
    assert table.services[KEY].sets[PATH].members[member(2).name].service == Endpoint("10.9.9.9", 80)


def test_members_join_and_leave() -> None:
    table = table_of(put(member(1)))
    assert table.apply(SetChanged(PATH, (member(2),), ())) == {KEY}
    assert table.apply(SetChanged(PATH, (), (member(1).name,))) == {KEY}
    assert table.apply(SetChanged(PATH, (), (member(1).name,))) == set()
    assert names(table) == [member(2).name]


def test_a_change_of_an_unknown_set_does_nothing() -> None:
    table = Table()
    assert table.apply(SetChanged(PATH, (member(1),), ())) == set()
    assert table.apply(SetDropped(PATH)) == set()
    assert (table.services, table.hosts) == ({}, set())


def test_a_dropped_set_removes_its_service() -> None:
    table = table_of(put(member(1, "myhost")))
    table.apply(SetChanged(PATH, (), (member(1).name,)), 0.0)
    assert table.apply(SetDropped(PATH)) == {KEY}
    assert (table.services, table.origins, table.hosts) == ({}, set(), set())
    assert table.expire(1000.0) == set()


def test_a_set_that_changes_its_name_leaves_the_old_one() -> None:
    other = ServiceName("api", "prod")
    table = table_of(put(member(1, "myhost")))
    assert table.apply(put(member(1, "myhost"), name=other)) == {KEY, other.key}
    assert (list(table.services), table.origins, table.hosts) == ([other.key], {PATH}, {"myhost"})


def test_two_sets_of_one_name_are_one_service_until_the_last_is_dropped() -> None:
    upper = put(member(1), origin="/discovery/staging/WEB", name=ServiceName("WEB", "staging"))
    for first, second in ((put(member(1)), upper), (upper, put(member(1)))):
        table = table_of(first, second)
        service = table.services[KEY]
        assert service.first.origin == PATH  # lower case has precedence, whichever came first
        assert [owner.origin for owner in service.by_precedence()] == [PATH, upper.origin]
        assert table.apply(SetDropped(PATH)) == {KEY}
        assert table.services[KEY].first.origin == upper.origin
        assert table.apply(SetDropped(upper.origin)) == {KEY}
        assert table.services == {}


def test_retain_drops_every_other_set() -> None:
    other = put(member(1), origin="/discovery/staging/api", name=ServiceName("api", "staging"))
    table = table_of(put(member(1)), other)
    assert set().union(*table.retain({PATH, "/not/there"})) == {other.name.key}
    assert table.origins == {PATH}
    assert set().union(*table.retain({PATH})) == set()


def test_retain_drops_many_sets_in_small_pieces() -> None:
    table = table_of(
        *(put(origin=f"/discovery/staging/s{n}", name=ServiceName(f"s{n}", "staging")) for n in range(1000))
    )
    sizes = list(map(len, table.retain(set())))
    assert (sum(sizes), max(sizes)) == (1000, 50)


# -- departed members ---------------------------------------------------------------------------------------


def test_departed_members_expire_in_pieces() -> None:
    table = table_of(put(*map(member, range(10))))
    for number in range(10):
        table.apply(SetChanged(PATH, (), (member(number).name,)), 10.0 - number)
    table.apply(SetChanged(PATH, (member(4),), ()), 11.0)  # joins again
    departed = table.services[KEY].departed
    assert table.expire(60.0 + 4, 2) == {KEY}
    assert len(departed) == 7
    assert table.expire(60.0 + 4, 2) == {KEY}
    assert sorted(name for _, name in departed) == [member(number).name for number in (0, 1, 2, 3, 5)]
    assert table.expire(60.0 + 4, 2) == set()
    assert table.expire(1000.0) == {KEY}
    assert departed == {}


def test_departed_members_of_dropped_sets_expire_in_pieces() -> None:
    names = [ServiceName(f"s{number}", "staging") for number in range(10)]
    origins = [f"/discovery/staging/{name.service}" for name in names]
    table = table_of(*map(lambda origin, name: put(member(1), origin=origin, name=name), origins, names))
    for origin in origins:
        table.apply(SetChanged(origin, (), (member(1).name,)), 0.0)
    for origin in origins[:-1]:
        table.apply(SetDropped(origin))
    assert not table.has_expired(59.9)
    pieces = 0
    while table.has_expired(60.0):
        table.expire(60.0, 2)
        pieces += 1
    assert pieces == len(names) // 2
    assert not table.services[names[-1].key].departed


def test_departed_members_are_kept_for_a_minute() -> None:
    table = table_of(put(member(1), member(2)))
    table.apply(SetChanged(PATH, (), (member(1).name,)), 100.0)
    table.apply(put(), 130.0)
    service = table.services[KEY]
    assert service.departed == {
        (PATH, member(1).name): (member(1), 160.0),
        (PATH, member(2).name): (member(2), 190.0),
    }
    assert table.expire(159.9) == set()
    assert table.expire(160.0) == {KEY}
    assert table.expire(160.0) == set()
    assert list(service.departed) == [(PATH, member(2).name)]
    assert table.expire(190.0) == {KEY}
    assert service.departed == {}


def test_a_member_that_returns_is_not_departed() -> None:
    table = table_of(put(member(1)))
    table.apply(SetChanged(PATH, (), (member(1).name,)), 0.0)
    table.apply(SetChanged(PATH, (member(1),), ()), 1.0)
    assert table.services[KEY].departed == {}
    assert table.expire(1000.0) == set()
    assert names(table) == [member(1).name]


def test_one_change_may_remove_a_member_and_add_it_again() -> None:
    table = table_of(put(member(1)))
    assert table.apply(SetChanged(PATH, (member(1, "10.9.9.9"),), (member(1).name,))) == {KEY}
    assert table.services[KEY].departed == {}
    assert names(table) == [member(1).name]


def test_a_table_may_keep_no_departed_members() -> None:
    table = table_of(put(member(1, "myhost")), put(), departed_seconds=0)
    assert table.services[KEY].departed == {}
    assert table.hosts == set()


def test_departed_members_of_a_dropped_set_are_forgotten() -> None:
    table = table_of(put(member(1, "myhost")), put(origin="/other", name=ServiceName("Web", "staging")))
    table.apply(SetChanged(PATH, (), (member(1).name,)), 0.0)
    table.apply(SetDropped(PATH))
    assert table.services[KEY].departed == {}
    assert table.hosts == set()
    assert table.expire(1000.0) == set()


# -- host names ---------------------------------------------------------------------------------------------


def test_hosts_are_the_host_names_of_all_endpoints() -> None:
    extra = {"admin": Endpoint("other.example", 1), "six": Endpoint("2001:db8::1", 1)}
    table = table_of(put(member(1, "myhost", additional=extra), member(2)))
    assert table.hosts == {"myhost", "other.example"}


def test_resolved_addresses_change_the_services_with_the_host() -> None:
    api = ServiceName("api", "staging")
    table = table_of(
        put(member(1, "myhost")),
        put(member(1, "myhost"), origin="/api", name=api),
        put(member(1), origin="/db", name=ServiceName("db", "staging")),
    )
    resolved = HostResolved("myhost", ("10.0.0.1",))
    assert table.apply(resolved) == {KEY, api.key}
    assert table.apply(resolved) == set()
    assert table.addresses_of("myhost") == ("10.0.0.1",)
    assert table.apply(HostResolved("myhost", ())) == {KEY, api.key}
    assert table.apply(HostResolved("unknown", ("10.0.0.1",))) == set()
    assert table.addresses_of("unknown") == ()


@pytest.mark.parametrize("departed_seconds", [0.0, 60.0])
@pytest.mark.parametrize(
    "change",
    [
        SetChanged(PATH, (member(2, "myhost"),), (member(1, "myhost").name,)),
        SetChanged(PATH, (member(1, "myhost", shard=1),), ()),
        SetChanged(PATH, (member(1, "myhost"),), (member(1, "myhost").name,)),
        put(member(2, "myhost")),
        put(member(1, "myhost", shard=1)),
    ],
)
def test_a_host_keeps_its_addresses_while_its_member_is_replaced(
    departed_seconds: float, change: Change
) -> None:
    """A restarting member leaves and joins in one change. Its host would not be resolved again."""
    table = table_of(
        put(member(1, "myhost")), HostResolved("myhost", ("10.0.0.1",)), departed_seconds=departed_seconds
    )
    table.apply(change, 0.0)
    table.expire(1000.0)
    assert table.addresses_of("myhost") == ("10.0.0.1",)
    assert table.hosts == {"myhost"}


def test_a_hosts_addresses_are_forgotten_with_its_last_member() -> None:
    table = table_of(put(member(1, "myhost"), member(2, "myhost")), HostResolved("myhost", ("10.0.0.1",)))
    table.apply(put(member(2, "myhost")), 0.0)
    table.expire(60.0)
    assert table.addresses_of("myhost") == ("10.0.0.1",)
    table.apply(put(), 100.0)
    assert table.addresses_of("myhost") == ("10.0.0.1",)  # the departed member's name still needs it
    table.expire(160.0)
    assert (table.hosts, table.addresses_of("myhost")) == (set(), ())


# -- copies -------------------------------------------------------------------------------------------------

_MEMBERS = st.builds(
    member,
    st.integers(0, 5),
    st.sampled_from([None, "myhost", "db.example"]),
    shard=st.none() | st.integers(0, 2),
)
_ORIGINS = st.sampled_from(
    [
        (PATH, WEB),
        ("/discovery/staging/WEB", ServiceName("WEB", "staging")),
        ("/api", ServiceName("api", "prod")),
    ]
)
_CHANGES = st.lists(
    st.builds(
        lambda at, members: SetPut(at[0], at[1], tuple(members)),
        _ORIGINS,
        st.lists(_MEMBERS, max_size=4, unique_by=lambda entry: entry.name),
    )
    | st.builds(
        lambda at, added, removed: SetChanged(at[0], tuple(added), tuple(entry.name for entry in removed)),
        _ORIGINS,
        st.lists(_MEMBERS, max_size=3),
        st.lists(_MEMBERS, max_size=3),
    )
    | st.builds(lambda at: SetDropped(at[0]), _ORIGINS)
    | st.builds(
        HostResolved,
        st.sampled_from(["myhost", "db.example", "unknown"]),
        st.sampled_from([(), ("10.1.1.1",), ("10.1.1.1", "::1")]),
    ),
    max_size=20,
)


@given(_CHANGES, st.booleans())
@settings(max_examples=300, deadline=None)
def test_contents_turn_an_empty_table_into_a_copy(changes: list[Change], departing: bool) -> None:
    table = Table(departed_seconds=60.0 if departing else 0.0)
    for at, change in enumerate(changes):
        table.apply(change, float(at))
    table.expire(1000.0)
    copy = table_of(*table.contents())
    assert list(copy.contents()) == list(table.contents())
    assert copy.services.keys() == table.services.keys()
    used = {
        entry.service.host
        for service in table.services.values()
        for owner in service.sets.values()
        for entry in owner.members.values()
        if entry.service and not entry.service.host[0].isdigit()
    }
    assert table.hosts == copy.hosts == used
    assert all(not service.departed for service in table.services.values())


@given(_CHANGES)
@settings(max_examples=200, deadline=None)
def test_a_change_returns_every_service_that_it_alters(changes: list[Change]) -> None:
    table = Table()
    for change in changes:
        before = _picture(table)
        told = table.apply(change, 0.0)
        after = _picture(table)
        altered = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert altered <= told


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("is_put", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (range(5000), range(2500, 7500)),
        (range(5000), range(5000, 10_000)),
        (range(2000), range(0)),
        (range(2000), range(2001)),
    ],
)
def test_steps_have_the_result_of_the_change(before: range, after: range, is_put: bool, held: bool) -> None:
    """Members with an even number also change."""
    old = [member(number) for number in before]
    new = [member(number, f"10.1.0.{number % 8}" if number % 2 == 0 else None) for number in after]
    changes: list[Change] = [put(*old)]
    if held:
        changes.append(MembersHeld(PATH, tuple(each.name for each in old[:1500])))
    whole, stepwise = table_of(*changes), table_of(*changes)
    wanted = {each.name for each in new}
    change: Change = put(*new)
    if not is_put:
        change = SetChanged(PATH, tuple(new), tuple(each.name for each in old if each.name not in wanted))
    whole.apply(change)
    has_all = False
    for step in stepwise.steps_of(change):
        if isinstance(step, SetChanged):
            assert len(step.added) + len(step.removed) <= CHANGED_AT_ONCE
        stepwise.apply(step)
        found = set(names(stepwise))
        has_all |= wanted <= found
        assert has_all or {each.name for each in old} <= found  # nothing leaves before all have joined
    assert has_all
    assert list(stepwise.contents()) == list(whole.contents())
    assert _departed(stepwise) == _departed(whole)


def test_a_small_change_is_one_step_and_may_remove_a_member_and_add_it_again() -> None:
    table = table_of(put(*map(member, range(3000))))
    for change in (SetChanged(PATH, (member(1),), ()), SetDropped(PATH)):
        assert table.steps_of(change) == (change,)
    new, gone = member(3000), member(0).name
    assert table.steps_of(put(*map(member, range(1, 3001)))) == (SetChanged(PATH, (new,), (gone,)),)
    again = tuple(member(number, "10.9.9.9") for number in range(2000))
    for step in table.steps_of(SetChanged(PATH, again, tuple(each.name for each in again))):
        table.apply(step)
    assert len(names(table)) == 3000
    unread = table_of(SetUnread(PATH, WEB))
    large = put(*map(member, range(3000)))
    assert unread.steps_of(large) == (large,)


def _departed(table: Table) -> set[tuple[str, str]]:
    return {name for service in table.services.values() for name in service.departed}


def _picture(table: Table) -> dict[object, object]:
    """The data of each service that determines its answers."""
    return {
        key: [
            (owner.origin, name, entry, [table.addresses_of(endpoint.host) for endpoint in entry.endpoints])
            for owner in service.by_precedence()
            for name, entry in owner.members.items()
        ]
        for key, service in table.services.items()
    }


# -- held members -------------------------------------------------------------------------------------------


def held(table: Table) -> set[str]:
    return set(table.services[KEY].sets[PATH].held)


def test_held_members_stay_until_they_are_removed() -> None:
    table = table_of(put(member(1), member(2)))
    assert table.apply(MembersHeld(PATH, (member(1).name,))) == {KEY}
    assert table.apply(MembersHeld(PATH, (member(1).name,))) == set()
    assert (names(table), held(table)) == ([member(1).name, member(2).name], {member(1).name})
    assert table.apply(MembersHeld(PATH, (member(2).name,))) == {KEY}
    assert held(table) == {member(1).name, member(2).name}
    assert table.apply(SetChanged(PATH, (), (member(1).name,))) == {KEY}
    assert (names(table), held(table)) == ([member(2).name], {member(2).name})


@pytest.mark.parametrize("back", [SetChanged(PATH, (member(1),), ()), put(member(1))])
def test_a_member_that_joins_again_is_not_held(back: Change) -> None:
    table = table_of(put(member(1)), MembersHeld(PATH, (member(1).name,)))
    assert table.apply(back) == {KEY}
    assert (names(table), held(table)) == ([member(1).name], set())


def test_only_known_members_can_be_held() -> None:
    table = table_of(put(member(1)))
    assert table.apply(MembersHeld(PATH, (member(2).name,))) == set()
    assert table.apply(MembersHeld("/elsewhere", (member(1).name,))) == set()
    assert held(table) == set()


def test_a_copy_has_the_held_members() -> None:
    table = table_of(put(member(1), member(2)), MembersHeld(PATH, (member(2).name,)))
    assert held(table_of(*table.contents())) == {member(2).name}


# -- members by endpoint ------------------------------------------------------------------------------------


def test_members_are_found_at_their_endpoints_after_each_change() -> None:
    table = table_of(put(member(1, "10.0.0.1"), member(2, "10.0.0.1"), member(3, "10.0.0.3")))
    web = table.services[KEY].sets[PATH]

    def names_at(host: str) -> set[str]:
        return set(web.names_at((host, 80)))

    assert names_at("10.0.0.1") == {member(1).name, member(2).name}
    table.apply(SetChanged(PATH, (member(2, "10.0.0.3"), member(4, "10.0.0.4")), (member(1).name,)))
    assert (names_at("10.0.0.1"), names_at("10.0.0.4")) == (set(), {member(4).name})
    assert names_at("10.0.0.3") == {member(2).name, member(3).name}
    table.apply(put(member(3, "10.0.0.3")))
    assert (names_at("10.0.0.3"), names_at("10.0.0.4")) == ({member(3).name}, set())


# -- unreadable sets ----------------------------------------------------------------------------------------


def test_an_unread_set_is_a_service_until_it_is_read() -> None:
    table = Table()
    assert table.apply(SetUnread(PATH, WEB)) == {KEY}
    assert table.services[KEY].is_unread
    assert table.apply(SetUnread(PATH, WEB)) == set()
    assert table.apply(put(member(1))) == {KEY}
    assert (table.services[KEY].is_unread, names(table)) == (False, [member(1).name])


def test_a_set_that_becomes_unreadable_keeps_its_members() -> None:
    table = table_of(put(member(1)))
    assert table.apply(SetUnread(PATH, WEB)) == set()
    assert (table.services[KEY].is_unread, names(table)) == (False, [member(1).name])


def test_an_empty_set_counts_as_read() -> None:
    table = table_of(SetUnread(PATH, WEB))
    assert table.apply(put()) == {KEY}
    assert not table.services[KEY].is_unread


def test_of_two_sets_under_one_name_the_one_that_was_read_answers() -> None:
    other = put(member(1), origin="/discovery/staging/WEB", name=ServiceName("WEB", "staging"))
    table = table_of(SetUnread(PATH, WEB), other)
    assert not table.services[KEY].is_unread
    copy = table_of(*table.contents())
    assert list(copy.contents()) == list(table.contents())
    assert table.apply(SetDropped(other.origin)) == {KEY}
    assert table.services[KEY].is_unread


def test_a_copy_has_the_same_outdated_sets() -> None:
    old = SetPut("/discovery/prod/web", ServiceName("web", "prod"), (member(1),))
    table = table_of(old, put(member(2)), DirectoryUnread("/discovery"), put(member(2)))
    for copy in (table_of(*table.contents()), table):
        for change in table.contents():  # also if the copy has an earlier state
            copy.apply(change)
        sets = [copy.set_of(origin) for origin in (old.origin, PATH)]
        assert [each is not None and each.is_outdated for each in sets] == [True, False]
    assert table.apply(DirectoryUnread("/discovery", is_unread=False)) == {ANY_SERVICE, old.name.key}


def test_an_empty_set_does_not_answer_for_an_unread_one_of_its_name() -> None:
    other = put(origin="/discovery/staging/WEB", name=ServiceName("WEB", "staging"))
    assert table_of(SetUnread(PATH, WEB), other).services[KEY].is_unread


# -- addresses ----------------------------------------------------------------------------------------------


def test_addresses_are_indexed_only_on_request() -> None:
    assert Table().addresses is None


def test_an_address_is_indexed_from_its_first_to_its_last_member() -> None:
    table = Table(departed_seconds=60.0, with_addresses=True)
    assert table.addresses is not None
    table.apply(put(member(1, "10.0.0.1"), member(2, "10.0.0.1"), member(3, "host")))
    assert table.addresses.take_new() == {"10.0.0.1"}
    table.apply(SetChanged(PATH, (member(1, "10.0.0.2"),), (member(2).name,)), now=0.0)
    assert set(table.addresses.users("10.0.0.1")) == {KEY}  # of a departed member
    assert table.addresses.take_new() == {"10.0.0.2"}
    table.expire(60.0)
    assert "10.0.0.1" not in table.addresses
    assert list(table.addresses.users("10.0.0.1")) == []
    table.apply(HostResolved("host", ("10.0.0.9",)))
    assert "10.0.0.9" not in table.addresses
    table.apply(SetDropped(PATH))
    assert "10.0.0.2" not in table.addresses
    assert table.addresses.take_new() == set()


def test_an_address_that_stays_in_a_service_is_not_new() -> None:
    table = Table(with_addresses=True)
    assert table.addresses is not None
    table.apply(put(member(1, "10.0.0.1")))
    table.addresses.take_new()
    table.apply(put(member(2, "10.0.0.1")))
    assert table.addresses.take_new() == set()
