"""Internal errors are logged once, and not without limit."""

import structlog
from structlog.testing import capture_logs

from zkdns.transport.log_once import MAX_ERRORS, LogOnce


def test_each_error_is_logged_once() -> None:
    with capture_logs() as logs:
        log_once = LogOnce(structlog.get_logger(), "query_failed")
        for _ in range(3):
            log_once.error(ValueError("one"), query="00")
            log_once.error(ValueError("two"))
    assert [(entry["event"], str(entry["exc_info"])) for entry in logs] == [
        ("query_failed", "one"),
        ("query_failed", "two"),
    ]


def test_errors_that_differ_by_query_do_not_flood_the_log() -> None:
    with capture_logs() as logs:
        log_once = LogOnce(structlog.get_logger(), "query_failed")
        for number in range(10 * MAX_ERRORS):
            log_once.error(ValueError(number))
    assert len(logs) == MAX_ERRORS
