"""`zkdns wait`: until a running server answers with so many members of a service."""

from __future__ import annotations

import asyncio
import sys
import time

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from zkdns.cli.names import complete_names
from zkdns.cli.options import (
    FAILED,
    INTERRUPTED,
    NO_ANSWER,
    config_option,
    exit_failed,
    exit_mistaken,
    is_terminal,
)
from zkdns.cli.running import control_option, control_path, exit_refused
from zkdns.cli.sets import duration_option
from zkdns.daemon.ipc.control import ControlError, send_request
from zkdns.daemon.ipc.control_messages import CountMembers, MemberCount, Refused
from zkdns.durations import format_duration
from zkdns.errors import ZkdnsError

_MOST = 1_000_000
_PAUSE = 0.1  # seconds between two looks
# Seconds for an answer, even at the end of the time: more than a server waits for a worker that hangs.
_LEAST_PATIENCE = 1.5
_TIMEOUT = 60.0
_LONGEST = 86_400.0

_count = click.IntRange(0, _MOST)


@click.command()
@click.argument("service", shell_complete=complete_names)
@click.option("--min", "least", type=_count, metavar="N", help="So many members or more; else 1.")
@click.option("--max", "most", type=_count, metavar="N", help="So many or fewer; without --min also none.")
@click.option("--exactly", type=_count, metavar="N", help="So many.")
@click.option("--gone", is_flag=True, help="None: the same as --max 0.")
@duration_option("--timeout", 0, _LONGEST, meaning="How long to wait, as 500ms, 90s or 5m; else 60s.")
@control_option
@config_option
def wait(
    service: str,
    least: int | None,
    most: int | None,
    exactly: int | None,
    gone: bool,
    timeout: float | None,
    control: str | None,
    config_file: str | None,
) -> None:
    """Wait until the running server answers with so many members of SERVICE.

    SERVICE is a name as web.staging, or a znode's path. Members are counted as they are answered with, those
    that are held among them, however many an answer holds; equal endpoints are one. The exit status is 0 as
    soon as there are so many, 1 where there are not in time, 2 for mistakes, 3 where no server answers by
    then (one that is just being started is waited for), 130 for Ctrl-C.
    """
    bounds = _bounds(least, most, exactly, gone=gone)
    waiting = _Waiting(service, bounds, _TIMEOUT if timeout is None else timeout)
    try:
        asyncio.run(waiting.run(control_path(control, config_file)))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _bounds(least: int | None, most: int | None, exactly: int | None, *, gone: bool) -> tuple[int, int]:
    """How many are wanted: at least, and at most; where that is said twice, tell so and exit."""
    if gone + (exactly is not None) + (least is not None or most is not None) > 1:
        exit_mistaken(["write one of --gone, --exactly N, or --min N and --max N"])
    if gone:
        return 0, 0
    if exactly is not None:
        return exactly, exactly
    if least is None:
        least = 1 if most is None else 0
    if most is not None and most < least:
        exit_mistaken([f"--min {least}: is more than --max {most}"])
    return least, _MOST if most is None else most


class _Waiting:
    """Asks again and again, and shows to a person what is answered."""

    def __init__(self, service: str, bounds: tuple[int, int], timeout: float) -> None:
        self._service = service
        self._bounds = bounds
        self._timeout = timeout
        self._begun = time.monotonic()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=True,
            disable=not is_terminal(sys.stderr),
        )
        self._task = self._progress.add_task("")

    async def run(self, path: str) -> None:
        """Until there are as many as are wanted; where there are not in time, tell it and exit."""
        with self._progress:
            while True:
                counted = await self._ask(path)
                if isinstance(counted, MemberCount) and self._is_enough(counted):
                    break
                for_now = f"{_told(self._service, counted)}; {self._wanted}; {format_duration(self._elapsed)}"
                self._progress.update(self._task, description=for_now)
                left = self._timeout - self._elapsed
                if left <= 0:
                    self._progress.stop()
                    self._give_up(counted)
                await asyncio.sleep(min(_PAUSE, left))
        if is_terminal(sys.stderr):
            click.echo(f"{_told(self._service, counted)}, after {format_duration(self._elapsed)}", err=True)

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    async def _ask(self, path: str) -> MemberCount | ControlError:
        """What the server says; or that it says nothing."""
        patience = max(self._timeout - self._elapsed, _LEAST_PATIENCE)
        try:
            async with asyncio.timeout(patience):
                response = await send_request(path, CountMembers(self._service))
        except ControlError as error:
            return error
        except TimeoutError:
            return ControlError(f"the server at {path} does not answer")
        if isinstance(response, Refused):
            self._progress.stop()
            exit_refused(response)
        if not isinstance(response, MemberCount):
            return ControlError(f"the server at {path} is of another version of zkdns")
        return response

    def _is_enough(self, counted: MemberCount) -> bool:
        least, most = self._bounds
        return counted.ready and least <= counted.answered <= most

    @property
    def _wanted(self) -> str:
        least, most = self._bounds
        if least == most:
            return f"exactly {least} wanted" if least else "none wanted"
        if most == _MOST:
            return f"at least {least} wanted"
        return f"{least} to {most} wanted"

    def _give_up(self, counted: MemberCount | ControlError) -> None:
        if isinstance(counted, ControlError):
            exit_failed(counted, NO_ANSWER)
        told = _told(self._service, counted)
        exit_failed(ZkdnsError(f"{told} after {format_duration(self._timeout)}; {self._wanted}"), FAILED)


def _told(service: str, counted: MemberCount | ControlError) -> str:
    if isinstance(counted, ControlError):
        return str(counted)
    if not counted.ready:
        return f"{service}: the server has not read its table yet"
    if not counted.exists:
        return f"{service}: there is no such service"
    held = f" ({counted.held} of them held)" if counted.held else ""
    count = counted.answered
    return f"{service}: {count} member{' is' if count == 1 else 's are'} answered{held}"
