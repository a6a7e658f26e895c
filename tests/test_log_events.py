"""Log events: each is a snake_case literal, and docs/log-events.md has its level and fields."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import zkdns
from zkdns.serverset.logs import Log
from zkdns.transport.log_once import LogOnce

PACKAGE = Path(zkdns.__file__).parent
PAGE = PACKAGE / "docs" / "log-events.md"

LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
    "log": "varies",
}
# These classes log events of their callers; the calls to them are checked instead.
FORWARDERS = {Path(str(inspect.getsourcefile(forwarder))) for forwarder in (Log, LogOnce)}
LOGGERS = re.compile(r"(?:.*\.)?_?log(?:ger|ging)?|(?:.*\.)?get_?[lL]ogger\(.*\)|Log\(.*\)")
IDENTIFIER = re.compile(r"[a-z]+(?:_[a-z0-9]+)+")


@dataclass(frozen=True)
class Event:
    """A call that logs.

    Attributes:
        name: the identifier; None if it is not a literal.
        fields: the names of the fields.
        has_all_fields: False if the call has **fields too.
        place: file and line.
    """

    name: str | None
    level: str
    fields: frozenset[str]
    has_all_fields: bool
    place: str


@dataclass(frozen=True)
class Row:
    """A row of the page."""

    level: str
    fields: frozenset[str]


def events_of(source: str, file: str = "source.py") -> Iterator[Event]:
    """Calls of log methods, and calls that pass a logger and an event."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        names = {keyword.arg for keyword in node.keywords}
        fields = frozenset(name for name in names if name and name not in {"exc_info", "event"})
        has_all_fields = None not in names
        if isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            if not LOGGERS.fullmatch(ast.unparse(node.func.value)):
                continue
            level = LEVELS[node.func.attr]
            event = _argument(node, 1 if level == "varies" else 0)
        elif node.args and isinstance(node.args[0], ast.Name) and node.args[0].id == "log":
            level, event, has_all_fields = "error", _argument(node, 1), False
        else:
            continue
        name = event.value if isinstance(event, ast.Constant) and isinstance(event.value, str) else None
        yield Event(name, level, fields, has_all_fields, f"{file}:{node.lineno}")


def _argument(call: ast.Call, place: int) -> ast.expr | None:
    named = [keyword.value for keyword in call.keywords if keyword.arg == "event"]
    return call.args[place] if place < len(call.args) else next(iter(named), None)


def rows_of(page: str) -> dict[str, Row]:
    """Rows of the page's table by event; each event has one row."""
    rows: dict[str, Row] = {}
    for line in page.splitlines():
        if line.startswith("| `"):
            event, level, fields, meaning = (cell.strip() for cell in line.strip("|").split("|"))
            assert meaning.endswith("."), line
            assert event not in rows, line
            rows[event.strip("`")] = Row(level, frozenset(re.findall(r"`(\w+)`", fields)))
    return rows


def problems(events: list[Event], rows: dict[str, Row]) -> list[str]:
    """Differences between events and page."""
    found = [
        f"{event.place}: {event.name or 'the event'} is not a snake_case literal"
        for event in events
        if event.name is None or not IDENTIFIER.fullmatch(event.name)
    ]
    by_name: dict[str, list[Event]] = {}
    for event in events:
        by_name.setdefault(event.name or "", []).append(event)
    for name, logged in by_name.items():
        row = rows.get(name)
        if row is None:
            found.append(f"{logged[0].place}: {name} is missing in the page")
            continue
        levels = {event.level for event in logged}
        if levels != {row.level}:
            found.append(f"{logged[0].place}: {name} has the levels {levels}, in the page {row.level}")
        fields = frozenset[str]().union(*(event.fields for event in logged))
        has_all_fields = all(event.has_all_fields for event in logged)
        if not fields <= row.fields or (has_all_fields and fields != row.fields):
            found.append(
                f"{logged[0].place}: {name} has the fields {set(fields)}, in the page {set(row.fields)}"
            )
    return found + [f"the page's {name} is never logged" for name in rows.keys() - by_name.keys()]


def modules() -> Iterator[Path]:
    return (path for path in sorted(PACKAGE.rglob("*.py")) if path not in FORWARDERS)


def test_source_and_page_agree() -> None:
    events = [
        event
        for path in modules()
        for event in events_of(path.read_text(), str(path.relative_to(PACKAGE.parent)))
    ]
    assert len(events) > 80
    assert problems(events, rows_of(PAGE.read_text())) == []


def test_loggers_of_modules_are_called_log() -> None:
    """`events_of` finds log calls by this name."""
    found = {
        ast.unparse(target)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign)
        and re.match(r"(?:structlog\.get_logger|Log)\(", ast.unparse(node.value))
        for target in node.targets
    }
    assert found == {"log"}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('log.info(f"znode_{what}", path=1)', "the event is not a snake_case literal"),
        ("log.info(event, path=1)", "the event is not a snake_case literal"),
        ('log.info("znode_" + what, path=1)', "the event is not a snake_case literal"),
        ('log.info("znode is missing", path=1)', "znode is missing is not a snake_case literal"),
        ('log.info("znodeMissing", path=1)', "znodeMissing is not a snake_case literal"),
        ('self._log.warning("znode_seen", path=1)', "znode_seen is missing in the page"),
        ('structlog.get_logger("zkdns").error("znode_seen")', "znode_seen is missing in the page"),
        ('logging.getLogger(name).error("znode_seen")', "znode_seen is missing in the page"),
        ('logging.warning("znode_seen")', "znode_seen is missing in the page"),
        ('LogOnce(log, "znode_seen")', "znode_seen is missing in the page"),
        ('LogOnce(log, event="znode_seen")', "znode_seen is missing in the page"),
        ('LogOnce(log, f"znode_{what}")', "the event is not a snake_case literal"),
        (
            'log.log(level, "znode_missing", path=1)',
            "znode_missing has the levels {'varies'}, in the page info",
        ),
        (
            'log.exception("znode_missing", path=1)',
            "znode_missing has the levels {'error'}, in the page info",
        ),
        ('log.info("znode_missing")', "znode_missing has the fields set(), in the page {'path'}"),
        ('log.info("znode_missing", znode=1)', "has the fields {'znode'}, in the page {'path'}"),
        ('log.info("znode_missing", znode=1, **fields)', "has the fields {'znode'}, in the page {'path'}"),
        ("math.log(2)", "the page's znode_missing is never logged"),
    ],
)
def test_a_difference_between_source_and_page_is_found(source: str, problem: str) -> None:
    rows = rows_of("| `znode_missing` | info | `path` | A znode is missing. |")
    good = list(events_of('log.info("znode_missing", path=1)\nlog.info("znode_missing", **fields)'))
    assert problems(good, rows) == []
    assert any(problem in one for one in problems(list(events_of(source)), rows))
