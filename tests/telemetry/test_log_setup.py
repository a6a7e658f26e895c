"""Log output of a process on standard error and in the journal."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import eventually

_SET_UP = """
import logging, sys
import structlog
from zkdns.telemetry.log_setup import configure_logging
configure_logging(sys.argv[1], sys.argv[2], process="watcher")
log = structlog.get_logger("zkdns.test")
"""
_LEVELS = """
log.debug("debug_logged")
log.info("info_logged", path="/a/b", count=3)
log.warning("warning_logged")
log.error("error_logged")
"""
_FAIL = """
def fail():
    secret = "hunter" + str(2)
    raise ValueError("went wrong\\nfor good")
try:
    fail()
except ValueError:
    log.exception("step_failed", query="c0ffee")
log.info("work_continued")
"""
_LIBRARY = """
logging.getLogger("kazoo").warning("chatter")
try:
    {}["key"]
except KeyError:
    logging.getLogger("asyncio").exception("in a library: %s", "details")
"""
_THREAD = """
import threading
speaker = threading.Thread(target=log.info, args=("elsewhere",))
speaker.start()
speaker.join()
"""
_ODD = r"""
log.info("odd\nevent", surrogate="\udcff", raw=b"\x00\xff", number=float("inf"), thing=object, event_text="ü")
"""


def output_of(script: str, log_format: str = "json", level: str = "debug") -> str:
    """Run a script, and return its standard error. It must succeed and write nothing else."""
    command = [sys.executable, "-c", _SET_UP + script, log_format, level]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    return ended.stderr


def entries(script: str, level: str = "debug") -> list[dict[str, Any]]:
    return [json.loads(line) for line in output_of(script, level=level).splitlines()]


def test_json_lines_have_time_level_event_and_process() -> None:
    logged = entries(_LEVELS)
    assert [entry["level"] for entry in logged] == ["debug", "info", "warning", "error"]
    assert {entry["process"] for entry in logged} == {"watcher"}
    assert logged[1].pop("timestamp").endswith("Z")
    assert logged[1] == {
        "event": "info_logged",
        "level": "info",
        "process": "watcher",
        "path": "/a/b",
        "count": 3,
    }


def test_lines_of_other_threads_have_the_process_too() -> None:
    [entry] = entries(_THREAD)
    assert entry["process"] == "watcher"


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lines_below_the_level_are_not_logged(log_format: str, level: str, shown: list[str]) -> None:
    lines = output_of(_LEVELS, log_format, level).splitlines()
    assert len(lines) == len(shown)
    assert all(f"{name}_logged" in line for name, line in zip(shown, lines, strict=True))


def test_an_exception_is_one_json_object_without_variables() -> None:
    failed, after = entries(_FAIL)
    assert failed["event"] == "step_failed"
    assert failed["query"] == "c0ffee"
    assert failed["exception"][0]["exc_type"] == "ValueError"
    assert failed["exception"][0]["exc_value"] == "went wrong\nfor good"
    assert [frame["name"] for frame in failed["exception"][0]["frames"]] == ["<module>", "fail"]
    assert "hunter2" not in json.dumps(failed)
    assert after["event"] == "work_continued"


def test_console_exceptions_have_no_variables_and_no_colours_in_a_pipe() -> None:
    written = output_of(_FAIL, "console")
    assert "ValueError: went wrong" in written
    assert "in fail" in written
    assert "hunter2" not in written
    assert "\x1b" not in written
    assert "work_continued" in written.splitlines()[-1]


def test_the_console_shows_fields_in_one_column_and_in_the_order_of_the_call() -> None:
    script = """
log.info("znode_missing", path="/a/b")
log.warning("zookeeper_client_restart_failed", zookeeper="zk1:2181", reason="two words", count=3)
"""
    assert [line.split(" ", 1)[1] for line in output_of(script, "console").splitlines()] == [
        "[info     ] znode_missing                    process=watcher path=/a/b",
        (
            "[warning  ] zookeeper_client_restart_failed  process=watcher zookeeper=zk1:2181 "
            "reason='two words' count=3"
        ),
    ]


def test_errors_of_libraries_have_the_same_format() -> None:
    (entry,) = entries(_LIBRARY)
    assert (entry["event"], entry["text"]) == ("library_message_logged", "in a library: details")
    assert entry["logger"] == "asyncio"
    assert entry["level"] == "error"
    assert entry["exception"][0]["exc_type"] == "KeyError"


def test_values_unknown_to_json_are_still_one_line() -> None:
    (entry,) = entries(_ODD)
    assert entry["event"] == "odd\nevent"


def test_the_console_accepts_unusual_values_too() -> None:
    assert "ü" in output_of(_ODD, "console")


# -- closed streams -----------------------------------------------------------------------------------------

_MANY = """
for number in range(2000):
    log.info("line", number=number)
