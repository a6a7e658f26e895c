"""The first read after a start from a restored table, and the contents of another ensemble."""

import pytest

from tests.guard.guard_internals import served_in_table
from tests.guard.helpers import HOLD_SECONDS, SESSION_TIMEOUT, Scenario, members, origin_of, put
from zkdns.guard import WAIT_SECONDS, WINDOW_SECONDS
from zkdns.serverset.changes import Change, MembersHeld

MOMENT = 0.001
TABLE = (put("web", *members(*range(1, 11))), put("db", *members(1)))


def restored(age: float, *changes: Change, seconds: int = HOLD_SECONDS) -> Scenario:
    """A guard with a restored table that was current this many seconds ago."""
    scenario = Scenario(seconds=seconds)
    scenario.restore(*TABLE, *changes, current_at=scenario.now - age)
    return scenario


def held_before(service: str, *numbers: int, since: float) -> MembersHeld:
    return MembersHeld(origin_of(service), tuple(member.name for member in members(*numbers)), since)


def test_losses_in_the_read_after_a_short_stop_are_held() -> None:
    scenario = restored(2.0)
    scenario.put("web", 1)
    scenario.drop("db")
    scenario.settle()
    assert (scenario.held("web"), scenario.held("db")) == ([*range(2, 11)], [1])
    assert {(held.since, held.until) for held in scenario.guard.held} == {(998.0, 998.0 + HOLD_SECONDS)}
    assert {change.since for change in scenario.held_changes()} == {998.0}


def test_the_window_of_a_short_stop_counts_from_the_restored_table() -> None:
    scenario = restored(9.0)
    scenario.put("web", *range(1, 11))
    scenario.settle()
    scenario.pass_time(WINDOW_SECONDS - 9.0 - MOMENT)
    scenario.leave("db", 1)
    assert scenario.held("db") == [1]
    scenario.pass_time(MOMENT)
    scenario.leave("web", *range(1, 11))
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("web") == []


def test_the_read_after_a_long_stop_is_the_truth() -> None:
    scenario = restored(SESSION_TIMEOUT)
    scenario.put("web")
    scenario.drop("db")
    assert (scenario.answered("web"), scenario.answered("db")) == ([], None)
    scenario.settle()
    assert scenario.guard.next_deadline() is None


def test_after_the_read_the_guard_works_again() -> None:
    scenario = restored(3600.0)
    scenario.put("web", *range(1, 11))
    scenario.put("db", 1)
    scenario.settle()
    scenario.leave("web", *range(1, 11))
    scenario.leave("db", 1)
    assert (len(scenario.held("web")), scenario.held("db")) == (10, [1])


@pytest.mark.parametrize("age", [20.0, 3600.0])
def test_a_disturbance_before_the_read_is_complete_holds_losses(age: float) -> None:
    scenario = restored(age)
    scenario.drop("db")
    scenario.disturb()
    scenario.put("web")
    scenario.pass_time(100.0)
    assert (scenario.answered("db"), scenario.held("web")) == (None, [*range(1, 11)])
    scenario.settle()
    assert {held.since for held in scenario.guard.held} == {1000.0 - age}
    scenario.pass_time(max(WINDOW_SECONDS, HOLD_SECONDS - age - 100.0) - MOMENT)
    assert scenario.held("web") == [*range(1, 11)]
    scenario.pass_time(MOMENT)
    assert scenario.answered("web") == []


def test_losses_whose_time_is_over_pass() -> None:
    scenario = restored(5.0, seconds=5)
    scenario.put("web", 1)
    assert scenario.answered("web") == [1]


def test_restored_held_members_keep_their_time() -> None:
    scenario = restored(1.0, held_before("web", 1, 99, since=900.0), held_before("web", 2, since=950.0))
    assert served_in_table(scenario.guard) == 9
    scenario.put("web", *range(3, 11))
    scenario.put("db", 1)
    scenario.settle()
    assert scenario.held("web") == [1, 2]
    scenario.pass_time(HOLD_SECONDS - 100.0)
    assert scenario.held("web") == [2]
    scenario.pass_time(50.0)
    assert scenario.answered("web") == [*range(3, 11)]


def test_restored_held_members_whose_time_is_over_are_released_after_the_read() -> None:
    scenario = restored(1.0, held_before("web", 1, since=1000.0 - HOLD_SECONDS))
    scenario.pass_time(5.0)
    assert scenario.held("web") == [1]  # ZooKeeper may be unreachable
    scenario.put("web", *range(2, 11))
    scenario.settle()
    scenario.pass_time(0.0)
    assert scenario.answered("web") == [*range(2, 11)]


def test_times_in_the_future_count_as_now() -> None:
    scenario = restored(-500.0, held_before("web", 1, since=5000.0))
    scenario.put("web", *range(2, 11))
    scenario.drop("db")
    scenario.settle()
    assert {held.since for held in scenario.guard.held} == {1000.0}


def test_a_restart_does_not_extend_the_time_of_held_members() -> None:
    changes: tuple[Change, ...] = (*TABLE, held_before("web", 1, since=990.0))
    for start in range(1000, 1200, 20):
        scenario = Scenario()
        scenario.now = float(start)
        scenario.restore(*changes, current_at=scenario.now - 1.0)
        scenario.put("web", *range(2, 11))
        scenario.settle()
        changes = tuple(scenario.table.contents())
        assert [held.until for held in scenario.guard.held] == [990.0 + HOLD_SECONDS]


# -- another ensemble ---------------------------------------------------------------------------------------


def test_nothing_of_another_ensemble_is_held() -> None:
    scenario = restored(1.0, held_before("web", 1, since=900.0))
    scenario.disturb()
    scenario.drop("db")
    assert (scenario.held("web"), scenario.held("db")) == ([1], [1])
    scenario.change_ensemble()
    assert (scenario.answered("web"), scenario.answered("db")) == ([*range(2, 11)], None)
    scenario.put("web", 11)
    assert scenario.answered("web") == [11]
    scenario.settle()
    scenario.leave("web", 11)
    scenario.pass_time(WAIT_SECONDS)
    assert (scenario.answered("web"), scenario.guard.held) == ([], [])


def test_waiting_members_of_another_ensemble_leave_at_once() -> None:
    scenario = restored(3600.0)
    scenario.put("web", *range(1, 11))
    scenario.settle()
    scenario.leave("db", 1)
    assert scenario.answered("db") == [1]
    scenario.change_ensemble()
    assert scenario.answered("db") == []


def test_a_disturbance_during_the_read_of_another_ensemble_opens_a_window_after_it() -> None:
    scenario = restored(1.0)
    scenario.change_ensemble()
    scenario.disturb()
    scenario.put("web", *range(11, 16))
    scenario.drop("db")
    assert scenario.answered("db") is None
    assert scenario.guard.held == []
    scenario.settle()
    scenario.leave("web", *range(11, 16))
    assert scenario.held("web") == [*range(11, 16)]
