"""`zkdns history`: who came and went."""

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

from zkdns.cli.columns import printable
from zkdns.cli.names import complete_names
from zkdns.cli.options import (
    DONE,
    INTERRUPTED,
    NO_ANSWER,
    NOT_FOUND,
    config_option,
    exit_failed,
    is_terminal,
    write_out,
)
from zkdns.cli.running import ask_server, control_option, control_path, exit_refused
from zkdns.cli.sets import duration_option
from zkdns.daemon.ipc.control import ControlError, Refused, command
from zkdns.daemon.ipc.control_messages import HistoryEntry, HistoryPage, ReadHistory
from zkdns.errors import ZkdnsError
from zkdns.telemetry.log_setup import silence

_PART = 1000
_MOST = 100_000
_PAUSE = 0.25  # seconds between two looks, for who follows
_LONGEST = 366 * 86_400.0
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
@duration_option("--since", 0, _LONGEST, meaning="Only what happened in the last 10m, 2h, ….")
@click.option(
    "--last", type=click.IntRange(1, _MOST), help="Only so many, the newest; else 1000 or all --since."
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@control_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each change, a line each.")
def history(
    service: str | None,
    since: float | None,
    last: int | None,
    follow: bool,
    control: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Tell which members of SERVICE came and went, and when; without SERVICE those of all.

    SERVICE is a name as web.staging, or a znode's path. A running server remembers the last 1000 changes of
    each service since its start: a line for each, with time, change, service, member and endpoint, tabs
    between. The exit status is 1 where nothing is known, 2 for mistakes, 3 where no server answers, 130 for
    Ctrl-C where it does not --follow.
    """
    after = int((time.time() - since) * 1_000_000) if since is not None else 0
    kept: deque[HistoryEntry] = deque(maxlen=last or _MOST)
    try:
        while True:
            most = _PART if after else min(kept.maxlen or _PART, last or _PART)
            read = ask_server(ReadHistory(service, after, most), HistoryPage, control, config_file)
            kept += read.entries
            is_all = not after or len(read.entries) < most
            after = read.last or after
            if is_all:
                break
        _write(kept, as_json=as_json)
        if follow:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            asyncio.run(_follow(service, after, control_path(control, config_file), as_json=as_json))
    except BrokenPipeError:
        silence(sys.stdout)
    except KeyboardInterrupt:
        sys.exit(DONE if follow else INTERRUPTED)
    if not kept:
        whose = f" of {service}" if service is not None else ""
        exit_failed(
            ZkdnsError(f"no change{whose} is known{' of that time' if since is not None else ''}"), NOT_FOUND
        )


async def _follow(service: str | None, after: int, path: str, *, as_json: bool) -> None:
    """Write what happens, also when the server is replaced by another one meanwhile."""
    is_there = True
    while True:
        try:
            response = await command(path, ReadHistory(service, after, _PART))
        except ControlError as error:
            if is_there:
                click.echo(f"zkdns: {error}; trying again until it can", err=True)
            is_there = False
            await asyncio.sleep(_PAUSE)
            continue
        is_there = True
        if isinstance(response, Refused):
            exit_refused(response)
        if not isinstance(response, HistoryPage):
            exit_failed(ControlError(f"the server at {path} is of another version of zkdns"), NO_ANSWER)
        _write(response.entries, as_json=as_json)
        after = max(after, response.last)
        if len(response.entries) < _PART:
            await asyncio.sleep(_PAUSE)


def _write(entries: Iterable[HistoryEntry], *, as_json: bool) -> None:
    if as_json:
        write_out("".join(f"{msgspec.json.encode(entry).decode()}\n" for entry in entries))
    elif is_terminal(sys.stdout):
        console = Console(highlight=False)
        for entry in entries:
            time_of, kind, *rest = _fields(entry)
            console.print(
                Text.assemble((time_of, "dim"), "  ", (f"{kind:13}", _STYLES[kind]), "  ", "  ".join(rest)),
                soft_wrap=True,
            )
    else:
        write_out("".join("\t".join(_fields(entry)) + "\n" for entry in entries))


def _fields(entry: HistoryEntry) -> tuple[str, ...]:
    moment = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return moment, entry.kind, *map(printable, (entry.service, entry.member or "-", entry.endpoint or "-"))
