"""Scenarios for the guard: changes in ZooKeeper, time that passes, and the resulting answers."""

import itertools
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.guard.guard_internals import endpoints_of_losses, scheduled_checks
from tests.guard.helpers import HOLD_SECONDS, SESSION_TIMEOUT, Scenario, member, members, origin_of, put
from zkdns.config import GuardSettings
from zkdns.guard import WAIT_SECONDS, WINDOW_SECONDS, Guard, Steps
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import (
    Change,
    HostResolved,
    SetChanged,
    SetDropped,
    SetPut,
    SetUnread,
)
from zkdns.serverset.member import Member, Status
from zkdns.table import Table

MOMENT = 0.001


@pytest.fixture
def scenario() -> Scenario:
    """A table without a disturbance: web has ten members, api five, db one."""
    logged = Scenario()
    logged.put("web", *range(1, 11))
    logged.put("api", *range(1, 6))
    logged.put("db", 1)
    logged.pass_time(2 * SESSION_TIMEOUT)
    return logged


# -- without a disturbance ----------------------------------------------------------------------------------


def test_without_a_disturbance_members_join_and_leave_at_once(scenario: Scenario) -> None:
    scenario.join("web", 11)
    scenario.leave("web", 1, 2)
    assert scenario.answered("web") == list(range(3, 12))
    assert scenario.guard.next_deadline() is None


def test_the_last_member_of_a_set_leaves_after_a_moment(scenario: Scenario) -> None:
    scenario.leave("db", 1)
    assert scenario.answered("db") == [1]
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("db") == []
    assert scenario.held_changes() == []


def test_an_orderly_shutdown_with_its_znode_takes_a_moment(scenario: Scenario) -> None:
    for number in range(1, 6):
        scenario.leave("api", number)
        scenario.pass_time(MOMENT)
    scenario.drop("api")
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("api") is None


@pytest.mark.parametrize("waits", [True, False])
def test_a_service_dropped_just_before_a_collapse_is_restored(scenario: Scenario, waits: bool) -> None:
    for number in range(1, 6):
        scenario.leave("api", number)
    if waits:  # the znode is deleted after its members were released, or together with them
        scenario.pass_time(WAIT_SECONDS)
    scenario.drop("api")
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("api") is None  # so far this is an orderly shutdown
    for service in ("web", "db"):
        scenario.drop(service)
    assert sorted(scenario.answered("api") or ()) == list(range(1, 6))
    assert sorted(scenario.answered("web") or ()) == list(range(1, 11))
    scenario.pass_time(HOLD_SECONDS)
    assert scenario.answered("api") is None
    assert scenario.zookeeper.sets == scenario.contents


def test_a_service_may_be_deleted_with_all_its_members(scenario: Scenario) -> None:
    scenario.drop("web")
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("web") is None
    assert scenario.zookeeper.sets == scenario.contents


def test_a_member_that_returns_during_its_wait_stays(scenario: Scenario) -> None:
    scenario.leave("db", 1)
    scenario.pass_time(MOMENT)
    scenario.join("db", 1)
    scenario.pass_time(1.0)
    assert scenario.answered("db") == [1]


def test_a_member_that_returns_with_another_status_is_not_held(scenario: Scenario) -> None:
    scenario.leave("db", 1)
    scenario.join("db", member(1, status=Status.STARTING))
    scenario.disturb()
    assert (scenario.answered("db"), scenario.held("db")) == ([1], [])


def test_a_member_that_replaces_a_waiting_one_is_answered_alone(scenario: Scenario) -> None:
    scenario.leave("db", 1)
    scenario.join("db", member(2, host="10.0.0.1"))
    assert scenario.answered("db") == [2]
    scenario.pass_time(1.0)
    assert scenario.answered("db") == [2]


def test_the_shutdown_of_one_large_service_is_not_a_collapse() -> None:
    scenario = Scenario()
    scenario.put("large", *range(1, 101))
    scenario.put("small", 1)
    scenario.pass_time(2 * SESSION_TIMEOUT)
    scenario.leave("large", *range(1, 101))
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("large") == []


