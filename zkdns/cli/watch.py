"""`zkdns watch`: see the members of a service come and go, and have something done about it."""

from __future__ import annotations

import contextlib
import enum
import os
import queue
import select
import signal
import stat
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Protocol, Self

import click
import msgspec
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zkdns.address import HostPort
from zkdns.cli.options import exit_failed
from zkdns.cli.sets import ENVIRONMENT, SERVICE, Reading, set_options
from zkdns.config import Config
from zkdns.daemon.hook import Hook
from zkdns.errors import ZkdnsError
from zkdns.observe.logs import configure_logs, silence
from zkdns.serverset.client import make_client
from zkdns.serverset.listing import disconnect
from zkdns.serverset.member import Member
from zkdns.serverset.server_set import ServerSet
from zkdns.serverset.set_watch import SetWatch
from zkdns.serverset.watch import text_of

_SESSION_TIMEOUT = 10.0  # seconds; nothing of ours goes with the session


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


class _News(enum.Enum):
    CHANGED = enum.auto()
    CONNECTED = enum.auto()
    AWAY = enum.auto()
    UNREAD = enum.auto()
    """Nobody reads any more what is printed."""
    STOP = enum.auto()


_Item = _News | SetWatch | ZkdnsError
"""What the main thread takes from its queue; all others only put there."""


class _Shower(contextlib.AbstractContextManager["_Shower"], Protocol):
    """One way of telling what happens."""

    def changed(self, change: Change) -> None: ...

    def connection(self, *, is_there: bool) -> None: ...


@click.command()
@click.argument("service")
@set_options(ENVIRONMENT)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object at each change, a line each.")
@click.option(
    "--exec",
    "command",
    metavar="CMD",
    help="Run CMD by the shell at each change, with all endpoints on its standard input, a line each.",
)
def watch(config_file: str | None, as_json: bool, command: str | None, **flags: object) -> None:
    """Follow the members of SERVICE, until Ctrl-C or SIGTERM.

    A live table in a terminal; otherwise a line for each member that comes (+) or goes (-), those of the
    first set included.

    CMD runs for the first set too, never twice at once, and once more for what changed meanwhile. The
    variables ZKDNS_ENDPOINTS, ZKDNS_ADDED and ZKDNS_REMOVED hold endpoints with spaces between; one that
    would exceed what an environment holds (128 KiB on Linux) is not set.
    """
    reading = Reading({**SERVICE, ENVIRONMENT.flag: ENVIRONMENT}, flags, config_file)
    reading.need_set()
    if command is not None and not command.strip():
        reading.mistakes.append("--exec: is empty; write a command")
    config = reading.finish("watch")
    environment, service = reading.values["environment"], reading.values["service"]
    shower: _Shower = _Lines()
    if as_json:
        shower = _Json()
    elif sys.stdout.isatty():
        shower = _Table(f"{service} in {environment}" if environment else service, config)
    try:
        _follow(config, environment, service, shower, command)
    except BrokenPipeError:
        silence(sys.stdout)
    except ZkdnsError as error:
        exit_failed(error)


def _follow(config: Config, environment: str, service: str, shower: _Shower, command: str | None) -> None:
    """Tell changes until a signal."""
    news: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    client = make_client(str(config.zookeeper), session_timeout=_SESSION_TIMEOUT)
    client.add_listener(lambda state: news.put(_News.CONNECTED if state == "CONNECTED" else _News.AWAY))
    server_set = ServerSet(environment, service, namespace=config.namespace.template, client=client)

    def begin() -> None:
        try:
            news.put(server_set.watch())
        except ZkdnsError as error:
            news.put(error)

    with contextlib.ExitStack() as stack:
        stack.callback(disconnect, client)
        hook = stack.enter_context(contextlib.closing(Hook(command))) if command else None
        stack.enter_context(shower)
        _take_signals(news)
        _notice_closed_pipe(sys.stdout.fileno(), news)
        client.start_async()
        threading.Thread(target=begin, daemon=True).start()
        watched: SetWatch | None = None
        known: dict[str, Member] | None = None
        while (item := news.get()) is not _News.STOP:
            match item:
                case SetWatch():
                    watched = item
                    watched.subscribe(lambda: news.put(_News.CHANGED))
                    news.put(_News.CHANGED)
                case ZkdnsError():
                    raise item
                case _News.UNREAD:
                    raise BrokenPipeError
                case _News.CHANGED:
                    assert watched is not None  # noqa: S101 - it is what told
                    current = {member.name: member for member in watched.members}
                    if current != known:
                        change = _difference(known or {}, current, environment, service, watched.last_event)
                        known = current
                        shower.changed(change)
                        if hook:
                            hook.changed(change.endpoints)
                case _:
                    shower.connection(is_there=item is _News.CONNECTED)


