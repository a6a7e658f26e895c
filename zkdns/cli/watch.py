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

import click

from zkdns.cli.changes import Shower, difference, make_shower
from zkdns.cli.options import exit_failed
from zkdns.cli.sets import ENVIRONMENT, SERVICE, Reading, set_options
from zkdns.config import Config
from zkdns.errors import ZkdnsError
from zkdns.registrar.hook import Hook
from zkdns.registrar.signals import queue_signals
from zkdns.serverset.auth import Access
from zkdns.serverset.client import make_client
from zkdns.serverset.listing import disconnect
from zkdns.serverset.member import Member
from zkdns.serverset.server_set import ServerSet
from zkdns.serverset.set_watch import SetWatch
from zkdns.telemetry.log_setup import silence

_SESSION_TIMEOUT = 10.0  # seconds; nothing of ours goes with the session


class _News(enum.Enum):
    CHANGED = enum.auto()
    CONNECTED = enum.auto()
    AWAY = enum.auto()
    RESIZED = enum.auto()
    """The terminal is."""
    UNREAD = enum.auto()
    """Nobody reads any more what is printed."""
    STOP = enum.auto()


_Item = _News | SetWatch | ZkdnsError
"""What the main thread takes from its queue; all others only put there."""


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

    The exit status is 1 where ZooKeeper cannot be reached at first, or refuses, 2 for mistakes.
    """
    reading = Reading({**SERVICE, ENVIRONMENT.flag: ENVIRONMENT}, flags, config_file)
    reading.need_set()
    if command is not None and not command.strip():
        reading.mistakes.append("--exec: is empty; write a command")
    config = reading.finish("watch")
    environment, service = reading.values["environment"], reading.values["service"]
    title = f"{service} in {environment}" if environment else service
    shower = make_shower(title, config, as_json=as_json)
    try:
        with contextlib.closing(Hook(command, shower.say)) if command else contextlib.nullcontext() as hook:
            _Following(reading.access, config, environment, service, shower, hook).run()
    except BrokenPipeError:
        silence(sys.stdout)
    except ZkdnsError as error:
        exit_failed(error)


class _Following:
    """Tells the changes of one set until a signal; one thread decides, the main one."""

    def __init__(
        self,
        access: Access,
        config: Config,
        environment: str,
        service: str,
        shower: Shower,
        hook: Hook | None,
    ) -> None:
        self._news: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._client = make_client(
            str(config.zookeeper.hosts), session_timeout=_SESSION_TIMEOUT, access=access
        )
        self._set = ServerSet(environment, service, namespace=config.namespace.template, client=self._client)
        self._shower = shower
        self._hook = hook
        self._known: dict[str, Member] | None = None

    def run(self) -> None:
        """Tell what happens.

        Raises:
            BrokenPipeError: nobody reads it any more.
            ZkdnsError: ZooKeeper could not be reached from the beginning, or refuses.
        """
        self._client.add_listener(self._hear)
        with contextlib.ExitStack() as stack:
            stack.callback(disconnect, self._client)
            stack.enter_context(self._shower)
            _take_signals(self._news)
            _notice_closed_pipe(self._news)
            self._client.start_async()
            threading.Thread(target=self._begin, daemon=True).start()
            watched: SetWatch | None = None
            while (item := self._news.get()) is not _News.STOP:
                match item:
                    case SetWatch():
                        watched = stack.enter_context(contextlib.closing(item))
                        watched.subscribe(lambda: self._news.put(_News.CHANGED))
                        self._changed(watched)
                    case ZkdnsError():
                        raise item
                    case _News.UNREAD:
                        raise BrokenPipeError
                    case _News.RESIZED:
                        self._shower.resized()
                    case _News.CHANGED:
                        assert watched is not None  # noqa: S101 - it is what told
                        self._changed(watched)
                    case _:
                        self._shower.connection(is_there=item is _News.CONNECTED)

    def _hear(self, state: str) -> None:
        """The listener of the connection, in a thread of kazoo's."""
        self._news.put(_News.CONNECTED if state == "CONNECTED" else _News.AWAY)

    def _begin(self) -> None:
        try:
            self._news.put(self._set.watch())
        except ZkdnsError as error:
            self._news.put(error)

    def _changed(self, watched: SetWatch) -> None:
        current = {member.name: member for member in watched.members}
        if current == self._known:
            return
        at = watched.last_event
        change = difference(self._known or {}, current, self._set.environment, self._set.service, at)
        self._known = current
        self._shower.changed(change)
        if self._hook is not None:
            self._hook.changed(change.endpoints)


def _notice_closed_pipe(news: queue.SimpleQueue[_Item]) -> None:
    """Have it told when the other end of standard output is closed, also while there is nothing to print."""
    if sys.stdout is None:  # whoever started us closed it
        return
    output = sys.stdout.fileno()
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
    ending = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]

    def tell(number: signal.Signals) -> None:
        news.put(_News.RESIZED if number == signal.SIGWINCH else _News.STOP)

    queue_signals((*ending, signal.SIGWINCH), tell, once=ending)
