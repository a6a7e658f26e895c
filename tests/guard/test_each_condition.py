"""One test for each condition of the guard that decides only in a special case.

Each of them fails if the guard's condition is removed.
"""

import pytest

from tests.guard.helpers import HOLD_SECONDS, SESSION_TIMEOUT, Scenario, member, members, origin_of, put
from zkdns.guard import WAIT_SECONDS, WINDOW_SECONDS
from zkdns.serverset.changes import MembersHeld, SetUnread
from zkdns.serverset.member import Member, Status

MOMENT = 0.001
TEN = [*range(1, 11)]


@pytest.fixture
def scenario() -> Scenario:
    """Four services, whose members are older than a session timeout."""
    known = Scenario()
    known.put("web", *TEN)
    known.put("api", *range(1, 6))
    known.put("big", *TEN)
    known.put("db", 1)
    known.settle()
    known.pass_time(2 * SESSION_TIMEOUT)
    return known


def open_window(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()


def collapse(scenario: Scenario, *services: str) -> None:
    """All members of these services leave together."""
    for service in services:
        scenario.leave(service, *(scenario.answered(service) or ()))


# -- replacements -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "new", [member(1, host="10.9.9.9"), member(101, host="10.0.0.1")], ids=["lost name", "lost endpoint"]
)
def test_a_member_in_the_place_of_a_lost_one_replaces_no_second_one(scenario: Scenario, new: Member) -> None:
    open_window(scenario)
    scenario.leave("web", 1)
    scenario.join("web", new)
    scenario.leave("web", 2)
    scenario.leave("web", *range(3, 11))
    assert scenario.held("web") == [*range(2, 11)]


def test_two_members_at_one_new_endpoint_replace_one(scenario: Scenario) -> None:
    open_window(scenario)
    scenario.join("web", member(101, host="10.9.9.9"), member(102, host="10.9.9.9"))
    scenario.leave("web", 1)
    scenario.leave("web", 2)
    scenario.leave("web", *range(3, 11))
    assert scenario.held("web") == [*range(2, 11)]


def test_a_member_that_restarts_replaces_no_lost_one(scenario: Scenario) -> None:
    """Its new znode takes the place of its old one, whose session has not expired yet."""
    scenario.leave("web", 1)
    scenario.join("web", member(102, host="10.0.0.2"))
    collapse(scenario, "web", "api", "big", "db")
    assert 1 in scenario.held("web")


def test_members_that_are_not_served_replace_none(scenario: Scenario) -> None:
    scenario.leave("web", 1)
    scenario.join("web", member(101, status=Status.STARTING))
    collapse(scenario, "web", "api", "big", "db")
    assert 1 in scenario.held("web")


def test_a_member_whose_data_changes_replaces_none(scenario: Scenario) -> None:
    scenario.leave("web", 1)
    scenario.join("web", member(2, host="10.9.9.9"))
    collapse(scenario, "web", "api", "big", "db")
    assert 1 in scenario.held("web")


def test_a_held_member_that_returns_replaces_no_later_loss(scenario: Scenario) -> None:
    open_window(scenario)
    scenario.leave("web", *range(1, 7))
    scenario.pass_time(WINDOW_SECONDS + SESSION_TIMEOUT)
    scenario.leave("web", 7)
    scenario.join("web", 1)
    assert scenario.held("web") == [*range(2, 7)]
    collapse(scenario, "api", "big", "db")
    scenario.leave("web", 1, 8, 9, 10)
    assert scenario.held("web") == TEN


def test_a_member_that_returns_after_a_final_loss_replaces_none(scenario: Scenario) -> None:
    open_window(scenario)
    scenario.pass_time(WINDOW_SECONDS - 5)
    scenario.leave("web", 1)
    scenario.pass_time(6)  # the window closes, and the loss is final
    scenario.leave("big", 1)
    scenario.join("web", 1)
    scenario.leave("web", 2)
    collapse(scenario, "web", "api", "big", "db")
    assert 2 in scenario.held("web")


# -- the members that joined in the period ------------------------------------------------------------------


def test_members_that_joined_before_the_window_are_counted_once_with_those_they_replace(
    scenario: Scenario,
) -> None:
    scenario.join("web", *range(101, 106))
    open_window(scenario)
    for number in range(1, 6):
        scenario.leave("web", number)
    scenario.leave("web", 6, 7, 8)  # 3 of 10, not 8 of 15
    assert scenario.held("web") == []
    scenario.leave("web", 9, 10, 101)
    assert scenario.held("web") == [6, 7, 8, 9, 10, 101]


