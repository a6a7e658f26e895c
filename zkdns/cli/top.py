"""`zkdns top`: live rates, latencies and state of a running server."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator

import click
import msgspec
from rich.live import Live

from zkdns.admin.client import ApiClient, RefusedError, UnreachableError
from zkdns.admin.status import StatsReading
from zkdns.cli.api_options import make_client, request_or_exit, server_option
from zkdns.cli.options import config_option, fail
from zkdns.cli.output import make_console, styled
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import ReaderGoneError, is_terminal, watch_reader, write_error, write_json
from zkdns.cli.top_rates import Rates, is_comparable, rates_between
from zkdns.cli.top_view import view

_SECONDS = 1.0  # between two readings
_WINDOW = 4  # readings: workers report once a second too, so the rates of a single second would jump
_QUIT = frozenset(b"qQ")

Wait = Callable[[float], bool]
"""Waits for some seconds. Returns true as soon as the user wants to quit."""


@click.command()
@server_option
@config_option
@click.option("--once", is_flag=True, help="Measure for one second, print the result, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object each second, one per line.")
def top(server: str | None, config_file: str | None, once: bool, as_json: bool) -> None:
    """Show rates, latencies and state of the running server.

    Shows queries, responses, caches, members and upstreams. In a terminal, the display is live until q or
    Ctrl-C. Otherwise, and with --once, it covers one second. The exit status is 2 for usage errors, 3 if no
    server responds to --once.
    """
    client = make_client(server, config_file)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it restores the terminal too
    try:
        if once or not (as_json or is_terminal(sys.stdout)):
            _print_once(client, as_json=as_json)
        elif as_json:
            _print_lines(client)
        else:
            _live(client)
    except KeyboardInterrupt:
        pass


def _print_once(client: ApiClient, *, as_json: bool) -> None:
    before = request_or_exit(client.stats)
    _wait(_SECONDS)
    after = request_or_exit(client.stats)
    if not is_comparable(before, after):
        fail(f"the server at {client.server} was restarted meanwhile; try again", ExitStatus.NO_RESPONSE)
    rates = rates_between(before, after)
    if as_json:
        write_json(rates)
    else:
        make_console().print(view(rates, str(client.server)))


def _print_lines(client: ApiClient) -> None:
    """Print an object each second. While the server does not respond, report that once.

    Raises:
        ReaderGoneError: the reader of standard output has closed it.
    """
    gone = threading.Event()
    watch_reader(gone.set)
    for result in _measurements(client, gone.wait, window=2):
        if isinstance(result, Rates):
            write_json(result)
        elif result.is_new:
            write_error(result.sentence)
    raise ReaderGoneError


def _live(client: ApiClient) -> None:
    with _keys() as wait, Live(screen=True, auto_refresh=False, console=make_console()) as live:
        live.update(styled(f"connecting to {client.server} …"), refresh=True)
        for result in _measurements(client, wait, window=_WINDOW):
            shown = (
                view(result, str(client.server))
                if isinstance(result, Rates)
                else styled(result.sentence, "red")
            )
            live.update(shown, refresh=True)


class _Unavailable(msgspec.Struct, frozen=True):
    """The stats cannot be read now."""

    sentence: str
    is_new: bool


def _measurements(client: ApiClient, wait: Wait, *, window: int) -> Iterator[Rates | _Unavailable]:
    """Yield the rates over the last `window` readings each second, until the user quits."""
    readings: deque[StatsReading] = deque(maxlen=window)
    since: str | None = None
    while True:
        started_at = time.monotonic()
        try:
            reading = client.stats()
        except (UnreachableError, RefusedError) as error:
            is_new = since is None
            since = since or time.strftime("%H:%M:%S")
            readings.clear()
            yield _Unavailable(f"{error}; trying again, since {since}", is_new)
        else:
            since = None
            if readings and not is_comparable(readings[-1], reading):
                readings.clear()
            readings.append(reading)
            if len(readings) > 1:
                yield rates_between(readings[0], readings[-1])
        if wait(max(started_at + _SECONDS - time.monotonic(), 0.0)):
            return


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@contextlib.contextmanager
def _keys() -> Iterator[Wait]:
    """Yield a wait function that reads keys, if standard input is a terminal."""
    if not is_terminal(sys.stdin):
        yield _wait
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def wait(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([keyboard], [], [], left)[0]:
                typed = os.read(keyboard, 64)
                if not typed or not _QUIT.isdisjoint(typed):  # empty: the terminal was closed
                    return True
        return False

    tty.setcbreak(keyboard)
    try:
        yield wait
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
