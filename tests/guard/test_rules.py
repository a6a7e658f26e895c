"""Properties of the guard that hold for every sequence of events."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.guard.guard_internals import served_in_table
from tests.guard.helpers import HOLD_SECONDS, SESSION_TIMEOUT, Scenario, member, origin_of, put
from zkdns.guard import WAIT_SECONDS, WINDOW_SECONDS
from zkdns.serverset.changes import Change, MembersHeld, SetChanged, SetDropped
from zkdns.serverset.member import Status

SERVICES = ("web", "api", "db")

# Few hosts, so that members replace each other; few numbers, so that they return.
entries = st.builds(
    lambda number, host, is_alive: member(
        number, host=f"10.0.0.{host}", status=Status.ALIVE if is_alive else Status.STARTING
    ),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([True, True, True, False]),
)
several = st.lists(entries, max_size=8, unique_by=lambda entry: entry.name).map(tuple)
services = st.sampled_from(SERVICES)
names = st.lists(st.integers(1, 9).map(lambda number: member(number).name), max_size=9).map(tuple)
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(lambda service, found: put(service, *found), services, several),
    st.builds(
        lambda service, added, removed: SetChanged(origin_of(service), added, removed),
        services,
        several,
        names,
    ),
    st.builds(lambda service, removed: SetChanged(origin_of(service), (), removed), services, names),
    st.builds(lambda service: SetDropped(origin_of(service)), services),
)
steps = st.lists(
    st.one_of(
        changes,
        changes,
        st.sampled_from(["disturb", "settle"]),
        st.sampled_from([0.0, 0.01, 0.05, 1.0, SESSION_TIMEOUT, WINDOW_SECONDS, float(HOLD_SECONDS)]),
        services.map(lambda service: ("accept", service)),
    ),
    max_size=40,
)


def perform(scenario: Scenario, step: object) -> None:
    match step:
        case "disturb":
            scenario.disturb()
        case "settle":
            scenario.settle()
        case float():
            scenario.pass_time(step)
        case ("accept", str(service)):
            scenario.accept(service)
        case _:
            assert isinstance(step, Change)
            scenario.apply(step)


def check(scenario: Scenario) -> None:
    """Check that the table has ZooKeeper's members, those that are held, and those that have just left."""
    contents, zookeeper = scenario.contents, scenario.zookeeper
    for origin, known in zookeeper.sets.items():
        assert known.items() <= contents[origin].items()
    for origin in contents:
        owner = scenario.table.set_of(origin)
        assert owner is not None
        held = {entry.member.name for entry in scenario.guard.held_of(origin)}
        assert owner.held.keys() == held
        known = zookeeper.sets.get(origin, {})
        assert held <= owner.members.keys() - known.keys()
        waiting = owner.members.keys() - known.keys() - held
        assert all(zookeeper.left_at[origin, name] + WAIT_SECONDS > scenario.now for name in waiting)
        assert origin in zookeeper.sets or held or zookeeper.dropped_at[origin] + WAIT_SECONDS > scenario.now
    known_members = [entry for known in zookeeper.sets.values() for entry in known.values()]
    assert served_in_table(scenario.guard) == sum(entry.status is Status.ALIVE for entry in known_members)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_only_zookeepers_and_held_members_are_answered(walk: list[object]) -> None:
    scenario = Scenario()
    for step in walk:
        perform(scenario, step)
        check(scenario)
    scenario.pass_time(WAIT_SECONDS)
    check(scenario)


@given(steps)
@settings(max_examples=75, deadline=None)
def test_a_held_member_leaves_at_its_deadline_at_the_latest(walk: list[object]) -> None:
    scenario = Scenario()
    for step in walk:
        perform(scenario, step)
        if not scenario.is_disturbed:
            assert all(entry.until > scenario.now for entry in scenario.guard.held)
    scenario.settle()
    scenario.pass_time(HOLD_SECONDS + WINDOW_SECONDS)
    assert scenario.guard.held == []
    assert scenario.contents == scenario.zookeeper.sets
    assert scenario.guard.next_deadline() is None


@given(steps)
@settings(max_examples=75, deadline=None)
def test_after_accepting_everything_the_table_equals_zookeeper(walk: list[object]) -> None:
    scenario = Scenario()
    for step in walk:
        perform(scenario, step)
    scenario.pass_time(WAIT_SECONDS)
    for origin in {entry.origin for entry in scenario.guard.held}:
        scenario.accept(origin.rpartition("/")[2])
    assert scenario.contents == scenario.zookeeper.sets


@given(steps)
@settings(max_examples=50, deadline=None)
def test_a_disabled_guard_passes_every_change(walk: list[object]) -> None:
    scenario = Scenario(seconds=0)
    for step in walk:
        perform(scenario, step)
    assert scenario.passed == [step for step in walk if isinstance(step, Change)]
    assert not any(isinstance(change, MembersHeld) for change in scenario.passed)


@given(st.lists(st.tuples(services, st.integers(1, 9)), max_size=30), st.sampled_from([0.0, 0.004]))
@settings(deadline=None)
def test_in_a_disturbance_no_set_becomes_empty(leaving: list[tuple[str, int]], between: float) -> None:
    scenario = Scenario()
    for service, count in zip(SERVICES, (9, 5, 1), strict=True):
        scenario.put(service, *range(1, count + 1))
    scenario.pass_time(2 * SESSION_TIMEOUT)
    scenario.disturb()
    for service, number in leaving:
        scenario.leave(service, number)
        scenario.pass_time(between)
        assert all(map(scenario.answered, SERVICES))
