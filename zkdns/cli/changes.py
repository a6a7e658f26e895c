"""What `zkdns watch` tells: a line for each member, an object for each change, or a table in a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, Self

import click
import msgspec
from rich.console import Console
from rich.constrain import Constrain
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zkdns.address import HostPort
from zkdns.cli.options import is_terminal, write_out
from zkdns.config import Config
from zkdns.serverset.member import Member
from zkdns.serverset.watch import endpoint_text
from zkdns.telemetry.log_setup import configure_logging


class Row(msgspec.Struct, frozen=True):
    """One member, as `--json` prints it."""

    member: str
    endpoint: str | None
    """`host:port`; None where it has additional endpoints only."""
    additional: dict[str, str]
    shard: int | None
    metadata: dict[str, str]


class Change(msgspec.Struct, frozen=True):
    """What `--json` prints at each change; the first set is one."""

    time: str
    environment: str
    service: str
    endpoints: tuple[str, ...]
    """All that there are now, sorted, each once."""
    added: tuple[Row, ...]
    removed: tuple[Row, ...]


class Shower(contextlib.AbstractContextManager["Shower"], Protocol):
    """One way of telling what happens; as a context manager it takes the terminal, if it needs that."""

    @property
    def say(self) -> Callable[[str], None] | None:
        """Prints a line of somebody else's, from any thread; None: who prints disturbs nothing."""

    def changed(self, change: Change) -> None:
        """Tell a change."""

    def connection(self, *, is_there: bool) -> None:
        """Tell whether ZooKeeper can be reached."""

    def resized(self) -> None:
        """Take note that the terminal has another size now."""


def difference(
    before: dict[str, Member], now: dict[str, Member], environment: str, service: str, at: float | None
) -> Change:
    """What makes the members that were there into those that are there now, by their znodes' names."""
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    return Change(
        time=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        environment=environment,
        service=service,
        endpoints=tuple(sorted({endpoint_text(member) for member in now.values() if member.service})),
        added=tuple(_row(member) for name, member in now.items() if before.get(name) != member),
        removed=tuple(_row(member) for name, member in before.items() if now.get(name) != member),
    )


def _row(member: Member) -> Row:
    additional = {name: str(HostPort(at.host, at.port)) for name, at in member.additional.items()}
    return Row(member.name, endpoint_text(member) or None, additional, member.shard, dict(member.metadata))


def make_shower(title: str, config: Config, *, as_json: bool) -> Shower:
    """The way that fits to whoever reads standard output; `title` stands above a table."""
    if as_json:
        return _Json()
    return _Table(title, config) if is_terminal(sys.stdout) else _Lines()


class _Lines:
    """A line for each member that comes or goes."""

    @property
    def say(self) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def changed(self, change: Change) -> None:
        lines = [f"{change.time} - {_where(row)} {row.member}\n" for row in change.removed]
        lines += [f"{change.time} + {_where(row)} {row.member}\n" for row in change.added]
        if lines:
            write_out("".join(lines))

    def connection(self, *, is_there: bool) -> None:
        if not is_there:
            click.echo("zkdns: ZooKeeper is out of reach; what it last said stands", err=True)

    def resized(self) -> None:
        pass


class _Json(_Lines):
    """An object for each change."""

    def changed(self, change: Change) -> None:
        write_out(msgspec.json.encode(change).decode() + "\n")


class _Table:
    """What there is now, in a terminal."""

    def __init__(self, title: str, config: Config) -> None:
        self._title = title
        self._config = config
        self._rows: dict[str, tuple[Row, str]] = {}
        self._is_first = True
        self._is_there = True
        self._console = Console()
        self._live = Live(self._render(), console=self._console, auto_refresh=False)

    @property
    def say(self) -> Callable[[str], None]:
        return lambda line: self._console.print(Text(line))  # above the table

    def __enter__(self) -> Self:
        self._live.start()
        # Logs go through the table's own standard error, which prints them above it.
        configure_logging(self._config.log.format, self._config.log.level, process="watch")
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def changed(self, change: Change) -> None:
        for row in change.removed:
            del self._rows[row.member]
        since = datetime.fromisoformat(change.time).astimezone().strftime("%H:%M:%S")
        for row in change.added:
            self._rows[row.member] = row, f"before {since}" if self._is_first else since
        self._is_first = False
        self._live.update(self._render(), refresh=True)

    def connection(self, *, is_there: bool) -> None:
        self._is_there = is_there
        self._live.update(self._render(), refresh=True)

    def resized(self) -> None:
        # The terminal has broken the lines anew, so that nobody knows where the table began.
        self._console.clear()
        self._live.update(self._render(), refresh=True)

    def _render(self) -> Constrain:
        count = "1 member" if len(self._rows) == 1 else f"{len(self._rows)} members"
        table = Table(box=None, pad_edge=False)
        table.add_column("endpoint", no_wrap=True)
        # Where the terminal is narrow, these two are cut: a row stays a line, and its endpoint whole.
        table.add_column(_cut("member"))
        table.add_column("shard", no_wrap=True)
        table.add_column(_cut("additional"))
        table.add_column("since", no_wrap=True)
        table.title, table.title_justify = Text(f"{self._title}: {count}", style="bold"), "left"
        if not self._is_there:
            table.caption, table.caption_justify = Text("ZooKeeper is out of reach", style="yellow"), "left"
        for name in sorted(self._rows):
            row, since = self._rows[name]
            shard = "" if row.shard is None else str(row.shard)
            additional = " ".join(f"{key}={value}" for key, value in row.additional.items())
            table.add_row(Text(row.endpoint or ""), _cut(name), Text(shard), _cut(additional), Text(since))
        # The terminal echoes Ctrl-C behind the last line, which must not become another one by that.
        return Constrain(table, self._console.width - len("^C"))


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _where(row: Row) -> str:
    """The endpoint; where there is none the additional ones."""
    return row.endpoint or ",".join(f"{name}={at}" for name, at in row.additional.items())
