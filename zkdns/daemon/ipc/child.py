"""The child processes' side of the supervisor: how a watcher or a worker gets its task, and how it ends.

    supervisor ── Task (once), then orders ──▶ child
               ◀── reports ──────────────────

Both directions use one socket. A child exits when that is closed, so no child outlives the supervisor, even
if the supervisor was killed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import structlog

from zkdns.address import HostPort
from zkdns.config import Config
from zkdns.daemon.ipc.framing import FrameCodec
from zkdns.telemetry.log_setup import configure_logging
from zkdns.telemetry.stats import MembersReport, Stats
from zkdns.telemetry.traffic import Traffic

RETIRE_SECONDS = 5.0
"""Maximum time in which a retiring worker finishes its queries: as long as clients wait for a response."""


class Task(msgspec.Struct, frozen=True):
    """The task of a child process."""

    role: Literal["watcher", "worker", "transfer"]
    config: Config
    feed: str
    """Path of the feed's socket: the watcher listens there, workers connect to it."""
    listening: tuple[HostPort, ...] = ()
    """The server's DNS addresses, as bound."""
    sockets: tuple[int, ...] = ()
    """File descriptors of a worker's inherited sockets."""
    tls_sockets: tuple[int, ...] = ()
    """Those of `sockets` that are for DNS over TLS."""
    rates: int | None = None
    """File descriptor of the memory in which all workers count queries by network. None: each has its own."""
    secret: bytes = b""
    """Key of a worker's server cookies, rate counters and loop detection. All workers have the same one."""
    waits_for_table: bool = False
    """True if a worker serves no query before it has a table, because older workers still serve."""
    is_leader: bool = True
    """True if a watcher owns the snapshot at once. False: only after `Promote`."""
    predecessor_feed: str | None = None
    """The feed of the previous watcher. A watcher starts with a copy of its table."""
    copy: str = ""
    """Path of the socket at which a worker serves copies of its table (`find_copies`)."""
    notify: str = ""
    """Path of the socket at which the watcher of a secondary receives NOTIFY messages."""
    transfer: str = ""
    """Path of the transfer process's socket. Empty: zone transfers are not configured."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All file descriptors that the process inherits."""
        return self.sockets if self.rates is None else (*self.sockets, self.rates)


_COPY_SUFFIX = ".copy"
"""The end of the paths of the sockets at which workers serve copies. All are in the directory of the feed."""


def find_copies(feed: str) -> list[str]:
    """The sockets of a server at which workers may serve copies of the table, the newest worker first."""
    paths = Path(feed).parent.glob(f"*{_COPY_SUFFIX}")
    return [str(path) for path in sorted(paths, key=_number_of_copy, reverse=True)]


def copy_path(directory: Path, number: int) -> str:
    """The socket for copies of a worker. Later workers have greater numbers."""
    return str(directory / f"{number}{_COPY_SUFFIX}")


def _number_of_copy(path: Path) -> int:
    return int(path.name.removesuffix(_COPY_SUFFIX))


class Retire(msgspec.Struct, frozen=True, tag="retire"):
    """Order to a worker or the transfer process: accept no more queries, finish the others, and exit."""

    exclusive_sockets: tuple[int, ...] = ()
    """Its sockets that no other worker reads. The worker first accepts the queries that wait in them."""


class Follow(msgspec.Struct, frozen=True, tag="follow"):
    """Order to a worker or the transfer process: follow another feed."""

    feed: str


class RelayTransfers(msgspec.Struct, frozen=True, tag="relay_transfers"):
    """Order to a worker: relay zone transfers and signed queries, or refuse transfers from now on."""

    transfer: str
    """As in `Task`."""


class Promote(msgspec.Struct, frozen=True, tag="promote"):
    """Order to a watcher: take over the snapshot from the previous watcher, which is about to exit."""


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """Order to a watcher: use another configuration. Only settings of the workers differ."""

    config: Config


class Report(msgspec.Struct, frozen=True, tag="report"):
    """State of a child process."""

    ready: bool
    stats: Stats | None = None
    """Counters and gauges of the process."""
    has_stopped_receiving: bool = False
    """True if a retiring worker accepts no more queries from sockets that other workers read."""
    transfer: str = ""
    """The path to which a worker relays zone transfers, as in `Task`."""


Order: TypeAlias = Retire | Follow | RelayTransfers | Promote | Configure

TASKS = FrameCodec(Task)
ORDERS: FrameCodec[Order] = FrameCodec(Order)  # type: ignore[arg-type]  # a union is no type to mypy
AnyReport: TypeAlias = Report | Traffic | MembersReport
REPORTS: FrameCodec[AnyReport] = FrameCodec(AnyReport)  # type: ignore[arg-type]  # as above

SendReport = Callable[[AnyReport], None]
Orders = asyncio.Queue[Order]
Role = Callable[[Task, SendReport, Orders], Awaitable[None]]


def main(
    roles: dict[str, Role],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run a child process. The last argument of the command line is the file descriptor of its socket."""
    # SIGHUP is for the supervisor. It must not end children if it is sent to all processes named zkdns.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor = socket.socket(fileno=int(sys.argv[-1]))
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_run(supervisor, roles))


async def _run(supervisor: socket.socket, roles: dict[str, Role]) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=supervisor)
    task = await TASKS.read(reader)
    if task is None:
        return
    configure_logging(task.config.log.format, task.config.log.level, process=task.role)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_unhandled)
    orders: Orders = asyncio.Queue()
    work = asyncio.ensure_future(
        roles[task.role](task, lambda report: writer.write(REPORTS.encode(report)), orders)
    )
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    receiving = asyncio.create_task(_receive_orders(reader, orders))
    receiving.add_done_callback(lambda _: work.cancel())
    await asyncio.wait([work])
    if receiving.done():  # the supervisor has ended, and has not removed its directory
        shutil.rmtree(Path(task.feed).parent, ignore_errors=True)
    if not work.cancelled() and (error := work.exception()):
        structlog.get_logger("zkdns").error("process_failed", exc_info=error)
        os._exit(1)
    # Exit here, because closing the loop would report a signal that arrives meanwhile as an error, and would
    # wait for threads: kazoo's, or a lookup of a host name. All log entries have been written.
    os._exit(0)


async def _receive_orders(reader: asyncio.StreamReader, orders: Orders) -> None:
    """Put received orders into the queue until the supervisor ends."""
    while (order := await ORDERS.read(reader)) is not None:
        orders.put_nowait(order)


def _log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:  # noqa: ARG001 - asyncio's signature
    """Log an exception that escaped into the event loop, and continue."""
    error = context.get("exception")
    structlog.get_logger("zkdns").error(
        "exception_unhandled",
        reason=str(context["message"]),
        exc_info=error if isinstance(error, BaseException) else None,
    )
