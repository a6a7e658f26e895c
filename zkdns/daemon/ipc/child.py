"""What watcher and worker have in common: how they are told what to do, and how they end.

A child talks with the supervisor over one socket: it is sent its task as one frame, later perhaps orders, and
sends reports. When that socket ends, so does the child: nothing outlives the supervisor, however it went.
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
from zkdns.telemetry.stats import Stats

RETIRE_SECONDS = 5.0
"""How long a worker that retires may finish what it has begun: as long as askers wait for an answer."""


class Task(msgspec.Struct, frozen=True):
    """What a child is to do.

    `sockets` are the numbers of inherited file descriptors, UDP and TCP by turns.
    """

    role: Literal["watcher", "worker"]
    config: Config
    feed: str
    listening: tuple[HostPort, ...] = ()
    """Where the server answers, as bound."""
    sockets: tuple[int, ...] = ()
    secret: bytes = b""
    """What the workers of a server have in common, and nobody else knows."""
    waits: bool = False
    """Whether a worker answers nobody before it has a table: others do, who have one."""
    leads: bool = True
    """Whether a watcher has the control socket and the snapshot; else another one has, until it is told."""
    inherits: str | None = None
    """The feed of the watcher before, whose table it begins with."""
    stale_since: float | None = None
    """Since when that has been out of reach of ZooKeeper, on the monotonic clock; None: it is not."""


class Retire(msgspec.Struct, frozen=True, tag="retire"):
    """For a worker: take no more queries, finish those that were taken, and end."""

    alone: tuple[int, ...]
    """Of its sockets those that nobody else takes from: what waits in them is answered before."""


class Follow(msgspec.Struct, frozen=True, tag="follow"):
    """For a worker: there is another feed to follow."""

    feed: str


class Promote(msgspec.Struct, frozen=True, tag="lead"):
    """For a watcher: control socket and snapshot are its own now."""

    predecessor: int
    """The process that had them, and is about to end; 0 where there is none."""


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """For a watcher: another configuration is in force, which differs in what only workers do."""

    config: Config


class Report(msgspec.Struct, frozen=True):
    """What a child says of itself."""

    ready: bool
    stats: Stats | None = None
    """Counters and gauges of the process."""
    has_left: bool = False
    """Whether a worker that retires takes nothing more where others do."""


Order: TypeAlias = Retire | Follow | Promote | Configure

TASKS = FrameCodec(Task)
ORDERS: FrameCodec[Order] = FrameCodec(Order)  # type: ignore[arg-type]  # a union is no type to mypy
REPORTS = FrameCodec(Report)

SendReport = Callable[[Report], None]
Orders = asyncio.Queue[Order]
Role = Callable[[Task, SendReport, Orders], Awaitable[None]]


def main(
    roles: dict[str, Role],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run as a child of the supervisor; the control socket is the last argument."""
    # The supervisor reloads; whoever sends this to all that is called zkdns must not end its children.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[-1]))
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_run(control, roles))


async def _run(control: socket.socket, roles: dict[str, Role]) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=control)
    task = await TASKS.read(reader)
    if task is None:
        return
    configure_logging(task.config.log.format, task.config.log.level, process=task.role)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_stray)
    orders: Orders = asyncio.Queue()
    work = asyncio.ensure_future(
        roles[task.role](task, lambda report: writer.write(REPORTS.encode(report)), orders)
    )
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    orphaned = asyncio.create_task(_take_orders(reader, orders))
    orphaned.add_done_callback(lambda _: work.cancel())
    await asyncio.wait([work])
    if orphaned.done():  # nobody else is left to tidy up
        shutil.rmtree(Path(task.feed).parent, ignore_errors=True)
    if not work.cancelled() and (error := work.exception()):
        structlog.get_logger("zkdns").error("process_failed", exc_info=error)
        os._exit(1)
    # Before the loop is closed, which tells of a signal that comes meanwhile as of an error; and without
    # waiting for threads: a look-up of a host name, or kazoo, may be in the middle of something.
    os._exit(0)  # what was logged is written already


async def _take_orders(reader: asyncio.StreamReader, orders: Orders) -> None:
    """Pass orders on until the supervisor has gone."""
    while (order := await ORDERS.read(reader)) is not None:
        orders.put_nowait(order)


def _log_stray(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:  # noqa: ARG001 - asyncio's signature
    """An exception that escaped into the event loop is a mistake of ours: say it, and go on."""
    error = context.get("exception")
    structlog.get_logger("zkdns").error(
        "exception_unhandled",
        reason=str(context["message"]),
        exc_info=error if isinstance(error, BaseException) else None,
    )
