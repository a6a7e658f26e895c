"""Scenarios for the guard: changes in ZooKeeper, time that passes, and the resulting answers."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.guard.helpers import LIMBO, SESSION_TIMEOUT, Story, member, members, origin_of, put
from zkdns.guard import WAIT_SECONDS
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import (
    Change,
    HostResolved,
    MembersHeld,
    SetChanged,
    SetDropped,
    SetPut,
    SetUnread,
)
from zkdns.serverset.member import Status

MOMENT = 0.001


@pytest.fixture
def story() -> Story:
    """A table without a disturbance: web has ten members, api five, db one."""
    told = Story()
    told.put("web", *range(1, 11))
    told.put("api", *range(1, 6))
    told.put("db", 1)
    told.pass_time(2 * SESSION_TIMEOUT)
    return told


# -- without a disturbance ----------------------------------------------------------------------------------


def test_without_a_disturbance_members_join_and_leave_at_once(story: Story) -> None:
    story.join("web", 11)
    story.leave("web", 1, 2)
    assert story.answered("web") == list(range(3, 12))
    assert story.guard.next_deadline() is None


def test_the_last_member_of_a_set_leaves_after_a_moment(story: Story) -> None:
    story.leave("db", 1)
    assert story.answered("db") == [1]
    story.pass_time(WAIT_SECONDS)
    assert story.answered("db") == []
    assert story.held_changes() == []


def test_an_orderly_shutdown_with_its_znode_takes_a_moment(story: Story) -> None:
    for number in range(1, 6):
        story.leave("api", number)
        story.pass_time(MOMENT)
    story.drop("api")
    story.pass_time(WAIT_SECONDS)
    assert story.answered("api") is None


@pytest.mark.parametrize("waits", [True, False])
def test_a_service_dropped_just_before_a_collapse_is_restored(story: Story, waits: bool) -> None:
    for number in range(1, 6):
        story.leave("api", number)
    if waits:  # the znode is deleted after its members were released, or together with them
        story.pass_time(WAIT_SECONDS)
    story.drop("api")
    story.pass_time(WAIT_SECONDS)
    assert story.answered("api") is None  # so far this is an orderly shutdown
    for service in ("web", "db"):
        story.drop(service)
    assert sorted(story.answered("api") or ()) == list(range(1, 6))
    assert sorted(story.answered("web") or ()) == list(range(1, 11))
    story.pass_time(LIMBO)
    assert story.answered("api") is None
    assert story.zookeeper.sets == story.contents


def test_a_service_may_be_deleted_with_all_its_members(story: Story) -> None:
    story.drop("web")
    story.pass_time(WAIT_SECONDS)
    assert story.answered("web") is None
    assert story.zookeeper.sets == story.contents


def test_a_member_that_returns_during_its_wait_stays(story: Story) -> None:
    story.leave("db", 1)
    story.pass_time(MOMENT)
    story.join("db", 1)
    story.pass_time(1.0)
    assert story.answered("db") == [1]


def test_a_member_that_replaces_a_waiting_one_is_answered_alone(story: Story) -> None:
    story.leave("db", 1)
    story.join("db", member(2, host="10.0.0.1"))
    assert story.answered("db") == [2]
    story.pass_time(1.0)
    assert story.answered("db") == [2]


def test_the_shutdown_of_one_large_service_is_not_a_collapse() -> None:
    story = Story()
    story.put("large", *range(1, 101))
    story.put("small", 1)
    story.pass_time(2 * SESSION_TIMEOUT)
    story.leave("large", *range(1, 101))
    story.pass_time(WAIT_SECONDS)
    assert story.answered("large") == []


# -- disturbances -------------------------------------------------------------------------------------------


def test_after_a_disturbance_a_set_with_too_many_losses_keeps_all_members(story: Story) -> None:
    story.disturb()
    story.settle()
    story.leave("web", 1, 2, 3)
    assert story.answered("web") == list(range(4, 11))  # three of ten may leave
    story.leave("web", 4, 5)
    assert story.answered("web") == list(range(6, 11))  # half of them may leave too
    story.leave("web", 6)
    assert story.answered("web") == list(range(1, 11))
    assert story.held("web") == list(range(1, 7))
    story.leave("web", 7)
    assert story.held("web") == list(range(1, 8))


def test_a_small_set_may_lose_all_but_one_member(story: Story) -> None:
    story.put("small", 1, 2, 3, 4)
    story.disturb()
    story.settle()
    story.leave("small", 1, 2, 3)
    assert (story.answered("small"), story.held("small")) == ([4], [])
    story.leave("small", 4)
    assert (story.answered("small"), story.held("small")) == ([1, 2, 3, 4], [1, 2, 3, 4])


def test_the_window_closes_a_session_timeout_after_the_read(story: Story) -> None:
    story.disturb()
    story.pass_time(3600.0)
    story.settle()
    story.pass_time(SESSION_TIMEOUT - MOMENT)
    story.leave("web", *range(1, 11))
    assert story.held("web") == list(range(1, 11))
    story.pass_time(MOMENT)
    story.leave("db", 1)
    story.pass_time(WAIT_SECONDS)
    assert story.answered("db") == []


def test_losses_within_the_window_are_not_a_collapse_after_it(story: Story) -> None:
    story.disturb()
    story.settle()
    story.pass_time(SESSION_TIMEOUT - MOMENT)
    story.leave("web", *range(1, 11))
    story.pass_time(2 * MOMENT)
    story.leave("api", 1)
    story.leave("db", 1)
    story.pass_time(WAIT_SECONDS)
    assert (story.answered("db"), len(story.held("web"))) == ([], 10)


def test_a_rolling_redeploy_is_not_suspicious(story: Story) -> None:
    story.disturb()
    story.settle()
    for number in range(1, 6):
        story.join("api", number + 100)
        story.leave("api", number)
    assert story.answered("api") == [101, 102, 103, 104, 105]
    assert story.held_changes() == []


def test_fewer_members_in_a_complete_read_are_a_loss(story: Story) -> None:
    story.disturb()
    story.put("web", 9, 10, 11)
    story.settle()
    assert (story.answered("web"), story.held("web")) == (list(range(1, 12)), list(range(1, 9)))
    story.put("web", 9, 10, 11)  # read again
    assert story.held("web") == list(range(1, 9))


def test_a_missing_set_stays_until_its_time_is_over(story: Story) -> None:
    story.disturb()
    story.settle()
    story.drop("web")
    assert (story.answered("web"), story.held("web")) == (list(range(1, 11)), list(range(1, 11)))
    story.pass_time(LIMBO - MOMENT)
    assert story.answered("web") == list(range(1, 11))
    story.pass_time(MOMENT)
    assert story.answered("web") is None


def test_a_whole_base_path_may_be_deleted_and_return(story: Story) -> None:
    story.disturb()
    story.settle()
    for service in ("web", "api", "db"):
        story.drop(service)
    assert story.answered("web") == list(range(1, 11))
    story.put("web", 1)  # the set was created again, so this is another member with that name
    assert story.held("web") == list(range(2, 11))
    story.pass_time(LIMBO)
    assert (story.answered("web"), story.answered("db")) == ([1], None)


def test_a_missing_set_without_members_is_dropped_at_once(story: Story) -> None:
    story.put("empty")
    story.disturb()
    story.drop("empty")
    assert story.answered("empty") is None


def test_members_that_joined_after_the_disturbance_may_leave_at_once(story: Story) -> None:
    story.disturb()
    story.settle()
    story.put("new", 1)
    story.leave("new", 1)
    assert story.answered("new") == []
    story.drop("new")
    assert story.answered("new") is None


def test_members_that_are_not_served_do_not_count(story: Story) -> None:
    starting = [member(number, status=Status.STARTING) for number in range(2, 7)]
    story.say(put("mixed", member(1), *starting))
    story.disturb()
    story.settle()
    story.leave("mixed", 2, 3, 4)
    assert (story.answered("mixed"), story.held("mixed")) == ([1, 5, 6], [])
    story.leave("mixed", 1, 5)
    assert (story.answered("mixed"), story.held("mixed")) == ([1, 6], [1])


def test_orderly_losses_before_a_disturbance_stay_lost(story: Story) -> None:
    story.leave("db", 1)
    story.pass_time(WAIT_SECONDS)
    story.disturb()
    story.put("db")
    story.settle()
    assert (story.answered("db"), story.held("db")) == ([], [])


def test_a_member_that_waits_at_a_disconnect_is_held(story: Story) -> None:
    story.leave("db", 1)
    story.disturb()
    assert story.held("db") == [1]
    story.pass_time(1.0)
    assert story.answered("db") == [1]


def test_a_set_dropped_just_before_a_disconnect_is_held_and_then_dropped(story: Story) -> None:
    story.drop("db")
    story.disturb()
    story.settle()
    assert story.held("db") == [1]
    story.pass_time(LIMBO)
    assert story.answered("db") is None


def test_waiting_members_survive_a_late_expire(story: Story) -> None:
    story.leave("api", 1, 2, 3, 4)
    story.now += SESSION_TIMEOUT - MOMENT
    story.leave("api", 5)
    story.now += 2 * MOMENT
    story.disturb()
    assert story.held("api") == [1, 2, 3, 4, 5]


def test_the_first_read_into_an_empty_table_is_not_a_disturbance() -> None:
    story = Story()
    story.put("web", 1, 2)
    story.settle()
    story.leave("web", 1, 2)
    story.pass_time(WAIT_SECONDS)
    assert story.answered("web") == []


# -- held members -------------------------------------------------------------------------------------------


@pytest.fixture
def limbo(story: Story) -> Story:
    """All members of web and db are held."""
    story.disturb()
    story.settle()
    story.leave("web", *range(1, 11))
    story.leave("db", 1)
    return story


def test_a_held_member_is_released_when_its_time_is_over(limbo: Story) -> None:
    limbo.pass_time(LIMBO - MOMENT)
    assert limbo.answered("web") == list(range(1, 11))
    limbo.pass_time(MOMENT)
    assert (limbo.answered("web"), limbo.answered("db"), limbo.guard.held) == ([], [], [])
    assert limbo.guard.next_deadline() is None


def test_a_held_member_that_returns_is_released(limbo: Story) -> None:
    limbo.join("web", 3)
    assert limbo.held("web") == [1, 2, 4, 5, 6, 7, 8, 9, 10]


def test_a_new_member_replaces_the_held_one_with_its_endpoint(limbo: Story) -> None:
    limbo.join("web", member(101, host="10.0.0.1"), member(102, host="10.9.9.9"))
    assert limbo.held("web") == list(range(2, 11))
    assert limbo.answered("web") == [*range(2, 11), 101, 102]


def test_after_all_have_registered_again_no_member_is_held(limbo: Story) -> None:
    for number in range(1, 11):
        limbo.join("web", member(100 + number, host=f"10.0.0.{number}"))
    assert (limbo.answered("web"), limbo.held("web")) == (list(range(101, 111)), [])


def test_a_replacement_that_joined_before_the_old_session_ended_counts(story: Story) -> None:
    story.disturb()
    story.settle()
    for number in range(1, 6):
        story.join("api", member(100 + number, host=f"10.0.0.{number}"))
    story.leave("api", 1, 2, 3, 4, 5)
    story.leave("api", 101, 102, 103)  # and now a disturbance
    assert story.held("api") == [101, 102, 103]


def test_an_operator_accepts_a_loss(limbo: Story) -> None:
    limbo.accept("web")
    assert (limbo.answered("web"), limbo.held("db")) == ([], [1])
    limbo.put("web")  # read again, still within the window
    limbo.drop("web")
    assert limbo.answered("web") is None


def test_members_that_join_after_an_accepted_loss_may_leave(limbo: Story) -> None:
    limbo.accept("web")
    limbo.join("web", 77)
    limbo.leave("web", 77)
    assert (limbo.answered("web"), limbo.held("web")) == ([], [])


def test_an_operator_accepts_the_loss_of_a_whole_set(limbo: Story) -> None:
    limbo.drop("web")
    assert limbo.answered("web") == list(range(1, 11))
    limbo.accept("web")
    assert limbo.answered("web") is None


@pytest.mark.parametrize("is_held", [True, False])
def test_an_unreadable_new_set_stays_after_its_held_members_are_released(limbo: Story, is_held: bool) -> None:
    service = "web" if is_held else "api"
    limbo.pass_time(SESSION_TIMEOUT + MOMENT)
    limbo.drop(service)
    limbo.say(SetUnread(origin_of(service), ServiceName(service, "staging")))
    assert limbo.answered(service)
    limbo.pass_time(LIMBO)
    owner = limbo.table.set_of(origin_of(service))
    assert owner is not None
    assert owner.is_unread
    limbo.put(service, 21)
    assert limbo.answered(service) == [21]


def test_accepting_without_held_members_does_nothing(limbo: Story) -> None:
    before = list(limbo.passed)
    limbo.accept("api")
    limbo.accept("no-such-service")
    assert limbo.passed == before


def test_held_members_stay_while_zookeeper_is_unreachable(limbo: Story) -> None:
    limbo.pass_time(LIMBO - 1.0)
    limbo.disturb()
    limbo.pass_time(3600.0)
    assert limbo.answered("db") == [1]
    limbo.settle()
    limbo.pass_time(SESSION_TIMEOUT - MOMENT)
    assert limbo.answered("db") == [1]
    limbo.pass_time(MOMENT)
    assert limbo.answered("db") == []


def test_members_held_before_this_process_started_are_held_again() -> None:
    story = Story()
    story.put("web", 1, 2, 3)
    story.say(MembersHeld(origin_of("web"), (member(1).name, member(9).name)))
    story.disturb()
    story.put("web", 2, 3)
    story.settle()
    assert (story.answered("web"), story.held("web")) == ([1, 2, 3], [1])
    story.pass_time(LIMBO)
    assert story.answered("web") == [2, 3]


# -- a collapse of the whole table --------------------------------------------------------------------------


def test_when_all_sessions_expire_together_no_member_is_missing(story: Story) -> None:
    for service, count in (("web", 10), ("api", 5), ("db", 1)):
        for number in range(1, count + 1):
            story.leave(service, number)
            assert story.answered(service)  # never without members in between
            story.pass_time(MOMENT)
    story.pass_time(60.0)
    assert story.zookeeper.sets == {origin_of(service): {} for service in ("web", "api", "db")}
    for service, count in (("web", 10), ("api", 5), ("db", 1)):
        assert story.answered(service) == story.held(service) == list(range(1, count + 1))
    story.pass_time(LIMBO)
    assert story.contents == story.zookeeper.sets


def test_a_collapse_in_any_order_empties_no_service(story: Story) -> None:
    story.leave("db", 1)
    story.leave("api", 1, 2, 3, 4, 5)
    story.leave("web", 1, 2, 3)
    story.leave("web", 4, 5)
    assert story.held("web") == []
    assert story.held("api") == [1, 2, 3, 4, 5]
    story.leave("web", 6)
    story.pass_time(1.0)
    assert story.held("web") == [1, 2, 3, 4, 5, 6]
    assert (story.held("db"), story.held("api")) == ([1], [1, 2, 3, 4, 5])


def test_losses_over_more_than_a_session_timeout_are_orderly(story: Story) -> None:
    story.leave("web", *range(1, 11))
    story.pass_time(SESSION_TIMEOUT + 1.0)
    story.leave("api", 1, 2)
    story.leave("db", 1)
    story.pass_time(WAIT_SECONDS)
    assert story.guard.held == []
    assert story.contents == story.zookeeper.sets


def test_services_that_are_replaced_completely_are_not_a_collapse(story: Story) -> None:
    for service, count in (("web", 10), ("api", 5)):
        for number in range(1, count + 1):
            story.join(service, member(100 + number))
            story.leave(service, number)
    story.pass_time(WAIT_SECONDS)
    assert story.guard.held == []
    assert story.contents == story.zookeeper.sets


def test_a_repeatedly_replaced_member_counts_once_in_a_collapse(story: Story) -> None:
    for number in range(1, 8):
        story.join("db", member(100 + number))
        story.leave("db", 1 if number == 1 else 99 + number)
    story.leave("web", *range(1, 11))
    story.leave("api", *range(1, 6))
    assert (len(story.held("web")), len(story.held("api"))) == (10, 5)
    story.join("db", member(108))
    story.leave("db", 107)
    assert (story.answered("db"), story.held("db")) == ([108], [])


# -- settings, logs and other changes -----------------------------------------------------------------------


def test_with_a_hold_of_0_seconds_everything_passes() -> None:
    story = Story(seconds=0)
    said: list[Change] = [
        put("web", *members(1, 2)),
        SetChanged(origin_of("web"), (), (member(1).name, member(2).name)),
    ]
    story.disturb()
    for change in said:
        story.say(change)
    story.settle()
    story.drop("web")
    assert story.passed == [*said, SetDropped(origin_of("web"))]
    assert story.guard.next_deadline() is None


@pytest.mark.parametrize(("share", "minimum", "held"), [(0.9, 5, False), (0.2, 5, True), (0.2, 11, False)])
def test_the_thresholds_are_settings(share: float, minimum: int, held: bool) -> None:
    story = Story(share=share, minimum=minimum)
    story.put("web", *range(1, 11))
    story.disturb()
    story.leave("web", 1, 2, 3)
    assert bool(story.held("web")) == held


def test_addresses_of_host_names_pass(story: Story) -> None:
    story.say(HostResolved("web.example", ("192.0.2.1",)))
    assert story.passed[-1] == HostResolved("web.example", ("192.0.2.1",))


def test_a_change_of_an_unknown_set_passes(limbo: Story) -> None:
    limbo.drop("web")
    before = limbo.contents
    limbo.join("web", 77)  # ZooKeeper does not have it any more
    limbo.join("no-such-service", 77)
    assert limbo.contents == before


def test_a_set_under_another_name_is_another_set(limbo: Story) -> None:
    limbo.say(SetPut(origin_of("web"), ServiceName("web2", "staging"), members(1)))
    assert (limbo.answered("web"), limbo.held("web")) == ([1], [])


def test_a_hold_is_logged_and_counted_once_per_service(
    story: Story,
) -> None:
    with capture_logs() as logs:
        story.disturb()
        story.settle()
        for number in range(1, 11):
            story.leave("web", number)
        story.leave("db", 1)
        story.join("web", *range(1, 11))
        story.accept("db")
    told: list[dict[str, Any]] = [dict(entry) for entry in logs]
    assert [(entry["service"], entry["log_level"], entry["reason"]) for entry in told] == [
        ("web.staging", "warning", "zookeeper was out of reach"),
        ("db.staging", "warning", "zookeeper was out of reach"),
        ("web.staging", "info", "they are back"),
        ("db.staging", "info", "accepted"),
    ]
    assert story.guard.holds_total == 2
    assert (told[0]["members"], told[0]["seconds"]) == (6, LIMBO)


def test_held_members_and_their_deadlines_are_available(limbo: Story) -> None:
    (held,) = limbo.guard.held_of(origin_of("db"))
    assert (str(held.service), held.member, held.until - held.since) == ("db.staging", member(1), LIMBO)
    assert len(limbo.guard.held) == 11


# -- long runs -----------------------------------------------------------------------------------------------


def test_accepting_a_loss_forgets_waiting_members_of_a_dropped_set(story: Story) -> None:
    story.disturb()
    story.settle()
    story.leave("web", *range(2, 11))
    story.pass_time(SESSION_TIMEOUT + MOMENT)
    story.leave("web", 1)  # the last one waits, since there is no disturbance
    story.drop("web")
    story.accept("web")
    assert story.answered("web") is None
    story.put("web", 21)
    story.join("web", 22)
    story.pass_time(1.0)
    assert story.answered("web") == [21, 22]


def test_a_set_that_always_changes_keeps_no_old_losses(story: Story) -> None:
    for number in range(100, 200):
        story.join("web", number)
        story.pass_time(1.0)
        story.leave("web", number)
    ledger = story.guard._losses.ledgers[origin_of("web")]
    assert len(ledger._lost_at) <= SESSION_TIMEOUT + 1


def test_the_cost_of_a_hold_does_not_grow_with_its_members() -> None:
    story = Story()
    story.put("web", *range(1, 201))
    story.disturb()
    story.settle()
    for number in range(1, 201):
        story.leave("web", number)
        story.pass_time(MOMENT)
    assert len(story.held("web")) == 200
    assert sum(len(change.names) for change in story.held_changes()) == 200
    looks = 0
    while (due := story.guard.next_deadline()) is not None:
        story.pass_time(due - story.now)
        looks += len(story.guard._deadlines)
    assert looks <= 200
    assert story.answered("web") == []