def test_a_loss_after_a_join_of_the_same_member_is_forgotten_at_its_own_time(scenario: Scenario) -> None:
    scenario.join("web", 101)
    scenario.pass_time(SESSION_TIMEOUT / 2)
    scenario.leave("web", 101)
    scenario.pass_time(SESSION_TIMEOUT / 2 + 1)
    collapse(scenario, "web", "api", "big", "db")
    assert scenario.held("web") == [*TEN, 101]


def test_a_join_after_a_loss_of_the_same_member_is_forgotten_at_its_own_time(scenario: Scenario) -> None:
    scenario.leave("web", 1)
    scenario.pass_time(1)
    scenario.join("web", 101)  # replaces 1
    scenario.pass_time(SESSION_TIMEOUT / 2)
    scenario.join("web", 1)
    scenario.pass_time(SESSION_TIMEOUT / 2)
    scenario.leave("web", 2)  # replaced by 1
    collapse(scenario, "web", "api", "big", "db")
    assert scenario.held("web") == [1, *range(3, 11), 101]


def test_a_set_that_appears_in_a_read_has_old_members(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.put("new", *TEN)
    scenario.settle()
    scenario.leave("new", *TEN)
    assert scenario.held("new") == TEN


# -- windows ------------------------------------------------------------------------------------------------


def test_a_second_disturbance_in_a_window_keeps_its_losses(scenario: Scenario) -> None:
    open_window(scenario)
    scenario.leave("web", 1, 2, 3, 4)
    assert scenario.held("web") == []
    open_window(scenario)
    scenario.leave("web", 5, 6, 7)
    assert scenario.held("web") == [*range(1, 8)]


def test_a_second_disturbance_does_not_lower_the_number_before_the_losses(scenario: Scenario) -> None:
    open_window(scenario)
    scenario.join("web", *(member(number, status=Status.STARTING) for number in range(1, 6)))
    open_window(scenario)
    scenario.leave("web", 6)
    assert scenario.held("web") == [6]


def test_losses_in_a_window_are_not_forgotten_after_a_period(scenario: Scenario) -> None:
    open_window(scenario)
    scenario.leave("web", 1, 2, 3, 4)
    scenario.pass_time(SESSION_TIMEOUT + 1)
    scenario.leave("web", 5, 6, 7)
    assert scenario.held("web") == [*range(1, 8)]


def test_a_window_stays_open_during_a_long_disturbance(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.pass_time(3 * WINDOW_SECONDS)
    scenario.leave("web", *range(1, 7))
    assert scenario.held("web") == [*range(1, 7)]


def test_a_window_stays_open_during_a_long_first_read() -> None:
    scenario = Scenario()
    scenario.restore(put("web", *members(*TEN)), put("api", *members(*TEN)), current_at=scenario.now - 1)
    scenario.pass_time(3 * WINDOW_SECONDS)
    scenario.leave("web", *range(1, 7))
    assert scenario.held("web") == [*range(1, 7)]


def test_a_window_is_as_long_as_the_session_timeout() -> None:
    scenario = Scenario(session_timeout=2 * WINDOW_SECONDS)
    scenario.put("web", *TEN)
    scenario.put("api", *TEN)
    scenario.settle()
    scenario.pass_time(10 * WINDOW_SECONDS)
    open_window(scenario)
    scenario.pass_time(1.5 * WINDOW_SECONDS)
    scenario.leave("web", *range(1, 7))
    assert scenario.held("web") == [*range(1, 7)]


def test_without_a_window_the_last_but_one_member_leaves_at_once() -> None:
    scenario = Scenario()
    scenario.put("web", 1, 2, 3)
    scenario.put("big", *TEN)
    scenario.settle()
    scenario.pass_time(2 * SESSION_TIMEOUT)
    scenario.leave("web", 1, 2)
    assert scenario.answered("web") == [3]


# -- the whole table ----------------------------------------------------------------------------------------


def test_a_collapse_is_measured_from_the_largest_table_of_the_period(scenario: Scenario) -> None:
    scenario.put("new", *range(1, 40))  # 26 members before, 65 now
    scenario.pass_time(1)
    scenario.leave("new", *range(1, 21))
    scenario.leave("big", *range(1, 10))
    assert scenario.held("big") == []
    scenario.leave("web", *range(1, 9))
    assert scenario.held("web") == [*range(1, 9)]


def test_a_collapse_restores_no_plausible_losses(scenario: Scenario) -> None:
    scenario.leave("big", 1)
    scenario.pass_time(1)
    collapse(scenario, "web", "api", "db")
    assert (scenario.held("web"), scenario.held("big")) == (TEN, [])


# -- restored tables, unread sets ---------------------------------------------------------------------------


def test_a_disturbance_before_a_restore_lasts() -> None:
    scenario = Scenario()
    scenario.disturb()
    scenario.restore(
        put("web", *members(*TEN)), put("api", *members(*TEN)), current_at=scenario.now - 10 * SESSION_TIMEOUT
    )
    scenario.leave("web", *range(1, 7))
    assert scenario.held("web") == [*range(1, 7)]


def test_members_held_at_different_times_are_held_until_their_service_is_whole() -> None:
    scenario = Scenario()
    names = [member(number).name for number in TEN]
    scenario.restore(
        put("web", *members(*TEN)),
        MembersHeld(origin_of("web"), tuple(names[:4]), scenario.now - 9),
        MembersHeld(origin_of("web"), tuple(names[4:6]), scenario.now - 5),
        current_at=scenario.now - 1,
    )
    scenario.settle()
    scenario.join("web", *range(11, 16))
    assert scenario.held("web") == [*range(1, 7)]
    scenario.join("web", 16)
    assert scenario.held("web") == []


def test_a_set_that_becomes_unreadable_keeps_its_live_members_after_a_hold(scenario: Scenario) -> None:
    open_window(scenario)
    scenario.leave("web", *range(1, 7))
    scenario.apply(SetUnread(origin_of("web"), put("web").name))
    scenario.accept("web")
    assert scenario.answered("web") == [7, 8, 9, 10]


def test_a_set_that_is_read_after_all_is_readable(scenario: Scenario) -> None:
    scenario.apply(SetUnread(origin_of("new"), put("new").name))
    scenario.put("new", 1)
    read = scenario.table.set_of(origin_of("new"))
    assert read is not None
    assert (scenario.answered("new"), read.is_unread) == ([1], False)


def test_a_wait_is_not_cut_short_by_a_hold_of_the_same_set(scenario: Scenario) -> None:
    open_window(scenario)
    scenario.leave("web", *range(1, 7))
    due = scenario.guard.next_deadline()
    assert due is not None
    scenario.pass_time(due - scenario.now - WAIT_SECONDS / 2)
    scenario.leave("web", *range(7, 11))
    scenario.pass_time(WAIT_SECONDS / 2 + MOMENT)
    assert scenario.answered("web") == [7, 8, 9, 10]
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("web") == []


# -- sets that are dropped, collapses in a window -----------------------------------------------------------


def test_a_collapse_in_a_window_does_not_extend_it(scenario: Scenario) -> None:
    open_window(scenario)
    scenario.pass_time(WINDOW_SECONDS - 5)
    collapse(scenario, "web")
    scenario.leave("big", 1, 2, 3, 4)
    scenario.leave("api", 1, 2)  # 16 of 26 members are gone
    scenario.pass_time(10)
    scenario.leave("big", 5, 6, 7, 8)
    scenario.pass_time(WAIT_SECONDS)
    assert (scenario.held("web"), scenario.answered("big")) == (TEN, [9, 10])


def test_a_dropped_set_stays_while_it_has_held_members(scenario: Scenario) -> None:
    open_window(scenario)
    scenario.leave("web", *range(1, 10))
    scenario.pass_time(WINDOW_SECONDS + MOMENT)
    scenario.leave("web", 10)  # waits, since the window is closed
    scenario.drop("web")
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("web") == [*range(1, 10)]


def test_a_dropped_set_stays_until_its_last_held_member_is_released(scenario: Scenario) -> None:
    open_window(scenario)
    scenario.leave("web", *range(1, 7))
    scenario.pass_time(10)
    scenario.leave("web", *range(7, 11))
    scenario.drop("web")
    scenario.pass_time(HOLD_SECONDS - 5)
    assert scenario.answered("web") == [7, 8, 9, 10]
    scenario.pass_time(10)
    assert scenario.answered("web") is None


def test_a_set_that_appears_in_another_ensemble_shrinks_at_once(scenario: Scenario) -> None:
    scenario.change_ensemble()
    scenario.put("new", *TEN)
    scenario.leave("new", *TEN)
    assert scenario.answered("new") == []


def test_a_small_loss_is_no_collapse_however_low_the_share() -> None:
    scenario = Scenario(share=0.1)
    for service in ("web", "api"):
        scenario.put(service, *TEN)
    scenario.settle()
    scenario.pass_time(2 * SESSION_TIMEOUT)
    scenario.leave("web", 1)
    scenario.leave("api", 1, 2)  # 3 of 20 is more than a tenth, but fewer than 5
    scenario.pass_time(WAIT_SECONDS)
    assert (scenario.held("web"), scenario.held("api")) == ([], [])
