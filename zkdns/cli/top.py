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
from collections.abc import Callable, Iterator

import click
from rich.live import Live

from zkdns.admin.client import ApiClient
from zkdns.cli.api_options import make_client, request_or_exit, server_option
from zkdns.cli.command import Command
from zkdns.cli.options import config_option, fail
from zkdns.cli.output import make_console
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import ReaderGoneError, is_terminal, watch_reader, write_error, write_json
from zkdns.cli.top_rates import Rates
from zkdns.cli.top_readings import SECONDS, Readings, ReadingThread, Unavailable
from zkdns.cli.top_state import VIEWS, KeyDecoder, TopState, View
from zkdns.cli.top_view import live_view, whole_view

_WINDOW = 4  # readings: workers report once a second too, so the rates of a single second would jump
_FILE_WIDTH = 4096  # columns of a file, so that no name is shortened
_PAGE = 4096  # bytes of a read from the keyboard or from a pipe


@click.command(
    cls=Command,
    examples=(
        ("zkdns top", "A live display, until q"),
        ("zkdns top --once --json", "One measurement, for a program"),
    ),
)
@server_option
@config_option
@click.option(
    "--view",
    type=click.Choice(VIEWS),
    default=VIEWS[0],
    show_default=True,
    help="The first view, or the one to print: overview, services, upstreams or names.",
)
@click.option("--once", is_flag=True, help="Measure for one second, print the view, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object each second, one per line.")
def top(server: str | None, config_file: str | None, view: View, once: bool, as_json: bool) -> None:
    """Show rates, latencies and state of the running server.

    The views show all responses, the services, the upstreams, and the most frequent names and clients
    (setting top_names). In a terminal, the display is live until q or Ctrl-C; ? shows all keys.
    Otherwise, and with --once, it covers one second. The exit status is 2 for usage errors, 3 if no server
    responds to --once.
    """
    client = make_client(server, config_file)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it restores the terminal too
    try:
        if once or not (as_json or is_terminal(sys.stdout)):
            _print_once(client, view, as_json=as_json)
        elif as_json:
            _print_lines(client, view)
        else:
            _live(client, view)
    except KeyboardInterrupt:
        pass


def _print_once(client: ApiClient, view: View, *, as_json: bool) -> None:
    readings = Readings(client, window=2)
    request_or_exit(client.stats)
    readings.read(view)
    time.sleep(SECONDS)
    rates = readings.read(view)
    if isinstance(rates, Unavailable):
        fail(rates.sentence, ExitStatus.NO_RESPONSE)
    if rates is None:
        fail(f"the server at {client.server} was restarted meanwhile; try again", ExitStatus.NO_RESPONSE)
    if as_json:
        write_json(rates)
        return
    console = make_console()
    if not is_terminal(sys.stdout):
        console.width = _FILE_WIDTH
    console.print(whole_view(rates, str(client.server), TopState(view)))


def _print_lines(client: ApiClient, view: View) -> None:
    """Print an object each second. While the server does not respond, report that once.

    Raises:
        ReaderGoneError: the reader of standard output has closed it.
    """
    gone = threading.Event()
    watch_reader(gone.set)
    readings = Readings(client, window=2)
    started_at = time.monotonic()
    while True:
        result = readings.read(view)
        if isinstance(result, Rates):
            write_json(result)
        elif result is not None and result.is_new:
            write_error(result.sentence)
        started_at += SECONDS
        if gone.wait(max(started_at - time.monotonic(), 0.0)):
            raise ReaderGoneError


# -- in a terminal ----------------------------------------------------------------------------------------


def _live(client: ApiClient, view: View) -> None:
    state, keys, address = TopState(view), KeyDecoder(), str(client.server)
    console = make_console()
    with _keyboard() as keyboard, _wake_ups() as (wake_ups, wake_up):
        readings = ReadingThread(Readings(client, _WINDOW), view, wake_up)
        readings.start()
        with Live(screen=True, auto_refresh=False, console=console) as live:
            while not state.has_ended:
                last = readings.result_for(state.view)
                if last is None:
                    shown: Rates | str = f"measuring {address} …"
                else:
                    shown = last.sentence if isinstance(last, Unavailable) else last
                live.update(live_view(shown, address, state, console), refresh=True)
                ready, _, _ = select.select([wake_ups, *keyboard], [], [])
                if wake_ups in ready:
                    os.read(wake_ups, _PAGE)
                if keyboard and keyboard[0] in ready:
                    typed = os.read(keyboard[0], _PAGE)
                    if not typed:  # the terminal was closed
                        return
                    state.press(keys.keys(typed))
                    if state.view != readings.view:
                        readings.view = state.view
                        readings.read_now()


@contextlib.contextmanager
def _wake_ups() -> Iterator[tuple[int, Callable[[], None]]]:
    """Yield a file descriptor that is readable after a wake-up or a resize, and the function to wake up."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def wake_up() -> None:
        with contextlib.suppress(BlockingIOError):  # full: it will wake up anyway
            os.write(writer, b".")

    before = signal.signal(signal.SIGWINCH, lambda *_: wake_up())
    try:
        yield reader, wake_up
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextlib.contextmanager
def _keyboard() -> Iterator[tuple[int, ...]]:
    """Yield the file descriptor of standard input if it is a terminal; it does not buffer lines meanwhile."""
    if not is_terminal(sys.stdin):
        yield ()
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield (keyboard,)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
