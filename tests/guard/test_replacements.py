"""Members that other members have replaced: they never come back."""

import pytest

from tests.guard.guard_internals import recorded_sets
from tests.guard.helpers import SESSION_TIMEOUT, Scenario, member, origin_of
from zkdns.guard import WAIT_SECONDS, WINDOW_SECONDS
from zkdns.serverset.changes import SetChanged
from zkdns.serverset.member import Status

MOMENT = 0.001


@pytest.fixture
def scenario() -> Scenario:
    """Three services, whose members are older than a session timeout."""
    known = Scenario()
    known.put("web", *range(1, 11))
    known.put("api", *range(1, 6))
    known.put("db", 1)
    known.settle()
    known.pass_time(2 * SESSION_TIMEOUT)
    return known


def collapse(scenario: Scenario) -> None:
    """All members leave together."""
    for service in ("web", "api", "db"):
        scenario.leave(service, *(scenario.answered(service) or ()))


@pytest.mark.parametrize("at_once", [1, 2, 5])
@pytest.mark.parametrize("is_surge", [True, False])
@pytest.mark.parametrize("is_in_window", [True, False])
def test_a_collapse_restores_no_member_that_a_deploy_has_replaced(
    scenario: Scenario, at_once: int, is_surge: bool, is_in_window: bool
) -> None:
    if is_in_window:
        scenario.disturb()
        scenario.settle()
    for start in range(1, 6, at_once):
        old = [*range(start, min(start + at_once, 6))]
        if is_surge:
            scenario.join("api", *(100 + number for number in old))
        else:
            scenario.leave("api", *old)
        scenario.pass_time(0.2)
        if is_surge:
            scenario.leave("api", *old)
        else:
            scenario.join("api", *(100 + number for number in old))
        scenario.pass_time(0.2)
    assert scenario.answered("api") == [101, 102, 103, 104, 105]
    collapse(scenario)
    assert scenario.held("api") == [101, 102, 103, 104, 105]
    assert scenario.held("db") == [1]


def test_a_deploy_in_single_changes_is_exact_too(scenario: Scenario) -> None:
    for number in range(1, 11):
        scenario.leave("web", number)
        scenario.join("web", 100 + number)
    collapse(scenario)
    assert scenario.held("web") == list(range(101, 111))


def test_a_service_that_is_deployed_twice_is_exact(scenario: Scenario) -> None:
    for generation in (100, 200):
        for number in range(1, 6):
            scenario.join("api", generation + number)
            scenario.leave("api", generation - 100 + number)
    collapse(scenario)
    assert scenario.held("api") == [201, 202, 203, 204, 205]


def test_a_member_that_returns_after_a_disturbance_replaces_no_other(scenario: Scenario) -> None:
    scenario.leave("api", 1, 2)
    scenario.disturb()
    scenario.settle()
    scenario.join("api", member(101, host="10.0.0.1"), member(102, host="10.0.0.2"))
    scenario.disturb()
    for number in range(3, 6):
        scenario.leave("api", number)
    scenario.leave("api", 101, 102)
    assert scenario.held("api") == [3, 4, 5, 101, 102]


def test_a_fleet_that_has_just_started_is_held_whole(scenario: Scenario) -> None:
    scenario.put("new", 1)
    for number in range(2, 7):
        scenario.join("new", number)
        scenario.pass_time(1.0)
    for number in range(1, 7):
        scenario.leave("new", number)
    collapse(scenario)
    assert scenario.held("new") == [1, 2, 3, 4, 5, 6]