def _difference(
    before: dict[str, Member], now: dict[str, Member], environment: str, service: str, at: float | None
) -> Change:
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    return Change(
        time=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        environment=environment,
        service=service,
        endpoints=tuple(sorted({text_of(member) for member in now.values() if member.service})),
        added=tuple(_row(member) for name, member in now.items() if before.get(name) != member),
        removed=tuple(_row(member) for name, member in before.items() if now.get(name) != member),
    )


def _row(member: Member) -> Row:
    additional = {name: str(HostPort(at.host, at.port)) for name, at in member.additional.items()}
    return Row(member.name, text_of(member) or None, additional, member.shard, member.metadata)


def _notice_closed_pipe(output: int, news: queue.SimpleQueue[_Item]) -> None:
    """Have it told when the other end of standard output is closed, also while there is nothing to print."""
    if not stat.S_ISFIFO(os.fstat(output).st_mode):
        return

    def wait() -> None:
        poller = select.poll()
        poller.register(output, 0)  # errors are always told, and nothing else is asked for
        poller.poll()
        news.put(_News.UNREAD)

    threading.Thread(target=wait, daemon=True).start()


def _take_signals(news: queue.SimpleQueue[_Item]) -> None:
    """Have Ctrl-C and SIGTERM end it; who does not want to wait for an orderly end sends a second."""
    taken = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]

    def take(_number: int, _frame: object) -> None:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        news.put(_News.STOP)  # SimpleQueue may be used in a signal handler

    for number in taken:
        signal.signal(number, take)


class _Lines:
    """A line for each member that comes or goes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def changed(self, change: Change) -> None:
        lines = [f"{change.time} - {_where(row)} {row.member}\n" for row in change.removed]
        lines += [f"{change.time} + {_where(row)} {row.member}\n" for row in change.added]
        if lines:
            click.echo("".join(lines), nl=False)

    def connection(self, *, is_there: bool) -> None:
        if not is_there:
            click.echo("zkdns: ZooKeeper is out of reach; what it last said stands", err=True)


class _Json(_Lines):
    """An object for each change."""

    def changed(self, change: Change) -> None:
        click.echo(msgspec.json.encode(change))


class _Table:
    """What there is now, in a terminal."""

    def __init__(self, title: str, config: Config) -> None:
        self._title = title
        self._config = config
        self._rows: dict[str, tuple[Row, str]] = {}
        self._is_first = True
        self._is_there = True
        self._live = Live(self._render(), auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        # Logs go through the table's own standard error, which prints them above it.
        configure_logs(self._config.log_format, self._config.log_level, process="watch")
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

    def _render(self) -> Table:
        count = "1 member" if len(self._rows) == 1 else f"{len(self._rows)} members"
        table = Table("endpoint", "member", "shard", "additional", "since", box=None, pad_edge=False)
        table.title, table.title_justify = Text(f"{self._title}: {count}", style="bold"), "left"
        if not self._is_there:
            table.caption, table.caption_justify = Text("ZooKeeper is out of reach", style="yellow"), "left"
        for name in sorted(self._rows):
            row, since = self._rows[name]
            shard = "" if row.shard is None else str(row.shard)
            additional = " ".join(f"{key}={value}" for key, value in row.additional.items())
            table.add_row(*map(Text, (row.endpoint or "", name, shard, additional, since)))
        return table


def _where(row: Row) -> str:
    """The endpoint; where there is none the additional ones."""
    return row.endpoint or ",".join(f"{name}={at}" for name, at in row.additional.items())
