"""Properties of the guard that hold for every sequence of events."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.guard.helpers import LIMBO, SESSION_TIMEOUT, Story, member, origin_of, put
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
said: st.SearchStrategy[Change] = st.one_of(
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
        said,
        said,
        st.sampled_from(["disturb", "settle"]),
        st.sampled_from([0.0, 0.01, 0.05, 1.0, SESSION_TIMEOUT, float(LIMBO)]),
        services.map(lambda service: ("accept", service)),
    ),
    max_size=40,
)


def go(story: Story, step: object) -> None:
    match step:
        case "disturb":
            story.disturb()
        case "settle":
            story.settle()
        case float():
            story.pass_time(step)
        case ("accept", str(service)):
            story.accept(service)
        case _:
            assert isinstance(step, Change)
            story.say(step)


def check(story: Story) -> None:
    """Check that the table has ZooKeeper's members, and in addition those that are held or wait."""
    contents = story.contents
    for origin, known in story.zookeeper.sets.items():
        assert known.items() <= contents[origin].items()
    for origin in contents:
        owner = story.table.set_of(origin)
        assert owner is not None
        held = {kept.member.name for kept in story.guard.held_of(origin)}
        wait = story.guard._waits.get(origin)
        assert owner.held == held
        known = story.zookeeper.sets.get(origin, {})
        assert owner.members.keys() - known.keys() == held | (wait.names if wait else set())
        assert not held & known.keys()
        assert origin in story.zookeeper.sets or held or wait
    known_members = [entry for known in story.zookeeper.sets.values() for entry in known.values()]
    assert story.guard._losses._total == sum(entry.status is Status.ALIVE for entry in known_members)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_only_zookeepers_and_held_members_are_answered(walk: list[object]) -> None:
    story = Story()
    for step in walk:
        go(story, step)
        check(story)


@given(steps)
@settings(max_examples=75, deadline=None)
def test_a_held_member_leaves_at_its_deadline_at_the_latest(
    walk: list[object],
) -> None:
    story = Story()
    for step in walk:
        go(story, step)
        if story.guard._losses.is_settled:
            assert all(entry.until > story.now for entry in story.guard.held)
    story.settle()
    story.pass_time(LIMBO + SESSION_TIMEOUT)
    assert story.guard.held == []
    assert story.contents == story.zookeeper.sets
    assert story.guard.next_deadline() is None


@given(steps)
@settings(max_examples=75, deadline=None)
def test_after_accepting_everything_the_table_equals_zookeeper(walk: list[object]) -> None:
    story = Story()
    for step in walk:
        go(story, step)
    story.pass_time(0.05)
    for origin in {entry.origin for entry in story.guard.held}:
        story.accept(origin.rpartition("/")[2])
    assert story.contents == story.zookeeper.sets


@given(steps)
@settings(max_examples=50, deadline=None)
def test_a_disabled_guard_passes_every_change(walk: list[object]) -> None:
    story = Story(seconds=0)
    for step in walk:
        go(story, step)
    assert story.passed == [step for step in walk if isinstance(step, Change)]
    assert not any(isinstance(change, MembersHeld) for change in story.passed)


@given(st.lists(st.tuples(services, st.integers(1, 9)), max_size=30), st.sampled_from([0.0, 0.004]))
@settings(deadline=None)
def test_in_a_disturbance_no_set_becomes_empty(leaving: list[tuple[str, int]], between: float) -> None:
    story = Story()
    for service, count in zip(SERVICES, (9, 5, 1), strict=True):
        story.put(service, *range(1, count + 1))
    story.pass_time(2 * SESSION_TIMEOUT)
    story.disturb()
    for service, number in leaving:
        story.leave(service, number)
        story.pass_time(between)
        assert all(map(story.answered, SERVICES))
