"""`zkdns top`: live rates, latencies and state of a running server."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from zkdns.address import HostPort, connectable
from zkdns.admin.status import StatsReading
from zkdns.cli.options import (
    NO_ANSWER,
    SettingOption,
    config_option,
    fail,
    is_terminal,
    load_or_exit,
    write_out,
)
from zkdns.cli.top_rates import NoStatsError, Rates, is_comparable, rates_between, read_stats
from zkdns.cli.top_view import view
from zkdns.errors import ZkdnsError
from zkdns.telemetry.log_setup import silence

_SECONDS = 1.0  # between two readings
_WINDOW = 4  # readings: workers report once a second too, so the rates of a single second would jump
_QUIT = frozenset(b"qQ")

Wait = Callable[[float], bool]
"""Waits for some seconds. Returns true as soon as the user wants to quit."""


@click.command()
@config_option
@click.option(
    "--admin",
    cls=SettingOption,
    variable="ZKDNS_ADMIN",
    metavar="ADDRESS:PORT",
    help="The server's admin address. Default: the configured one.",
)
@click.option("--once", is_flag=True, help="Measure for one second, print the result, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object each second, one per line.")
def top(config_file: str | None, admin: str | None, once: bool, as_json: bool) -> None:
    """Show rates, latencies and state of the running server.

    Shows queries, responses, caches, members and upstreams. In a terminal, the display is live until q or
    Ctrl-C. Otherwise, and with --once, it covers one second. The exit status is 1 if the server has no admin
    address, 2 for usage errors, 3 if no server responds to --once.
    """
    configured = load_or_exit({"admin": admin}, config_file, with_static=False).admin.listen
    if configured is None:
        fail(ZkdnsError("no admin address is configured; specify the server's with --admin ADDRESS:PORT"))
    address = connectable(configured)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it restores the terminal too
    try:
        if once or not (as_json or is_terminal(sys.stdout)):
            _print_once(address, as_json=as_json)
        elif as_json:
            _print_lines(address)
        else:
            _live(address)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        silence(sys.stdout)


def _print_once(address: HostPort, *, as_json: bool) -> None:
    try:
        before = read_stats(address)
        _wait(_SECONDS)
        after = read_stats(address)
    except NoStatsError as error:
        fail(error, NO_ANSWER)
    if not is_comparable(before, after):
        fail(ZkdnsError(f"the server at {address} was restarted meanwhile; try again"), NO_ANSWER)
    rates = rates_between(before, after)
    if as_json:
        write_out(_line(rates))
    else:
        Console(highlight=False).print(view(rates, str(address)))


def _print_lines(address: HostPort) -> None:
    """Print an object each second. While the server does not respond, report that once."""
    for result in _measurements(address, _wait, window=2):
        if isinstance(result, Rates):
            write_out(_line(result))
        elif result.is_new:
            click.echo(f"zkdns: {result.sentence}", err=True)


def _live(address: HostPort) -> None:
    with _keys() as wait, Live(screen=True, auto_refresh=False, console=Console(highlight=False)) as live:
        live.update(Text(f"connecting to {address} …"), refresh=True)
        for result in _measurements(address, wait, window=_WINDOW):
            shown = (
                view(result, str(address))
                if isinstance(result, Rates)
                else Text(result.sentence, style="red")
            )
            live.update(shown, refresh=True)


class _Unavailable(msgspec.Struct, frozen=True):
    """The stats cannot be read now."""

    sentence: str
    is_new: bool


def _measurements(address: HostPort, wait: Wait, *, window: int) -> Iterator[Rates | _Unavailable]:
    """Yield the rates over the last `window` readings each second, until the user quits."""
    readings: deque[StatsReading] = deque(maxlen=window)
    since: str | None = None
    while True:
        started_at = time.monotonic()
        try:
            reading = read_stats(address)
        except NoStatsError as error:
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


def _line(rates: Rates) -> str:
    return f"{msgspec.json.encode(rates).decode()}\n"
