"""`zkdns wait`: wait until a running server answers with a number of members of a service."""

from __future__ import annotations

import sys
import time
from http import HTTPStatus

import click
from rich.progress import Progress, SpinnerColumn, TextColumn

from zkdns.admin.api_types import MemberCount
from zkdns.admin.client import ApiClient, RefusedError, UnreachableError
from zkdns.cli.api_options import fail_refused, make_client, server_option
from zkdns.cli.command import Command
from zkdns.cli.options import (
    config_option,
    fail,
    fail_usage,
)
from zkdns.cli.output import make_console
from zkdns.cli.service_argument import service_argument, similar_names
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import is_terminal, write_notice
from zkdns.cli.values import ValueType, duration_option
from zkdns.config.parsers import integer
from zkdns.durations import format_duration
from zkdns.errors import ZkdnsError
from zkdns.escape import printable
from zkdns.plurals import counted

_MAX_MEMBERS = 1_000_000
_POLL_SECONDS = 0.1
# The time-out of a request, even at the end of --timeout. A server waits less for a worker that hangs.
_MIN_REQUEST_SECONDS = 1.5
_MAX_REQUEST_SECONDS = 10.0
_DEFAULT_TIMEOUT = 60.0
_MAX_TIMEOUT = 86_400.0

_member_count = ValueType(integer(0, _MAX_MEMBERS))


@click.command(
    cls=Command,
    examples=(
        ("zkdns wait web.staging --min 3 --timeout 5m", "Until a deployment has three members"),
        ("zkdns wait web.staging --gone", "Until the last member has left"),
    ),
)
@service_argument()
@click.option("--min", "minimum", type=_member_count, metavar="N", help="N members or more. Default: 1.")
@click.option(
    "--max", "maximum", type=_member_count, metavar="N", help="N members or fewer; without --min also none."
)
@click.option("--exactly", type=_member_count, metavar="N", help="Exactly N members.")
@click.option("--gone", is_flag=True, help="No members, as with --max 0.")
@duration_option("--timeout", 0, _MAX_TIMEOUT, help="Time-out, such as 500ms, 90s or 5m. Default: 60s.")
@server_option
@config_option
def wait(
    service: str,
    minimum: int | None,
    maximum: int | None,
    exactly: int | None,
    gone: bool,
    timeout: float | None,
    server: str | None,
    config_file: str | None,
) -> None:
    """Wait until SERVICE has the given number of members.

    SERVICE is a name such as web.staging, the path of its znode, or the address of a member. All members that
    the server answers with count, including held members, even if a response is limited to fewer. Members
    with the same endpoint count once. If the server is starting, wait for it too. The exit status is 0 as
    soon as the number is reached, 1 if it is not reached in time, 2 for usage errors, 3 if no server responds
    in time, 130 for Ctrl-C.
    """
    bounds = _bounds(minimum, maximum, exactly, gone=gone)
    client = make_client(server, config_file)
    try:
        _Waiter(client, service, bounds, _DEFAULT_TIMEOUT if timeout is None else timeout).run()
    except KeyboardInterrupt:
        sys.exit(ExitStatus.INTERRUPTED)


def _bounds(minimum: int | None, maximum: int | None, exactly: int | None, *, gone: bool) -> tuple[int, int]:
    """Return the minimum and maximum number of members. If the options contradict each other, fail."""
    if gone + (exactly is not None) + (minimum is not None or maximum is not None) > 1:
        fail_usage(["write one of --gone, --exactly N, or --min N and --max N"])
    if gone:
        return 0, 0
    if exactly is not None:
        return exactly, exactly
    if minimum is None:
        minimum = 1 if maximum is None else 0
    if maximum is not None and maximum < minimum:
        fail_usage([f"--min {minimum}: is greater than --max {maximum}"])
    return minimum, _MAX_MEMBERS if maximum is None else maximum


class _Waiter:
    """Counts the members repeatedly, and shows the number in a terminal."""

    def __init__(self, client: ApiClient, service: str, bounds: tuple[int, int], timeout: float) -> None:
        self._client = client
        self._service = self._resolved = service
        self._bounds = bounds
        self._timeout = timeout
        self._started_at = time.monotonic()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            console=make_console(stderr=True),
            transient=True,
            disable=not is_terminal(sys.stderr),
        )
        self._task = self._progress.add_task("")

    def run(self) -> None:
        """Wait until the number of members is within the bounds. After the time-out, print it and exit."""
        with self._progress:
            while True:
                count = self._count()
                if isinstance(count, MemberCount) and self._is_reached(count):
                    break
                state = (
                    f"{_describe(self._service, count)}; {self._expected}; {format_duration(self._elapsed)}"
                )
                self._progress.update(self._task, description=printable(state))
                left = self._timeout - self._elapsed
                if left <= 0:
                    self._progress.stop()
                    self._give_up(count)
                time.sleep(min(_POLL_SECONDS, left))
        if is_terminal(sys.stderr):
            write_notice(f"{_describe(self._service, count)}, after {format_duration(self._elapsed)}")

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._started_at

    def _count(self) -> MemberCount | ZkdnsError:
        """Request the number of members from the server; return the error if it does not respond."""
        seconds = min(max(self._timeout - self._elapsed, _MIN_REQUEST_SECONDS), _MAX_REQUEST_SECONDS)
        try:
            count = self._client.count(self._resolved, seconds)
        except UnreachableError as error:
            return error
        except RefusedError as error:
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:  # the watcher is being replaced
                return error
            self._progress.stop()
            fail_refused(error)
        if count.service:  # the server finds a name faster than an address
            self._resolved = f"{count.service}."
        return count

    def _is_reached(self, count: MemberCount) -> bool:
        minimum, maximum = self._bounds
        return count.ready and minimum <= count.answered <= maximum

    @property
    def _expected(self) -> str:
        minimum, maximum = self._bounds
        if minimum == maximum:
            return f"expected exactly {minimum}" if minimum else "expected none"
        if maximum == _MAX_MEMBERS:
            return f"expected at least {minimum}"
        return f"expected {minimum} to {maximum}"

    def _give_up(self, count: MemberCount | ZkdnsError) -> None:
        if isinstance(count, ZkdnsError):
            fail(count, ExitStatus.NO_RESPONSE)
        state = _describe(self._service, count)
        is_unknown = count.ready and not count.exists
        similar = similar_names(self._client, self._service) if is_unknown else ""
        after = format_duration(self._timeout)
        fail(f"{state} after {after}; {self._expected}{similar}", ExitStatus.NEGATIVE)


def _describe(service: str, count: MemberCount | ZkdnsError) -> str:
    if isinstance(count, ZkdnsError):
        return str(count)
    cause = f" ({count.problem})" if count.problem else ""
    if not count.ready:
        return f"{service}: the server has not read its table yet{cause}"
    if not count.exists:
        return f"{service}: there is no such service{cause}"
    held = f" ({count.held} of them held)" if count.held else ""
    return f"{service}: {counted(count.answered, 'member')}{held}"