# -- members that return one after the other -----------------------------------------------------------------


@pytest.mark.parametrize("age", [1.0, 2 * SESSION_TIMEOUT])
def test_the_others_are_held_if_half_of_the_members_have_returned(age: float) -> None:
    scenario = Scenario()
    scenario.put("api", 1, 2)
    scenario.pass_time(age)
    scenario.join("api", 3, 4)
    scenario.pass_time(age)
    scenario.disturb()
    returned = (member(11, host="10.0.0.1"), member(12, host="10.0.0.2"))
    scenario.apply(SetChanged(origin_of("api"), returned, tuple(one.name for one in members(1, 2, 3, 4))))
    scenario.settle()
    assert scenario.held("api") == [3, 4]
    assert scenario.answered("api") == [3, 4, 11, 12]
    scenario.join("api", member(13, host="10.0.0.3"), member(14, host="10.0.0.4"))
    assert scenario.held("api") == []


def test_members_that_joined_before_a_mass_loss_have_replaced_none_of_them() -> None:
    scenario = Scenario()
    scenario.put("api", 1, 2, 3, 4)
    scenario.pass_time(2 * SESSION_TIMEOUT)
    scenario.disturb()
    scenario.join("api", 11, 12)
    scenario.leave("api", 1, 2, 3, 4)
    assert scenario.held("api") == [1, 2, 3, 4]


def test_one_of_four_that_leaves_in_a_window_is_not_held() -> None:
    scenario = Scenario()
    scenario.put("api", 1, 2, 3, 4)
    scenario.disturb()
    scenario.settle()
    scenario.leave("api", 1)
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("api") == [2, 3, 4]


