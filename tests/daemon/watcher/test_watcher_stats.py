"""Counts of members that join, leave and are in the table."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.daemon.ipc.feed_helpers import member, put, watcher_context
from zkdns.config import load_config
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher.request_handlers import list_services
from zkdns.daemon.watcher.watcher_stats import MemberCounts, MemberMovements
from zkdns.serverset.changes import Change, MembersHeld, SetChanged, SetDropped, SetUnread
from zkdns.serverset.member import Member
from zkdns.table import Table
from zkdns.telemetry.stats import ServiceMembers

WEB = put("web")


def distinct_members() -> st.SearchStrategy[tuple[Member, ...]]:
    """Distinct members with one of two hosts each."""
    numbers = st.dictionaries(st.integers(0, 4), st.sampled_from(["10.0.0.1", "10.0.0.2"]))
    return numbers.map(lambda hosts: tuple(member(number, host) for number, host in hosts.items()))


def member_names() -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.integers(0, 4), unique=True).map(
        lambda numbers: tuple(member(number).name for number in numbers)
    )


def changes() -> st.SearchStrategy[Change]:
    origins = st.sampled_from(["web", "db"])
    return st.one_of(
        st.builds(lambda name, members: put(name, *members), origins, distinct_members()),
        st.builds(
            lambda name, added, removed: SetChanged(put(name).origin, added, removed),
            *(origins, distinct_members(), member_names()),
        ),
        st.builds(lambda name: SetDropped(put(name).origin), origins),
        st.builds(lambda name: SetUnread(put(name).origin, put(name).name), origins),
        st.builds(lambda name, names: MembersHeld(put(name).origin, names), origins, member_names()),
    )


@given(st.lists(changes(), max_size=12))
def test_joined_minus_left_is_the_number_of_members(made: list[Change]) -> None:
    table = Table(departed_seconds=0)
    movements = MemberMovements(table)
    for change in made:
        movements.note(change)
        table.apply(change)
        members = sum(len(owner.members) for one in table.services.values() for owner in one.sets.values())
        assert movements.joined - movements.left == members


@pytest.mark.parametrize(
    ("change", "joined", "left"),
    [
        (put("web", member(1), member(2, "10.0.0.9"), member(3)), 1, 0),
        (put("web", member(2)), 0, 1),
        (SetChanged(WEB.origin, (member(2, "10.0.0.9"), member(3)), ()), 1, 0),
        (SetChanged(WEB.origin, (member(2, "10.0.0.9"),), (member(2).name,)), 0, 0),
        (SetChanged(WEB.origin, (), (member(1).name, member(7).name)), 0, 1),
        (SetChanged("/unknown", (member(1),), ()), 0, 0),
        (SetDropped(WEB.origin), 0, 2),
        (MembersHeld(WEB.origin, (member(1).name,)), 0, 0),
    ],
    ids=["put", "put fewer", "added", "replaced", "removed", "unknown set", "dropped", "held"],
)
def test_a_replaced_or_held_member_neither_joins_nor_leaves(change: Change, joined: int, left: int) -> None:
    table = Table(departed_seconds=0)
    table.apply(put("web", member(1), member(2)))
    movements = MemberMovements(table)
    movements.note(change)
    assert (movements.joined, movements.left) == (joined, left)


def test_member_counts_agree_with_the_list_of_services() -> None:
    asyncio.run(compare_counts())


async def compare_counts() -> None:
    publisher, config = Publisher(), load_config(flags={}, environment={}, file=None)
    table = publisher.table
    counts = MemberCounts(table, config.statuses)
    weights = {1: 1.0, 2: 0.0, 3: -1.0}
    table.apply(put("web", *(replace(member(number), weight=weight) for number, weight in weights.items())))
    counts.note(set(table.services))
    counts.update()
    listed, _ = list_services(watcher_context(config, publisher))
    assert [(line.alive, line.hidden) for line in listed.services] == [(2, 1)]
    assert (counts.alive, counts.hidden) == (2, 1)


@given(st.lists(st.lists(changes(), max_size=4), max_size=6))
def test_reports_of_members_add_up_to_the_present_members(rounds: list[list[Change]]) -> None:
    table = Table(departed_seconds=0)
    counts = MemberCounts(table, {"ALIVE"})
    reported: dict[str, ServiceMembers] = {}
    for made in rounds:
        for change in made:
            counts.note(table.apply(change))
        counts.update()
        for report in counts.take_reports((b"discovery",)):
            reported.update(report.services)
            for name in report.gone:
                del reported[name]
    fresh = MemberCounts(table, {"ALIVE"})
    fresh.note(set(table.services))
    fresh.update()
    present = {
        name: members
        for report in fresh.take_reports((b"discovery",))
        for name, members in report.services.items()
    }
    assert reported == present
    assert list(counts.take_reports((b"discovery",))) == []


def test_the_members_of_many_services_are_reported_in_parts() -> None:
    table = Table(departed_seconds=0)
    counts = MemberCounts(table, {"ALIVE"})
    for number in range(2500):
        counts.note(table.apply(put(f"s{number}", member(1))))
    while counts.update():
        pass
    assert [len(report.services) for report in counts.take_reports((b"discovery",))] == [250] * 10


def test_members_of_many_services_are_counted_in_pieces() -> None:
    table = Table(departed_seconds=0)
    counts = MemberCounts(table, load_config(flags={}, environment={}, file=None).statuses)
    for number in range(1200):
        counts.note(table.apply(put(f"s{number}", member(1))))
    found = []
    while counts.update():
        found.append(counts.alive)
    assert [*found, counts.alive] == [500, 1000, 1200]
