"""`zkdns status`: the state of a running server on one screen, with its problems."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import click
import msgspec

from zkdns.admin.client import ApiClient
from zkdns.admin.status import Status
from zkdns.cli.api_options import make_client, request_or_exit, server_option
from zkdns.cli.command import Command
from zkdns.cli.options import config_option
from zkdns.cli.output import Part, StyledLines
from zkdns.cli.service_argument import MAX_HELD, held_sentences
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import write_json
from zkdns.cli.table_diff import Comparer
from zkdns.durations import format_duration
from zkdns.plurals import counted
from zkdns.telemetry.stats import UpstreamStatus

_WIDTH = 11  # columns of the labels
WORKER_SECONDS: Final = 3.0
"""Time for which a worker may have another digest than the watcher, because changes reach it later."""
_STYLES = {"live": "green", "reading": "yellow", "readonly": "yellow", "unreachable": "red"}
_SOURCES = {"snapshot": "snapshot, without ZooKeeper", "static": "static file", "demo": "built-in example"}


class Report(Status, frozen=True, kw_only=True):
    """The state of a server, with the problems that the command has found."""

    problems: tuple[str, ...]
    """A sentence for each problem. Empty: the server is well."""
    held: dict[str, int]
    """Held members by service, of the first services that have some."""


@click.command(
    cls=Command,
    examples=(
        ("zkdns status", "The state of the server on this machine"),
        ("zkdns status --server http://dns2:9153 --json", "That of another one, as JSON"),
    ),
)
@server_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(server: str | None, config_file: str | None, as_json: bool) -> None:
    """Show the state of the running server.

    Shows whether it is ready, its problems, addresses, sources, members, digests, upstreams and restarts of
    processes.

    The exit status is 0 if the server is ready and well; 1 if it is not ready, its answers may be out of date
    or incomplete, members are held, an upstream does not respond, or a worker has another table than the
    watcher; 2 for usage errors; 3 if the server does not respond.
    """
    client = make_client(server, config_file)
    report = _read(client)
    if as_json:
        write_json(report)
    else:
        _show(report, str(client.server))
    sys.exit(ExitStatus.NEGATIVE if report.problems else ExitStatus.SUCCESS)


def _read(client: ApiClient) -> Report:
    state = request_or_exit(client.status)
    held: dict[str, int] = {}
    services: Sequence[str] = ()
    if state.table is not None and state.table.held:
        services = request_or_exit(client.names, "", only_held=True).names
        held = {name: request_or_exit(client.count, name).held for name in services[:MAX_HELD]}
    counts = {**dict.fromkeys(services, 0), **held}
    workers = request_or_exit(Comparer([client]).compare, WORKER_SECONDS) if _disagrees(state) else None
    problems = [
        *find_problems(state),
        *held_sentences(counts),
        *(text for one in (workers.differences if workers else ()) for text in one.values.values()),
    ]
    return Report(problems=tuple(problems), held=held, **msgspec.structs.asdict(state))


def _disagrees(state: Status) -> bool:
    """Whether a worker has another digest than the watcher. A moment later it may have the same."""
    digests = state.table.digests if state.table is not None else ()
    return any(worker.digests not in ((), digests) for worker in state.workers) and bool(digests)


def find_problems(state: Status) -> Iterator[str]:
    """Yield a sentence for each problem that the state shows, except held members."""
    missing = sum(not worker.ready for worker in state.workers)
    if not state.ready:
        yield f"{missing} of {counted(len(state.workers), 'worker')} {_has(missing)} no table"
    if state.table is None:
        yield "the watcher has not reported yet"
    source = state.zookeeper or state.primary
    if source is not None and (source.problem or source.state in {"reading", "unreachable"}):
        name = "ZooKeeper" if state.zookeeper else "the primary"
        is_away = source.state == "unreachable"
        since = f" for {format_duration(source.stale_seconds)}" if source.stale_seconds else ""
        yield source.problem or (
            f"{name} is unreachable{since}" if is_away else f"{name} has not been read yet"
        )
    unread = sum(one.unread for one in state.zookeeper.namespaces) if state.zookeeper else 0
    if unread:
        yield f"{counted(unread, 'znode')} above the services cannot be listed: zkdns help operations"
    for upstream in state.upstreams:
        if upstream.is_dead:
            yield f"the upstream {upstream.address}{_domain(upstream)} does not respond"


# -- output -----------------------------------------------------------------------------------------------


def _show(report: Report, address: str) -> None:
    lines = StyledLines()
    word, style = ("not ready", "bold red") if not report.ready else ("ready", "bold green")
    if report.ready and report.problems:
        word, style = "ready, with problems", "bold yellow"
    up = format_duration(max(report.now - report.started, 0.0))
    lines.write((word, style), f": zkdns {report.version} at {address}, up {up}")
    for problem in report.problems:
        lines.write(("problem".ljust(_WIDTH), "red"), problem)
    for label, *parts in _rows(report):
        lines.write((str(label).ljust(_WIDTH), "bold"), *parts)


def _rows(report: Report) -> Iterator[tuple[Part, ...]]:
    """Yield the label and the parts of each line below the problems."""
    yield "addresses", ", ".join(report.listening) or "none"
    if report.zookeeper is not None:
        yield "source", f"ZooKeeper {report.zookeeper.hosts}"
        for one in report.zookeeper.namespaces:
            connected = f", connected to {one.server}" if one.server else ""
            text = f"{connected}{_since(one.stale_seconds)}{_digest(one.digest)}"
            yield "namespace", f"{one.namespace}: ", _state(one.state), text
    elif report.primary is not None:
        yield "source", f"primary {', '.join(report.primary.servers)}"
        for zone in report.primary.zones:
            serial = f", serial {zone.serial}" if zone.serial is not None else ""
            place = f", from {zone.primary}" if zone.primary else ""
            yield "transfer", f"{zone.zone}: ", _state(zone.state), f"{place}{serial}"
    else:
        yield "source", _SOURCES[report.source]
    if report.table is not None:
        yield "table", *_table(report)
        digests = {one.zone: one for one in report.table.digests}
        for name in report.zones:
            found = digests.get(name)
            members = f"{counted(found.members, 'member')}{_digest(found.digest)}" if found else "not counted"
            yield "zone", f"{name}: {members}"
    for upstream in report.upstreams:
        rtt = f", {format_duration(upstream.rtt_seconds)}" if upstream.rtt_seconds is not None else ""
        state = ("down", "red") if upstream.is_dead else ("up", "green")
        yield "upstream", f"{upstream.address}{_domain(upstream)}: ", state, rtt
    yield "processes", _processes(len(report.workers), report.restarts)


def _table(report: Report) -> Iterator[Part]:
    table = report.table
    assert table is not None  # noqa: S101 - the caller has checked it
    counts = {"alive": table.alive, "hidden": table.hidden, "held": table.held, "bad": table.bad}
    members = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    yield f"{counted(table.services, 'service')}, members: {members or 'none'}, serial {table.serial}"
    if table.changed is not None:
        yield f", last change {format_duration(max(report.now - table.changed, 0.0))} ago"


def _processes(workers: int, restarts: Mapping[str, int]) -> str:
    counts = ", ".join(f"{role} {count}" for role, count in restarts.items() if count)
    return f"{counted(workers, 'worker')}, restarts: {counts or 'none'}"


def _state(state: str) -> Part:
    return state, _STYLES.get(state, "")


def _since(seconds: float) -> str:
    return f", out of date for {format_duration(seconds)}" if seconds else ""


def _digest(digest: str | None) -> str:
    return f", digest {digest}" if digest is not None else ""


def _domain(upstream: UpstreamStatus) -> str:
    return f" for {upstream.domain}" if upstream.domain else ""


def _has(number: int) -> str:
    return "has" if number == 1 else "have"
