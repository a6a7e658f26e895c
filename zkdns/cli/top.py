"""`zkdns top`: what a running server does, as it does it."""

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
from zkdns.cli.options import (
    NO_ANSWER,
    config_option,
    exit_failed,
    is_terminal,
    load_or_exit,
    write_out,
)
from zkdns.cli.top_view import view
from zkdns.errors import ZkdnsError
from zkdns.observe.logs import silence
from zkdns.observe.scraped import Glance, NotToldError, Scrape, glance, scrape

_SECONDS = 1.0
# Workers tell their figures once a second too; over some seconds it does not matter when exactly they do.
_WINDOW = 4
_QUIT = frozenset(b"qQ")

Wait = Callable[[float], bool]
"""Waits so many seconds; whether somebody wants to leave meanwhile."""


@click.command()
@config_option
@click.option(
    "--admin", metavar="ADDRESS:PORT", help="The server's admin address (default: the configured one)."
)
@click.option("--once", is_flag=True, help="Look for one second, print that, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object each second, a line each.")
def top(config_file: str | None, admin: str | None, once: bool, as_json: bool) -> None:
    """Show what the running server does: queries, answers, latencies, members, upstreams.

    Live in a terminal, until q or Ctrl-C; otherwise, and with --once, a table of one second. The exit status
    is 1 where the server has no admin address, 2 for mistakes, 3 where no server answers to --once.
    """
    configured = load_or_exit({"admin": admin}, config_file, with_fixed=False).admin
    if configured is None:
        exit_failed(ZkdnsError("there is no admin address; name the server's with --admin ADDRESS:PORT"))
    address = connectable(configured)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it too leaves the terminal as it was
    try:
        if once or not (as_json or is_terminal(sys.stdout)):
            _look_once(address, as_json=as_json)
        elif as_json:
            _tell(address)
        else:
            _live(address)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        silence(sys.stdout)


def _look_once(address: HostPort, *, as_json: bool) -> None:
    try:
        before = scrape(address)
        _wait(_SECONDS)
        seen = glance(before, scrape(address))
    except NotToldError as error:
        exit_failed(error, NO_ANSWER)
    if as_json:
        write_out(_line(seen))
    else:
        Console(highlight=False).print(view(seen, str(address)))


def _tell(address: HostPort) -> None:
    """Print an object a second; while the server is away, say so once."""
    for seen in _looks(address, _wait, most=2):
        if isinstance(seen, Glance):
            write_out(_line(seen))
        elif seen.is_new:
            click.echo(f"zkdns: {seen.sentence}", err=True)


def _live(address: HostPort) -> None:
    with _keys() as wait, Live(screen=True, auto_refresh=False, console=Console(highlight=False)) as live:
        live.update(Text(f"looking at {address} …"), refresh=True)
        for seen in _looks(address, wait, most=_WINDOW):
            told = view(seen, str(address)) if isinstance(seen, Glance) else Text(seen.sentence, style="red")
            live.update(told, refresh=True)


class _Away(msgspec.Struct, frozen=True):
    """The server cannot be looked at."""

    sentence: str
    is_new: bool


def _looks(address: HostPort, wait: Wait, *, most: int) -> Iterator[Glance | _Away]:
    """What is seen each second, over the last `most` looks, until somebody wants to leave."""
    looks: deque[Scrape] = deque(maxlen=most)
    since: str | None = None
    while True:
        begun = time.monotonic()
        try:
            looks.append(scrape(address))
        except NotToldError as error:
            is_new = since is None
            since = since or time.strftime("%H:%M:%S")
            looks.clear()
            yield _Away(f"{error}; trying again, since {since}", is_new)
        else:
            since = None
            if len(looks) > 1:
                yield glance(looks[0], looks[-1])
        if wait(max(begun + _SECONDS - time.monotonic(), 0.0)):
            return


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@contextlib.contextmanager
def _keys() -> Iterator[Wait]:
    """A way to wait that hears keys as they are typed, where they are."""
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
                if not typed or not _QUIT.isdisjoint(typed):  # nothing: the terminal has gone
                    return True
        return False

    tty.setcbreak(keyboard)
    try:
        yield wait
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _line(seen: Glance) -> str:
    return f"{msgspec.json.encode(seen).decode()}\n"