print("done", flush=True)
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_a_full_or_closed_stream_does_not_stop_the_process(log_format: str, closed: str) -> None:
    command = [
        "sh",
        "-c",
        f'exec "$@" {closed}',
        "sh",
        sys.executable,
        "-c",
        _SET_UP + _MANY,
        log_format,
        "info",
    ]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=30)
    assert ended.stdout == "done\n"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_closed_pipe_does_not_stop_the_process(log_format: str) -> None:
    command = [sys.executable, "-c", _SET_UP + _MANY, log_format, "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline()
        process.stderr.close()
        assert process.stdout.read() == b"done\n"
        assert eventually(lambda: process.poll() is not None)
    assert process.returncode == 0


# -- the journal --------------------------------------------------------------------------------------------

_TO_JOURNAL = """
import sys
import structlog
from zkdns.telemetry.log_setup import configure_logging
configure_logging(sys.argv[1], "debug", process="watcher", journal=sys.argv[2])
log = structlog.get_logger("zkdns.test")
"""
_SERVICE = """
log.warning("members_held", service="web.staging", count=3, odd="two\\nlines", priority="mine", _PID=1)
"""
NO_JOURNAL = "/nowhere"


@contextlib.contextmanager
def journald(directory: Path) -> Iterator[Callable[[], list[dict[str, str]]]]:
    """Bind a socket like journald's, and yield a function that returns the entries received."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(directory / "journal"))
        sock.setblocking(False)

        def entries() -> list[dict[str, str]]:
            found = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append(fields_of(sock.recv(1 << 20)))
            return found

        yield entries


def fields_of(entry: bytes) -> dict[str, str]:
    """Parse an entry of the native journal protocol."""
    fields = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        key, is_short, value = line.partition(b"=")
        if not is_short:
            length = int.from_bytes(entry[:8], "little")
            value, entry = entry[8 : 8 + length], entry[8 + length + 1 :]
        fields[key.decode()] = value.decode()
    return fields


def to_journal(script: str, path: object, log_format: str = "journald", stream: str = "") -> str:
    """Run a script with `stream` as $JOURNAL_STREAM, and return its standard error."""
    with tempfile.TemporaryFile() as written:
        status = os.fstat(written.fileno())
        variables = {"JOURNAL_STREAM": stream.format(status.st_dev, status.st_ino)} if stream else {}
        command = [sys.executable, "-c", _TO_JOURNAL + script, log_format, str(path)]
        subprocess.run(command, stderr=written, check=True, env={**os.environ, **variables}, timeout=30)
        written.seek(0)
        return written.read().decode()


def test_journal_entries_have_priorities_and_fields_and_no_times(short_path: Path) -> None:
    with journald(short_path) as entries:
        assert to_journal(_LEVELS + _SERVICE, short_path / "journal") == ""
        *of_levels, held = entries()
    assert [entry["PRIORITY"] for entry in of_levels] == ["7", "6", "4", "3"]
    assert of_levels[1] == {
        "MESSAGE": "info_logged process=watcher path=/a/b count=3",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "zkdns",
        "PROCESS": "watcher",
        "PATH": "/a/b",
        "COUNT": "3",
    }
    assert held["MESSAGE"].startswith(
        "members_held process=watcher service=web.staging count=3 odd='two\\nlines' "
    )
    assert held["SERVICE"] == "web.staging"
    assert held["ODD"] == "two\nlines"
    assert (held["PRIORITY"], held["PID"]) == (
        "4",
        "1",
    )  # leading underscores are reserved for journald


def test_journal_entries_have_complete_exceptions(short_path: Path) -> None:
    with journald(short_path) as entries:
        to_journal(_FAIL, short_path / "journal")
        failed, _ = entries()
    assert failed["MESSAGE"].startswith("step_failed process=watcher query=c0ffee\nTraceback")
    assert failed["MESSAGE"].endswith("ValueError: went wrong\nfor good")
    assert failed["QUERY"] == "c0ffee"
    assert "hunter2" not in str(failed)


def test_without_journald_each_line_has_a_priority_prefix() -> None:
    lines = to_journal(_LEVELS + _FAIL, NO_JOURNAL).splitlines()
    assert lines[:4] == [
        "<7>debug_logged process=watcher",
        "<6>info_logged process=watcher path=/a/b count=3",
        "<4>warning_logged process=watcher",
        "<3>error_logged process=watcher",
    ]
    assert all(line.startswith("<3>") for line in lines[4:-1])
    assert lines[-1] == "<6>work_continued process=watcher"


def test_entries_too_long_for_the_journal_go_to_standard_error(short_path: Path) -> None:
    with journald(short_path) as entries:
        written = to_journal(
            'log.info("long", text="x" * 10_000_000)\nlog.info("short")', short_path / "journal"
        )
        assert [entry["MESSAGE"] for entry in entries()] == ["short process=watcher"]
    assert written.startswith("<6>long process=watcher text=xxx")


@pytest.mark.parametrize(
    ("stream", "begins"), [("{}:{}", "<6>info_logged"), ("{0}:1", ""), ("", ""), ("nonsense", "")]
)
def test_auto_selects_the_journal_if_standard_error_is_the_journal(stream: str, begins: str) -> None:
    line = to_journal('log.info("info_logged")', NO_JOURNAL, "auto", stream)
    assert line.startswith(begins or tuple("0123456789"))  # a time
    assert "info_logged" in line


@pytest.mark.parametrize("log_format", ["console", "json", "journald"])
def test_foreign_text_is_escaped_and_stays_on_its_line(log_format: str) -> None:
    hostile = "a\x1b[2J\x9b1m\x7f\u202e\u2028\x85\r\nforged"
    script = f"""
hostile = {hostile!r}
log.info("member_skipped", member=hostile, several=[hostile], event_text=hostile.replace("\\n", ""))
log.info(hostile)
try:
    raise ValueError(hostile)
except ValueError:
    log.exception("step_failed")
"""
    lines = output_of(script, log_format).split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert len([line for line in lines if "member_skipped" in line]) == 1
    # A line end in the text of an exception is one in its traceback, which has several lines anyway.
    assert len([line for line in lines if line.startswith("forged")]) <= 1
