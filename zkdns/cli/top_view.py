"""The tables of `zkdns top`, for a terminal or a file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zkdns.cli.output import styled
from zkdns.cli.top_rates import Rates
from zkdns.durations import format_duration

_MAX_ROWS = 8  # of a table
_KIBI = 1024
_STATES = {"live": "green", "reading": "yellow", "readonly": "yellow", "away": "red"}


def view(rates: Rates, address: str) -> RenderableType:
    """Return the display of the rates of the server at this address."""
    clock = time.strftime("%H:%M:%S", time.localtime(rates.time))
    columns = Table.grid(padding=(0, 4))
    columns.add_row(
        _rates("source", rates.sources), _rates("type", rates.types), _rates("response code", rates.rcodes)
    )
    parts: list[RenderableType] = [
        styled(
            f"zkdns {rates.version} at {address}, up {format_duration(rates.uptime_seconds)}, {clock}",
            style="bold",
        ),
        styled(f"{_rate(rates.queries)} queries/s{_transports(rates.transports)}"),
        styled(
            f"p50 {_latency(rates.p50_seconds)}, p99 {_latency(rates.p99_seconds)}; "
            f"hits: response cache {_percent(rates.response_cache_share)}, "
            f"forward cache {_percent(rates.forward_cache_share)}"
        ),
        styled(""),
        columns,
        styled(""),
        _table_line(rates),
        styled(
            f"response cache: {rates.response_cache_entries:,} entries, {_size(rates.response_cache_bytes)}; "
            f"forward cache: {rates.forward_cache_entries:,}, {_size(rates.forward_cache_bytes)}"
        ),
    ]
    if rates.upstreams:
        parts += [styled(""), _upstreams(rates)]
    return Group(*parts)


def _transports(rates: Mapping[str, float]) -> str:
    text = ", ".join(f"{name} {_rate(rate)}" for name, rate in rates.items())
    return f" ({text})" if text else ""


def _table_line(rates: Rates) -> Text:
    members = ", ".join(f"{count:,} {state}" for state, count in rates.members.items() if count)
    line = styled(f"{rates.services:,} services, members: {members or 'none'}")
    if rates.zookeeper is not None:
        line.append_text(styled("; ZooKeeper is "))
        line.append_text(styled(rates.zookeeper, _STATES.get(rates.zookeeper, "")))
        if rates.zookeeper_stale_seconds:
            line.append_text(styled(f" for {format_duration(rates.zookeeper_stale_seconds)}"))
    return line


def _rates(title: str, rates: Mapping[str, float]) -> Table:
    table = Table(title, box=None, pad_edge=False, header_style="bold")
    table.add_column("per second", justify="right")
    for name, rate in list(rates.items())[:_MAX_ROWS]:
        table.add_row(styled(name.replace("_", " ")), styled(_rate(rate)), style="" if rate else "dim")
    return table


def _upstreams(rates: Rates) -> Table:
    with_domains = any(one.domain for one in rates.upstreams)
    titles: Sequence[str] = ("upstream", *(("for",) if with_domains else ()), "state")
    table = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for title in ("rtt", "queries/s", "timeouts/s"):
        table.add_column(title, justify="right")
    for one in rates.upstreams:
        state = styled("down", "red") if one.is_dead else styled("up", "green")
        domain = (styled(one.domain or "all others"),) if with_domains else ()
        numbers = (_latency(one.rtt_seconds), _rate(one.queries), _rate(one.timeouts))
        table.add_row(styled(one.address), *domain, state, *map(styled, numbers))
    return table


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"  # noqa: PLR2004 - two digits are enough


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _latency(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < _KIBI:
            return f"{count:,.0f} {unit}"
        count /= _KIBI
    return f"{count:,.1f} GiB"
