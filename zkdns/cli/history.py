"""`zkdns history`: recent changes of members."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Collection
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NoReturn

import click

from zkdns.admin.api_types import HistoryEntry
from zkdns.admin.client import ApiClient, RefusedError, UnreachableError
from zkdns.cli.api_options import fail_refused, make_client, request_or_exit, server_option
from zkdns.cli.command import Command
from zkdns.cli.options import config_option, fail
from zkdns.cli.output import StyledLines
from zkdns.cli.service_argument import fail_not_found, note_held, service_argument
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import (
    ReaderGoneError,
    is_terminal,
    watch_reader,
    write_error,
    write_fields,
    write_json,
)
from zkdns.cli.values import ValueType, duration_option
from zkdns.config.parsers import integer

_PAGE_SIZE = 1000  # changes per request
_MAX_CHANGES = 100_000
_POLL_SECONDS = 0.25  # between two requests with --follow
_MAX_SINCE = 365 * 86_400.0
_STYLES = {
    "joined": "green",
    "left": "yellow",
    "held": "magenta",
    "back": "green",
    "released": "yellow",
    "status": "cyan",
    "changed": "cyan",
    "service added": "bold green",
    "service gone": "bold yellow",
}


@click.command(
    cls=Command,
    examples=(
        ("zkdns history web.staging --since 1h", "The changes of the last hour"),
        ("zkdns history --follow --json", "The latest changes and all further ones, as JSON"),
    ),
)
@service_argument(is_required=False)
@duration_option("--since", 0, _MAX_SINCE, help="Only changes in this time until now, such as 10m or 2h.")
@click.option(
    "--last",
    type=ValueType(integer(1, _MAX_CHANGES)),
    metavar="N",
    help="Only the newest N changes. Default: 1000, or with --since all.",
)
@click.option("--follow", "-f", is_flag=True, help="Wait for further changes and print them, until Ctrl-C.")
@server_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each change, one per line.")
def history(
    service: str | None,
    since: float | None,
    last: int | None,
    follow: bool,
    server: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """List recent changes of the members of SERVICE.

    SERVICE is a name such as web.staging, the path of its znode, or the address of members; without it, list
    the changes of all services. The server keeps the last 1000 changes of each service since its start. The
    output has a line for each: time, change, service, member and endpoint, separated by tabs. The exit status
    is 1 if there are no changes, 2 for usage errors, 3 if the server does not respond, 130 if Ctrl-C ends it
    without --follow.
    """
    client = make_client(server, config_file)
    after = int((time.time() - since) * 1_000_000) if since is not None else 0
    entries: deque[HistoryEntry] = deque(maxlen=last or _MAX_CHANGES)
    try:
        while True:
            size = _PAGE_SIZE if after else last or _PAGE_SIZE
            page = request_or_exit(client.history, service, after, size)
            entries += page.entries
            is_last_page = not after or len(page.entries) < size
            after = page.last or after
            if is_last_page:
                break
        _write(entries, as_json=as_json)
        if follow:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            _follow(client, service, after, as_json=as_json)
    except KeyboardInterrupt:
        sys.exit(ExitStatus.SUCCESS if follow else ExitStatus.INTERRUPTED)
    if not entries:
        of_service = f" of {service}" if service is not None else ""
        in_time = " in this time" if since is not None else ""
        error = f"the server has no changes{of_service}{in_time} in its history"
        if service is not None:
            fail_not_found(client, service, error)
        fail(error, ExitStatus.NEGATIVE)


def _follow(client: ApiClient, service: str | None, after: int, *, as_json: bool) -> NoReturn:
    """Write new changes. While the server does not respond, for example during a restart, try again.

    Raises:
        ReaderGoneError: the reader of standard output has closed it.
    """
    gone = threading.Event()
    watch_reader(gone.set)
    is_responding = True
    while not gone.is_set():
        try:
            page = client.history(service, after, _PAGE_SIZE)
        except (UnreachableError, RefusedError) as error:
            if isinstance(error, RefusedError) and error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                fail_refused(error)
            if is_responding:
                write_error(f"{error}; trying again")
            is_responding = False
            gone.wait(_POLL_SECONDS)
            continue
        is_responding = True
        _write(page.entries, as_json=as_json)
        after = max(after, page.last)
        if len(page.entries) < _PAGE_SIZE:
            gone.wait(_POLL_SECONDS)
    raise ReaderGoneError


def _write(entries: Collection[HistoryEntry], *, as_json: bool) -> None:
    if as_json:
        write_json(*entries)
    elif is_terminal(sys.stdout):
        lines = StyledLines()
        for entry in entries:
            moment, kind, *rest = _fields(entry)
            lines.write((moment, "dim"), "  ", (f"{kind:13}", _STYLES.get(kind, "")), "  ", "  ".join(rest))
    else:
        write_fields(map(_fields, entries))
    latest = {(entry.service, entry.member): entry.kind for entry in entries}
    note_held(Counter(service for (service, _), kind in latest.items() if kind == "held"))


def _fields(entry: HistoryEntry) -> tuple[str, ...]:
    moment = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return moment, entry.kind, entry.service, entry.member or "-", entry.endpoint or "-"
