"""The output of `zkdns watch`: a line for each member, a JSON object for each change, or a live table."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, Self

import msgspec
from rich.constrain import Constrain
from rich.live import Live
from rich.table import Table

from zkdns.address import HostPort
from zkdns.cli.output import make_console, styled
from zkdns.cli.streams import is_terminal, write_error, write_json, write_lines
from zkdns.config import Config
from zkdns.escape import word
from zkdns.plurals import counted
from zkdns.serverset.member import Member
from zkdns.serverset.watch import endpoint_text
from zkdns.telemetry.log_setup import configure_logging


class Row(msgspec.Struct, frozen=True):
    """A member in the output of `--json`."""

    member: str
    endpoint: str | None
    """`host:port`. None: it has only additional endpoints."""
    additional: dict[str, str]
    shard: int | None
    metadata: dict[str, str]


class Change(msgspec.Struct, frozen=True):
    """A change in the output of `--json`. The first one adds all members that exist at the start."""

    time: str
    environment: str
    service: str
    endpoints: tuple[str, ...]
    """All distinct endpoints after the change, sorted."""
    added: tuple[Row, ...]
    removed: tuple[Row, ...]


class WatchOutput(contextlib.AbstractContextManager["WatchOutput"], Protocol):
    """A format of the output. As a context manager, it occupies and restores the terminal if it needs to."""

    @property
    def print_line(self) -> Callable[[str], None] | None:
        """Prints a line of another program, from any thread. None: it may write to standard output itself."""

    def write_change(self, change: Change) -> None:
        """Write a change."""

    def write_connection(self, problem: str) -> None:
        """Write why the members may be out of date. Empty: they are current."""

    def redraw(self) -> None:
        """Draw the output again after the terminal has changed its size."""


def difference(
    before: dict[str, Member], after: dict[str, Member], environment: str, service: str, at: float | None
) -> Change:
    """Return the change between two sets of members, which are given by the names of their znodes."""
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    return Change(
        time=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        environment=environment,
        service=service,
        endpoints=tuple(sorted({endpoint_text(member) for member in after.values() if member.service})),
        added=tuple(_row(member) for name, member in after.items() if before.get(name) != member),
        removed=tuple(_row(member) for name, member in before.items() if after.get(name) != member),
    )


def _row(member: Member) -> Row:
    additional = {name: str(HostPort(one.host, one.port)) for name, one in member.additional.items()}
    return Row(member.name, endpoint_text(member) or None, additional, member.shard, dict(member.metadata))


def make_output(title: str, config: Config, *, as_json: bool) -> WatchOutput:
    """Return the output for standard output: JSON, a table with this title in a terminal, or lines."""
    if as_json:
        return _Json()
    return _Table(title, config) if is_terminal(sys.stdout) else _Lines()


class _Lines:
    """A line for each added (+) or removed (-) member."""

    _problem = ""

    @property
    def print_line(self) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write_change(self, change: Change) -> None:
        rows = [("-", row) for row in change.removed] + [("+", row) for row in change.added]
        lines = (
            " ".join((change.time, sign, *map(word, (_endpoints(row), row.member)))) for sign, row in rows
        )
        write_lines(*lines)

    def write_connection(self, problem: str) -> None:
        if problem and problem != self._problem:
            write_error(f"{problem}; the members may be out of date")
        elif self._problem and not problem:
            write_error("ZooKeeper is reachable again; changes follow")
        self._problem = problem

    def redraw(self) -> None:
        pass


class _Json(_Lines):
    """A JSON object for each change."""

    def write_change(self, change: Change) -> None:
        write_json(change)


class _Table:
    """A live table of the current members, in a terminal."""

    def __init__(self, title: str, config: Config) -> None:
        self._title = title
        self._config = config
        self._rows: dict[str, tuple[Row, str]] = {}
        self._is_first = True
        self._problem = ""
        self._console = make_console()
        self._live = Live(self._render(), console=self._console, auto_refresh=False)

    @property
    def print_line(self) -> Callable[[str], None]:
        return lambda line: self._console.print(styled(line.expandtabs()))  # above the table

    def __enter__(self) -> Self:
        self._live.start()
        # `Live` has replaced sys.stderr, so that log lines appear above the table.
        configure_logging(self._config.log.format, self._config.log.level, process="watch")
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def write_change(self, change: Change) -> None:
        for row in change.removed:
            del self._rows[row.member]
        since = datetime.fromisoformat(change.time).astimezone().strftime("%H:%M:%S")
        for row in change.added:
            self._rows[row.member] = row, f"before {since}" if self._is_first else since
        self._is_first = False
        self._live.update(self._render(), refresh=True)

    def write_connection(self, problem: str) -> None:
        self._problem = problem
        self._live.update(self._render(), refresh=True)

    def redraw(self) -> None:
        # The terminal has wrapped the lines differently, so the position of the table is unknown.
        self._console.clear()
        self._live.update(self._render(), refresh=True)

    def _render(self) -> Constrain:
        count = counted(len(self._rows), "member")
        table = Table(box=None, pad_edge=False)
        table.add_column("endpoint", no_wrap=True)
        # A narrow terminal shortens only these two columns: each row is one line with its full endpoint.
        table.add_column(styled("member", is_shortened=True))
        table.add_column("shard", no_wrap=True)
        table.add_column(styled("additional", is_shortened=True))
        table.add_column("since", no_wrap=True)
        table.title, table.title_justify = styled(f"{self._title}: {count}", "bold"), "left"
        if self._problem:
            table.caption, table.caption_justify = styled(self._problem, "yellow"), "left"
        for name in sorted(self._rows):
            row, since = self._rows[name]
            shard = "" if row.shard is None else str(row.shard)
            additional = " ".join(f"{key}={value}" for key, value in row.additional.items())
            table.add_row(
                styled(row.endpoint or ""),
                styled(name, is_shortened=True),
                styled(shard),
                styled(additional, is_shortened=True),
                styled(since),
            )
        # The terminal echoes Ctrl-C as ^C at the end of the last line. That must not wrap the line.
        return Constrain(table, self._console.width - len("^C"))


def _endpoints(row: Row) -> str:
    """Return the endpoint, or the additional endpoints if the member has none."""
    return row.endpoint or ",".join(f"{name}={endpoint}" for name, endpoint in row.additional.items())
