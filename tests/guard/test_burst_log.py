"""The log of thousands of held sets."""

from structlog.testing import capture_logs

from zkdns.guard.burst_log import MAX_LINES, BurstLog
from zkdns.namespace import ServiceName

NAME = ServiceName("web", "staging")


def test_further_sets_of_a_burst_are_logged_as_numbers() -> None:
    log = BurstLog()
    assert not log.has_burst
    with capture_logs() as logs:
        for number in range(MAX_LINES + 3):
            log.held(NAME, f"/s{number}", 5, 600, "a collapse")
        log.held(NAME, "/last", 7, 600, "a late reply")
        for number in range(MAX_LINES + 1):
            log.released(NAME, f"/s{number}", "accepted")
        assert log.has_burst
        log.end_burst()
    held, released = logs[:MAX_LINES], logs[MAX_LINES : 2 * MAX_LINES]
    assert [entry["origin"] for entry in held] == [f"/s{number}" for number in range(MAX_LINES)]
    assert {entry["event"] for entry in held} == {"members_held"}
    assert {entry["event"] for entry in released} == {"members_released"}
    assert [dict(entry) for entry in logs[2 * MAX_LINES :]] == [
        {
            "event": "more_members_held",
            "log_level": "warning",
            "sets": 3,
            "members": 15,
            "reason": "a collapse",
        },
        {
            "event": "more_members_held",
            "log_level": "warning",
            "sets": 1,
            "members": 7,
            "reason": "a late reply",
        },
        {"event": "more_members_released", "log_level": "info", "sets": 1, "reason": "accepted"},
    ]


def test_the_next_burst_has_lines_again() -> None:
    log = BurstLog()
    for _ in range(MAX_LINES + 1):
        log.held(NAME, "/web", 1, 600, "a collapse")
    log.end_burst()
    assert not log.has_burst
    with capture_logs() as logs:
        log.held(NAME, "/web", 1, 600, "a collapse")
        log.end_burst()
    assert [entry["event"] for entry in logs] == ["members_held"]
