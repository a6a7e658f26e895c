"""`zkdns watch`: follow the members of a service, and run a command at each change."""

from __future__ import annotations

import contextlib
import enum
import queue
import signal
import threading
from difflib import get_close_matches

import click
import msgspec

from zkdns.cli.command import Command
from zkdns.cli.name_completion import complete_names
from zkdns.cli.serverset_options import ENVIRONMENT, ParsedOptions, fail_in_zookeeper, server_set_options
from zkdns.cli.streams import ReaderGoneError, watch_reader, write_error
from zkdns.cli.watch_output import WatchOutput, difference, make_output
from zkdns.config import Config
from zkdns.errors import ZkdnsError
from zkdns.registrar.hook import Hook
from zkdns.registrar.signals import queue_signals
from zkdns.serverset.client import is_read_only, make_client
from zkdns.serverset.listing import disconnect, find_siblings
from zkdns.serverset.member import Member
from zkdns.serverset.reachability import DIAGNOSIS_SECONDS, NO_QUORUM
from zkdns.serverset.server_set import ServerSet
from zkdns.serverset.set_watch import SetWatch

_SESSION_TIMEOUT = 10.0  # seconds; the session has no ephemeral znodes
_START_TIMEOUT = 10.0  # seconds to wait for ZooKeeper, including the search for the cause


class _Event(enum.Enum):
    MEMBERS_CHANGED = enum.auto()
    CONNECTED = enum.auto()
    CONNECTED_READ_ONLY = enum.auto()
    """As CONNECTED, to a server without a quorum."""
    DISCONNECTED = enum.auto()
    TERMINAL_RESIZED = enum.auto()
    OUTPUT_CLOSED = enum.auto()
    """The reader of standard output has closed the pipe."""
    STOP = enum.auto()


_PROBLEMS = {
    _Event.DISCONNECTED: "ZooKeeper is unreachable",
    _Event.CONNECTED_READ_ONLY: f"the ZooKeeper server has lost the others: {NO_QUORUM}",
}


class _Missing(msgspec.Struct, frozen=True):
    """The set does not exist yet."""

    siblings: tuple[str, ...]
    """Names of the znodes next to it."""


_Item = _Event | SetWatch | _Missing | ZkdnsError
"""An item of the queue that the main thread reads. All other threads only write to it.

A `SetWatch` is the watch that has started, and a `ZkdnsError` the reason why it could not start.
"""


@click.command(
    cls=Command,
    examples=(
        ("zkdns watch web.staging", "Show the members, and each change"),
        (
            "zkdns watch web.staging --exec 'cat > endpoints'",
            "Write the endpoints to a file at each change",
        ),
    ),
)
@click.argument("service", shell_complete=complete_names)
@server_set_options(ENVIRONMENT)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each change, one per line.")
@click.option(
    "--exec",
    "command",
    metavar="CMD",
    help="Run CMD in the shell at each change, with all endpoints on its standard input, one per line.",
)
def watch(service: str, config_file: str | None, as_json: bool, command: str | None, **flags: object) -> None:
    """Follow the members of SERVICE, until SIGTERM or Ctrl-C.

    SERVICE is a name such as web.staging, the path of its znode, or web with --environment staging.

    Shows a live table in a terminal; otherwise prints a line for each added (+) or removed (-) member,
    starting with the existing ones.

    CMD also runs for the existing members. It never runs twice at the same time: changes during a run are
    passed to the next run together. The variables ZKDNS_ENDPOINTS, ZKDNS_ADDED and ZKDNS_REMOVED contain
    endpoints, separated by spaces. A variable that would be larger than the system allows (128 KiB on Linux)
    is not set.

    The exit status is 2 for usage errors, 3 if ZooKeeper is unreachable at the start, 5 if it denies access.
    """
    parsed = ParsedOptions({ENVIRONMENT.flag: ENVIRONMENT}, flags, config_file)
    parsed.locate_set(service)
    if command is not None and not command.strip():
        parsed.errors.append("--exec: is empty; write a command")
    config = parsed.config_or_fail("watch")
    output = make_output(parsed.service, config, as_json=as_json)
    try:
        with (
            contextlib.closing(Hook(command, output.print_line))
            if command
            else contextlib.nullcontext() as hook
        ):
            _Follower(parsed, config, output, hook).run()
    except ZkdnsError as error:
        fail_in_zookeeper(error, config, parsed.service)


