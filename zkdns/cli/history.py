"""`zkdns history`: recent changes of members."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime

import click
import msgspec
from rich.console import Console
from rich.text import Text

from zkdns.cli.control_client import (
    control_option,
    control_path,
    fail_refused,
    other_version,
    request_or_exit,
)
from zkdns.cli.name_completion import complete_names
from zkdns.cli.options import (
    DONE,
    INTERRUPTED,
    NO_ANSWER,
    NOT_FOUND,
    config_option,
    fail,
    is_terminal,
    write_out,
)
from zkdns.cli.output import printable
from zkdns.cli.serverset_options import duration_option
from zkdns.daemon.ipc.control import ControlError, send_request
from zkdns.daemon.ipc.control_messages import HistoryEntry, HistoryPage, ReadHistory, Refused
from zkdns.errors import ZkdnsError
from zkdns.telemetry.log_setup import silence

_PAGE_SIZE = 1000  # changes per request
_MAX_CHANGES = 100_000
_POLL_SECONDS = 0.25  # between two requests with --follow
_MAX_SINCE = 366 * 86_400.0
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


@click.command()
@click.argument("service", required=False, shell_complete=complete_names)
@duration_option("--since", 0, _MAX_SINCE, help="Only changes in this time until now, such as 10m or 2h.")
@click.option(
    "--last",
    type=click.IntRange(1, _MAX_CHANGES),
    metavar="N",
    help="Only the newest N changes. Default: 1000, or with --since all.",
)
@click.option("--follow", "-f", is_flag=True, help="Wait for further changes and print them, until Ctrl-C.")
@control_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each change, one per line.")
def history(
    service: str | None,
    since: float | None,
    last: int | None,
    follow: bool,
    control: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """List recent changes of the members of SERVICE.

    SERVICE is a name such as web.staging, or the path of its znode; without it, list the changes of all
    services. The server keeps the last 1000 changes of each service since its start. The output has a line
    for each: time, change, service, member and endpoint, separated by tabs. The exit status is 1 if there are
    no changes, 2 for usage errors, 3 if the server does not respond, 130 if Ctrl-C ends it without --follow.
    """
    after = int((time.time() - since) * 1_000_000) if since is not None else 0
    entries: deque[HistoryEntry] = deque(maxlen=last or _MAX_CHANGES)
    try:
        while True:
            size = _PAGE_SIZE if after else last or _PAGE_SIZE
            page = request_or_exit(ReadHistory(service, after, size), HistoryPage, control, config_file)
            entries += page.entries
            is_last_page = not after or len(page.entries) < size
            after = page.last or after
            if is_last_page:
                break
        _write(entries, as_json=as_json)
        if follow:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            asyncio.run(_follow(service, after, control_path(control, config_file), as_json=as_json))
    except BrokenPipeError:
        silence(sys.stdout)
    except KeyboardInterrupt:
        sys.exit(DONE if follow else INTERRUPTED)
    if not entries:
        of_service = f" of {service}" if service is not None else ""
        in_time = " in this time" if since is not None else ""
        fail(ZkdnsError(f"the server has no changes{of_service}{in_time} in its history"), NOT_FOUND)


async def _follow(service: str | None, after: int, path: str, *, as_json: bool) -> None:
    """Write new changes. While the server does not respond, for example during a restart, try again."""
    is_responding = True
    while True:
        try:
            response = await send_request(path, ReadHistory(service, after, _PAGE_SIZE))
        except ControlError as error:
            if is_responding:
                click.echo(f"zkdns: {error}; trying again", err=True)
            is_responding = False
            await asyncio.sleep(_POLL_SECONDS)
            continue
        is_responding = True
        if isinstance(response, Refused):
            fail_refused(response)
        if not isinstance(response, HistoryPage):
            fail(other_version(path), NO_ANSWER)
        _write(response.entries, as_json=as_json)
        after = max(after, response.last)
        if len(response.entries) < _PAGE_SIZE:
            await asyncio.sleep(_POLL_SECONDS)


def _write(entries: Iterable[HistoryEntry], *, as_json: bool) -> None:
    if as_json:
        write_out("".join(f"{msgspec.json.encode(entry).decode()}\n" for entry in entries))
    elif is_terminal(sys.stdout):
        console = Console(highlight=False)
        for entry in entries:
            moment, kind, *rest = _fields(entry)
            console.print(
                Text.assemble((moment, "dim"), "  ", (f"{kind:13}", _STYLES[kind]), "  ", "  ".join(rest)),
                soft_wrap=True,
            )
    else:
        write_out("".join("\t".join(_fields(entry)) + "\n" for entry in entries))


def _fields(entry: HistoryEntry) -> tuple[str, ...]:
    moment = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return moment, entry.kind, *map(printable, (entry.service, entry.member or "-", entry.endpoint or "-"))