def test_members_that_leave_one_after_the_other_in_a_window_are_never_missing(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    for number in range(1, 11):
        scenario.pass_time(WAIT_SECONDS / 20)
        scenario.leave("web", number)
        assert scenario.answered("web") == list(range(1, 11))
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.held("web") == list(range(1, 11))


def test_a_replaced_member_does_not_wait_in_a_window(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.leave("web", 1)
    scenario.join("web", 11)
    assert scenario.answered("web") == list(range(2, 12))


def test_held_members_stay_if_others_take_their_names() -> None:
    scenario = Scenario()
    scenario.put("api", 1, 2, 3)
    scenario.pass_time(2 * SESSION_TIMEOUT)
    scenario.disturb()
    scenario.drop("api")
    scenario.settle()
    # Created again, so that ZooKeeper counts from the beginning.
    scenario.apply(put("api", member(1, host="10.0.0.2")))
    hosts = scenario.hosts("api")
    assert hosts == {"member_0000000001": "10.0.0.2", "member_0000000001-1": "10.0.0.1"} | {
        "member_0000000003": "10.0.0.3"
    }
    assert sorted(one.member.name for one in scenario.guard.held) == [
        "member_0000000001-1",
        "member_0000000003",
    ]
    scenario.join("api", member(2, host="10.0.0.3"), member(3, host="10.0.0.1"))
    assert scenario.hosts("api") == {
        "member_0000000001": "10.0.0.2",
        "member_0000000002": "10.0.0.3",
        "member_0000000003": "10.0.0.1",
    }
    assert scenario.held("api") == []


# -- a service that is whole again --------------------------------------------------------------------------


def test_holding_ends_when_the_service_is_whole_again_at_other_endpoints(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.leave("api", *range(1, 6))
    scenario.join("api", 11, 12, 13, 14)
    assert scenario.held("api") == [1, 2, 3, 4, 5]
    scenario.join("api", 15)
    assert scenario.held("api") == []
    assert scenario.answered("api") == [11, 12, 13, 14, 15]


def test_members_that_stayed_count_towards_the_whole_service(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.leave("web", *range(1, 7))
    assert scenario.held("web") == [1, 2, 3, 4, 5, 6]
    scenario.join("web", 11, 12, 13)
    scenario.leave("web", 7)  # half of the service is there, so this one is not held
    scenario.join("web", 14, 15, 16)
    assert scenario.held("web") == [1, 2, 3, 4, 5, 6]
    scenario.join("web", 1)
    assert scenario.held("web") == []
    assert scenario.answered("web") == [1, 8, 9, 10, 11, 12, 13, 14, 15, 16]


# -- disturbances -------------------------------------------------------------------------------------------


def test_after_a_disturbance_a_set_with_too_many_losses_keeps_all_members(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.leave("web", 1, 2, 3)
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("web") == list(range(4, 11))  # three of ten may leave
    scenario.leave("web", 4, 5)
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("web") == list(range(6, 11))  # half of them may leave too
    scenario.leave("web", 6)
    assert scenario.answered("web") == list(range(1, 11))
    assert scenario.held("web") == list(range(1, 7))
    scenario.leave("web", 7)
    assert scenario.held("web") == list(range(1, 8))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_after_a_disturbance_a_small_set_keeps_more_than_one_member(scenario: Scenario, count: int) -> None:
    scenario.put("small", *range(1, count + 1))
    scenario.disturb()
    scenario.settle()
    for number in range(1, count - 1):
        scenario.leave("small", number)
        scenario.pass_time(WAIT_SECONDS)
        assert (scenario.answered("small"), scenario.held("small")) == ([*range(number + 1, count + 1)], [])
    scenario.leave("small", count - 1)
    assert (scenario.answered("small"), scenario.held("small")) == (
        [*range(1, count + 1)],
        [*range(1, count)],
    )


def test_without_a_disturbance_a_small_set_may_lose_all_but_one_member(scenario: Scenario) -> None:
    scenario.leave("api", 1, 2)
    scenario.leave("api", 3, 4)
    scenario.pass_time(WAIT_SECONDS)
    assert (scenario.answered("api"), scenario.held("api")) == ([5], [])


def test_the_window_closes_some_time_after_the_read(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.pass_time(3600.0)
    scenario.settle()
    scenario.pass_time(WINDOW_SECONDS - MOMENT)
    scenario.leave("web", *range(1, 11))
    assert scenario.held("web") == list(range(1, 11))
    scenario.pass_time(MOMENT)
    scenario.leave("db", 1)
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("db") == []


def test_losses_within_the_window_are_not_a_collapse_after_it(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.pass_time(WINDOW_SECONDS - MOMENT)
    scenario.leave("web", *range(1, 11))
    scenario.pass_time(2 * MOMENT)
    scenario.leave("api", 1)
    scenario.leave("db", 1)
    scenario.pass_time(WAIT_SECONDS)
    assert (scenario.answered("db"), len(scenario.held("web"))) == ([], 10)


def test_a_rolling_redeploy_is_not_suspicious(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    for number in range(1, 6):
        scenario.join("api", number + 100)
        scenario.leave("api", number)
    assert scenario.answered("api") == [101, 102, 103, 104, 105]
    assert scenario.held_changes() == []


def test_fewer_members_in_a_complete_read_are_a_loss(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.put("web", 9, 10, 11)
    scenario.settle()
    assert (scenario.answered("web"), scenario.held("web")) == (list(range(1, 12)), list(range(1, 9)))
    scenario.put("web", 9, 10, 11)  # read again
    assert scenario.held("web") == list(range(1, 9))


def test_a_missing_set_stays_until_its_time_is_over(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.drop("web")
    assert (scenario.answered("web"), scenario.held("web")) == (list(range(1, 11)), list(range(1, 11)))
    scenario.pass_time(HOLD_SECONDS - MOMENT)
    assert scenario.answered("web") == list(range(1, 11))
    scenario.pass_time(MOMENT)
    assert scenario.answered("web") is None


def test_a_whole_base_path_may_be_deleted_and_return(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    for service in ("web", "api", "db"):
        scenario.drop(service)
    assert scenario.answered("web") == list(range(1, 11))
    scenario.put("web", 1)  # the set was created again, so this is another member with that name
    assert scenario.held("web") == list(range(2, 11))
    scenario.pass_time(HOLD_SECONDS)
    assert (scenario.answered("web"), scenario.answered("db")) == ([1], None)


def test_a_missing_set_without_members_is_dropped_at_once(scenario: Scenario) -> None:
    scenario.put("empty")
    scenario.disturb()
    scenario.drop("empty")
    assert scenario.answered("empty") is None


def test_members_that_joined_after_the_disturbance_may_leave(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.put("new", 1)
    scenario.leave("new", 1)
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("new") == []
    scenario.drop("new")
    assert scenario.answered("new") is None


def test_members_that_are_not_served_do_not_count(scenario: Scenario) -> None:
    starting = [member(number, status=Status.STARTING) for number in range(2, 7)]
    scenario.apply(put("mixed", member(1), *starting))
    scenario.disturb()
    scenario.settle()
    scenario.leave("mixed", 2, 3, 4)
    assert (scenario.answered("mixed"), scenario.held("mixed")) == ([1, 5, 6], [])
    scenario.leave("mixed", 1, 5)
    assert (scenario.answered("mixed"), scenario.held("mixed")) == ([1, 6], [1])


def test_orderly_losses_before_a_disturbance_stay_lost(scenario: Scenario) -> None:
    scenario.leave("db", 1)
    scenario.pass_time(WAIT_SECONDS)
    scenario.disturb()
    scenario.put("db")
    scenario.settle()
    assert (scenario.answered("db"), scenario.held("db")) == ([], [])


def test_a_member_that_waits_at_a_disconnect_is_held(scenario: Scenario) -> None:
    scenario.leave("db", 1)
    scenario.disturb()
    assert scenario.held("db") == [1]
    scenario.pass_time(1.0)
    assert scenario.answered("db") == [1]


def test_a_set_dropped_just_before_a_disconnect_is_held_and_then_dropped(scenario: Scenario) -> None:
    scenario.drop("db")
    scenario.disturb()
    scenario.settle()
    assert scenario.held("db") == [1]
    scenario.pass_time(HOLD_SECONDS)
    assert scenario.answered("db") is None


def test_waiting_members_survive_a_late_expire(scenario: Scenario) -> None:
    scenario.leave("api", 1, 2, 3, 4)
    scenario.now += SESSION_TIMEOUT - MOMENT
    scenario.leave("api", 5)
    scenario.now += 2 * MOMENT
    scenario.disturb()
    assert scenario.held("api") == [1, 2, 3, 4, 5]


def test_the_first_read_into_an_empty_table_is_not_a_disturbance() -> None:
    scenario = Scenario()
    scenario.put("web", 1, 2)
    scenario.settle()
    scenario.leave("web", 1, 2)
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("web") == []


# -- held members -------------------------------------------------------------------------------------------


@pytest.fixture
def held_members(scenario: Scenario) -> Scenario:
    """All members of web and db are held."""
    scenario.disturb()
    scenario.settle()
    scenario.leave("web", *range(1, 11))
    scenario.leave("db", 1)
    return scenario


def test_a_held_member_is_released_when_its_time_is_over(held_members: Scenario) -> None:
    held_members.pass_time(HOLD_SECONDS - MOMENT)
    assert held_members.answered("web") == list(range(1, 11))
    held_members.pass_time(MOMENT)
    assert (held_members.answered("web"), held_members.answered("db"), held_members.guard.held) == (
        [],
        [],
        [],
    )
    assert held_members.guard.next_deadline() is None


def test_a_held_member_that_returns_is_released(held_members: Scenario) -> None:
    held_members.join("web", 3)
    assert held_members.held("web") == [1, 2, 4, 5, 6, 7, 8, 9, 10]


def test_a_new_member_replaces_the_held_one_with_its_endpoint(held_members: Scenario) -> None:
    held_members.join("web", member(101, host="10.0.0.1"), member(102, host="10.9.9.9"))
    assert held_members.held("web") == list(range(2, 11))
    assert held_members.answered("web") == [*range(2, 11), 101, 102]


def test_after_all_have_registered_again_no_member_is_held(held_members: Scenario) -> None:
    for number in range(1, 11):
        held_members.join("web", member(100 + number, host=f"10.0.0.{number}"))
    assert (held_members.answered("web"), held_members.held("web")) == (list(range(101, 111)), [])


def test_a_replacement_that_joined_before_the_old_session_ended_counts(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    for number in range(1, 6):
        scenario.join("api", member(100 + number, host=f"10.0.0.{number}"))
    scenario.leave("api", 1, 2, 3, 4, 5)
    scenario.leave("api", 101, 102, 103)  # and now a disturbance
    assert scenario.held("api") == [101, 102, 103]


def test_an_operator_accepts_a_loss(held_members: Scenario) -> None:
    held_members.accept("web")
    assert (held_members.answered("web"), held_members.held("db")) == ([], [1])
    held_members.put("web")  # read again, still within the window
    held_members.drop("web")
    assert held_members.answered("web") is None


def test_members_that_join_after_an_accepted_loss_may_leave(held_members: Scenario) -> None:
    held_members.accept("web")
    held_members.join("web", 77)
    held_members.leave("web", 77)
    held_members.pass_time(WAIT_SECONDS)
    assert (held_members.answered("web"), held_members.held("web")) == ([], [])


def test_an_operator_accepts_the_loss_of_a_whole_set(held_members: Scenario) -> None:
    held_members.drop("web")
    assert held_members.answered("web") == list(range(1, 11))
    held_members.accept("web")
    assert held_members.answered("web") is None


@pytest.mark.parametrize("is_held", [True, False])
def test_an_unreadable_new_set_stays_after_its_held_members_are_released(
    held_members: Scenario, is_held: bool
) -> None:
    service = "web" if is_held else "api"
    held_members.pass_time(WINDOW_SECONDS + MOMENT)
    held_members.drop(service)
    held_members.apply(SetUnread(origin_of(service), ServiceName(service, "staging")))
    assert held_members.answered(service)
    held_members.pass_time(HOLD_SECONDS)
    owner = held_members.table.set_of(origin_of(service))
    assert owner is not None
    assert owner.is_unread
    held_members.put(service, 21)
    assert held_members.answered(service) == [21]


def test_accepting_without_held_members_does_nothing(held_members: Scenario) -> None:
    before = list(held_members.passed)
    held_members.accept("api")
    held_members.accept("no-such-service")
    assert held_members.passed == before


def test_held_members_stay_while_zookeeper_is_unreachable(held_members: Scenario) -> None:
    held_members.pass_time(HOLD_SECONDS - 1.0)
    held_members.disturb()
    held_members.pass_time(3600.0)
    assert held_members.answered("db") == [1]
    held_members.settle()
    held_members.pass_time(WINDOW_SECONDS - MOMENT)
    assert held_members.answered("db") == [1]
    held_members.pass_time(MOMENT)
    assert held_members.answered("db") == []


# -- a collapse of the whole table --------------------------------------------------------------------------


def test_when_all_sessions_expire_together_no_member_is_missing(scenario: Scenario) -> None:
    for service, count in (("web", 10), ("api", 5), ("db", 1)):
        for number in range(1, count + 1):
            scenario.leave(service, number)
            assert scenario.answered(service)  # never without members in between
            scenario.pass_time(MOMENT)
    scenario.pass_time(60.0)
    assert scenario.zookeeper.sets == {origin_of(service): {} for service in ("web", "api", "db")}
    for service, count in (("web", 10), ("api", 5), ("db", 1)):
        assert scenario.answered(service) == scenario.held(service) == list(range(1, count + 1))
    scenario.pass_time(HOLD_SECONDS)
    assert scenario.contents == scenario.zookeeper.sets


def test_a_collapse_in_any_order_empties_no_service(scenario: Scenario) -> None:
    scenario.leave("db", 1)
    scenario.leave("api", 1, 2, 3, 4, 5)
    scenario.leave("web", 1, 2, 3)
    scenario.leave("web", 4, 5)
    assert scenario.held("web") == []
    assert scenario.held("api") == [1, 2, 3, 4, 5]
    scenario.leave("web", 6)
    scenario.pass_time(1.0)
    assert scenario.held("web") == [1, 2, 3, 4, 5, 6]
    assert (scenario.held("db"), scenario.held("api")) == ([1], [1, 2, 3, 4, 5])


def test_losses_over_more_than_a_session_timeout_are_orderly(scenario: Scenario) -> None:
    scenario.leave("web", *range(1, 11))
    scenario.pass_time(SESSION_TIMEOUT + 1.0)
    scenario.leave("api", 1, 2)
    scenario.leave("db", 1)
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.guard.held == []
    assert scenario.contents == scenario.zookeeper.sets


def test_services_that_are_replaced_completely_are_not_a_collapse(scenario: Scenario) -> None:
    for service, count in (("web", 10), ("api", 5)):
        for number in range(1, count + 1):
            scenario.join(service, member(100 + number))
            scenario.leave(service, number)
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.guard.held == []
    assert scenario.contents == scenario.zookeeper.sets


def test_a_repeatedly_replaced_member_counts_once_in_a_collapse(scenario: Scenario) -> None:
    for number in range(1, 8):
        scenario.join("db", member(100 + number))
        scenario.leave("db", 1 if number == 1 else 99 + number)
    scenario.leave("web", *range(1, 11))
    scenario.leave("api", *range(1, 6))
    assert (len(scenario.held("web")), len(scenario.held("api"))) == (10, 5)
    scenario.join("db", member(108))
    scenario.leave("db", 107)
    assert (scenario.answered("db"), scenario.held("db")) == ([108], [])


# -- settings, logs and other changes -----------------------------------------------------------------------


def test_with_a_hold_of_0_seconds_everything_passes() -> None:
    scenario = Scenario(seconds=0)
    changes: list[Change] = [
        put("web", *members(1, 2)),
        SetChanged(origin_of("web"), (), (member(1).name, member(2).name)),
    ]
    scenario.disturb()
    for change in changes:
        scenario.apply(change)
    scenario.settle()
    scenario.drop("web")
    assert scenario.passed == [*changes, SetDropped(origin_of("web"))]
    assert scenario.guard.next_deadline() is None


@pytest.mark.parametrize(("share", "minimum", "held"), [(0.9, 5, False), (0.2, 5, True), (0.2, 11, False)])
def test_the_thresholds_are_settings(share: float, minimum: int, held: bool) -> None:
    scenario = Scenario(share=share, minimum=minimum)
    scenario.put("web", *range(1, 11))
    scenario.disturb()
    scenario.leave("web", 1, 2, 3)
    assert bool(scenario.held("web")) == held


def test_addresses_of_host_names_pass(scenario: Scenario) -> None:
    scenario.apply(HostResolved("web.example", ("192.0.2.1",)))
    assert scenario.passed[-1] == HostResolved("web.example", ("192.0.2.1",))


def test_a_change_of_an_unknown_set_passes(held_members: Scenario) -> None:
    held_members.drop("web")
    before = held_members.contents
    held_members.join("web", 77)  # ZooKeeper does not have it any more
    held_members.join("no-such-service", 77)
    assert held_members.contents == before


def test_a_set_under_another_name_is_another_set(held_members: Scenario) -> None:
    held_members.apply(SetPut(origin_of("web"), ServiceName("web2", "staging"), members(1)))
    assert (held_members.answered("web"), held_members.held("web")) == ([1], [])


def test_a_hold_is_logged_and_counted_once_per_service(
    scenario: Scenario,
) -> None:
    with capture_logs() as logs:
        scenario.disturb()
        scenario.settle()
        for number in range(1, 11):
            scenario.leave("web", number)
        scenario.leave("db", 1)
        scenario.join("web", *range(1, 11))
        scenario.accept("db")
    logged: list[dict[str, Any]] = [dict(entry) for entry in logs]
    assert [(entry["event"], entry["service"], entry["log_level"], entry["reason"]) for entry in logged] == [
        ("members_held", "web.staging", "warning", "zookeeper was unreachable"),
        ("members_held", "db.staging", "warning", "zookeeper was unreachable"),
        ("members_released", "web.staging", "info", "they are back"),
        ("members_released", "db.staging", "info", "accepted"),
    ]
    assert scenario.guard.holds_total == 2
    assert (logged[0]["members"], logged[0]["seconds"]) == (6, HOLD_SECONDS)


def test_held_members_and_their_deadlines_are_available(held_members: Scenario) -> None:
    (held,) = held_members.guard.held_of(origin_of("db"))
    assert (str(held.service), held.member, held.until - held.since) == (
        "db.staging",
        member(1),
        HOLD_SECONDS,
    )
    assert len(held_members.guard.held) == 11


# -- long runs -----------------------------------------------------------------------------------------------


def test_accepting_a_loss_forgets_waiting_members_of_a_dropped_set(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.leave("web", *range(2, 11))
    scenario.pass_time(WINDOW_SECONDS + MOMENT)
    scenario.leave("web", 1)  # the last one waits, since there is no disturbance
    scenario.drop("web")
    scenario.accept("web")
    assert scenario.answered("web") is None
    scenario.put("web", 21)
    scenario.join("web", 22)
    scenario.pass_time(1.0)
    assert scenario.answered("web") == [21, 22]


def test_a_set_that_always_changes_keeps_no_old_losses(scenario: Scenario) -> None:
    for number in range(100, 200):
        scenario.join("web", number)
        scenario.pass_time(1.0)
        scenario.leave("web", number)
    assert endpoints_of_losses(scenario.guard, origin_of("web")) <= SESSION_TIMEOUT + 1


def test_the_cost_of_a_hold_does_not_grow_with_its_members() -> None:
    scenario = Scenario()
    scenario.put("web", *range(1, 201))
    scenario.disturb()
    scenario.settle()
    for number in range(1, 201):
        scenario.leave("web", number)
        scenario.pass_time(MOMENT)
    assert len(scenario.held("web")) == 200
    assert sum(len(change.names) for change in scenario.held_changes()) == 200
    checks = 0
    while (due := scenario.guard.next_deadline()) is not None:
        scenario.pass_time(due - scenario.now)
        checks += scheduled_checks(scenario.guard)
    assert checks <= 200
    assert scenario.answered("web") == []


def test_the_work_for_a_change_does_not_grow_with_the_set() -> None:
    """A set is counted once in each window, not for each change."""
    checked = 0

    def is_served(entry: Member) -> bool:
        nonlocal checked
        checked += 1
        return entry.status is Status.ALIVE

    table = Table(departed_seconds=0)
    guard = Guard(GuardSettings(), table, session_timeout=SESSION_TIMEOUT, is_served=is_served)

    def take(steps: Steps) -> None:
        for change in itertools.chain.from_iterable(steps):
            table.apply(change)

    def admit(change: Change, now: float) -> None:
        take(guard.admit(change, now))

    admit(put("web", *members(*range(1, 501))), 0.0)
    take(guard.on_settled(0.0))
    take(guard.on_disturbance(100.0, "a disturbance"))
    take(guard.on_settled(100.0))
    checked = 0
    for number in range(1, 501):
        admit(SetChanged(origin_of("web"), (), (member(number).name,)), 101.0 + number * MOMENT)
    assert len(guard.held) == 500
    for number in range(1, 501):
        admit(SetChanged(origin_of("web"), (member(number),), ()), 102.0 + number * MOMENT)
    assert guard.held == []
    assert checked < 500 + 1000 * 10