class _Follower:
    """Writes the changes of one server set until a signal. Only the main thread acts; it reads a queue."""

    def __init__(
        self,
        parsed: ParsedOptions,
        config: Config,
        output: WatchOutput,
        hook: Hook | None,
    ) -> None:
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._client = make_client(
            str(config.zookeeper.hosts),
            session_timeout=_SESSION_TIMEOUT,
            access=parsed.access,
            read_only=True,
        )
        self._name, place = parsed.service, parsed.place
        self._set = ServerSet(
            place.environment,
            place.service,
            namespace=place.template,
            member_prefix=place.member_prefix,
            client=self._client,
        )
        self._output = output
        self._hook = hook
        self._members: dict[str, Member] | None = None

    def run(self) -> None:
        """Write the changes, until a signal.

        Raises:
            ReaderGoneError: the reader of standard output has closed it.
            ZkdnsError: ZooKeeper is unreachable at the start, or denies access.
        """
        self._client.add_listener(self._on_state)
        with contextlib.ExitStack() as stack:
            stack.callback(disconnect, self._client)
            stack.enter_context(self._output)
            _queue_signals(self._queue)
            watch_reader(lambda: self._queue.put(_Event.OUTPUT_CLOSED))
            self._client.start_async()
            threading.Thread(target=self._start_watch, daemon=True).start()
            watched: SetWatch | None = None
            while (item := self._queue.get()) is not _Event.STOP:
                match item:
                    case SetWatch():
                        watched = stack.enter_context(contextlib.closing(item))
                        watched.subscribe(lambda: self._queue.put(_Event.MEMBERS_CHANGED))
                        self._write_change(watched)
                    case ZkdnsError():
                        raise item
                    case _Missing():
                        self._warn_if_unknown(item)
                    case _Event.OUTPUT_CLOSED:
                        raise ReaderGoneError
                    case _Event.TERMINAL_RESIZED:
                        self._output.redraw()
                    case _Event.MEMBERS_CHANGED:
                        assert watched is not None  # noqa: S101 - it sends this event
                        self._write_change(watched)
                    case _:
                        self._output.write_connection(_PROBLEMS.get(item, ""))

    def _on_state(self, state: str) -> None:
        """Queue a state of the connection; kazoo calls this in a thread of its own."""
        if state != "CONNECTED":
            self._queue.put(_Event.DISCONNECTED)
        elif is_read_only(self._client):
            self._queue.put(_Event.CONNECTED_READ_ONLY)
        else:
            self._queue.put(_Event.CONNECTED)

    def _start_watch(self) -> None:
        try:
            self._queue.put(self._set.watch(timeout=_START_TIMEOUT - DIAGNOSIS_SECONDS))
            siblings = find_siblings(self._client, self._set.path)
        except ZkdnsError as error:
            self._queue.put(error)
        else:
            if siblings is not None:
                self._queue.put(_Missing(siblings))

    def _warn_if_unknown(self, missing: _Missing) -> None:
        """Write that the set does not exist yet, with similar names."""
        names = get_close_matches(self._set.service, missing.siblings)
        similar = f"; similar names: {', '.join(names)}" if names else ""
        write_error(f"there is no service {self._name} yet ({self._set.path}){similar}")

    def _write_change(self, watched: SetWatch) -> None:
        # Without weights, which are not part of the output.
        current = {member.name: msgspec.structs.replace(member, weight=1.0) for member in watched.members}
        if current == self._members:
            return
        at = watched.last_event
        change = difference(self._members or {}, current, self._set.environment, self._set.service, at)
        self._members = current
        self._output.write_change(change)
        if self._hook is not None:
            self._hook.schedule(change.endpoints)


def _queue_signals(events: queue.SimpleQueue[_Item]) -> None:
    """Queue Ctrl-C, SIGTERM and changes of the terminal size. A second signal ends the program at once."""
    stopping = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]

    def put(number: signal.Signals) -> None:
        events.put(_Event.TERMINAL_RESIZED if number == signal.SIGWINCH else _Event.STOP)

    queue_signals((*stopping, signal.SIGWINCH), put, once=stopping)