def test_a_fleet_that_starts_in_a_window_is_held_at_the_next_disturbance(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.put("new", 1, 2)
    scenario.join("new", 3, 4, 5)
    scenario.disturb()
    scenario.settle()
    for number in range(1, 6):
        scenario.leave("new", number)
    assert scenario.held("new") == [1, 2, 3, 4, 5]


def test_a_lost_replacement_does_not_bring_back_the_one_that_it_replaced(scenario: Scenario) -> None:
    scenario.join("db", 2)
    scenario.leave("db", 1)
    scenario.disturb()
    scenario.leave("db", 2)
    assert scenario.held("db") == [2]


def test_a_restarted_process_replaces_only_its_own_member(scenario: Scenario) -> None:
    scenario.join("api", member(101, host="10.0.0.1"))  # the old session lasts
    scenario.disturb()
    scenario.settle()
    scenario.leave("api", 2, 3, 4, 5)
    scenario.leave("api", 1)
    assert scenario.held("api") == [2, 3, 4, 5]
    assert scenario.answered("api") == [2, 3, 4, 5, 101]


def test_replacements_are_remembered_for_a_session_timeout(scenario: Scenario) -> None:
    scenario.join("db", 2)
    scenario.pass_time(SESSION_TIMEOUT)
    scenario.leave("db", 1)  # 2 is an old member now
    collapse(scenario)
    assert scenario.held("db") == [1, 2]


def test_a_deploy_goes_on_when_the_window_closes(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.pass_time(WINDOW_SECONDS - MOMENT)
    scenario.join("db", 2)
    scenario.pass_time(2 * MOMENT)
    scenario.leave("db", 1)
    collapse(scenario)
    assert scenario.held("db") == [2]


def test_a_waiting_member_that_is_replaced_leaves_at_once(scenario: Scenario) -> None:
    scenario.leave("db", 1)
    scenario.join("db", 2)
    assert scenario.answered("db") == [2]
    scenario.pass_time(WAIT_SECONDS)
    assert scenario.answered("db") == [2]


def test_the_last_of_several_returning_members_is_held_until_it_returns(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.leave("api", 1, 2, 3, 4, 5)
    for number in range(1, 5):
        scenario.join("api", member(100 + number, host=f"10.0.0.{number}"))
    assert scenario.held("api") == [5]


def test_the_first_read_and_old_changes_are_not_remembered() -> None:
    scenario = Scenario()
    scenario.put("web", *range(1, 11))
    scenario.put("api", *range(1, 6))
    scenario.settle()
    assert recorded_sets(scenario.guard) == 0
    scenario.put("new", 1)
    scenario.join("api", 6)
    scenario.leave("web", 1)
    assert recorded_sets(scenario.guard) == 3
    scenario.pass_time(SESSION_TIMEOUT)
    scenario.join("db", 1)  # the set does not exist
    assert recorded_sets(scenario.guard) == 0


def test_final_losses_are_not_remembered_for_long(scenario: Scenario) -> None:
    scenario.disturb()
    scenario.settle()
    scenario.leave("db", 1)
    scenario.leave("web", 1)
    scenario.accept("db")
    scenario.pass_time(WINDOW_SECONDS - SESSION_TIMEOUT / 2)
    scenario.leave("web", 2)
    scenario.pass_time(SESSION_TIMEOUT)
    scenario.join("web", 1)
    scenario.pass_time(SESSION_TIMEOUT)
    scenario.join("none", 1)
    assert recorded_sets(scenario.guard) == 0


@pytest.mark.parametrize("is_disturbed", [True, False])
def test_a_member_that_restarts_while_the_removal_waits_is_not_held(
    scenario: Scenario, is_disturbed: bool
) -> None:
    """The new member at its endpoint is not served yet."""
    scenario.leave("web", *range(1, 7))
    scenario.leave("api", 1, 2)
    assert scenario.held("web") == []
    new = member(101, host="10.0.0.1", status=Status.STARTING)
    if is_disturbed:
        scenario.join("web", new)
        scenario.disturb()
    else:
        gone = tuple(member(number).name for number in range(7, 11))
        scenario.apply(SetChanged(origin_of("web"), (new,), gone))
    held = [*range(2, 7)] if is_disturbed else [*range(2, 11)]
    assert scenario.held("web") == held
    assert 1 not in (scenario.answered("web") or ())
