"""How `zkdns top` shows what it sees: the same tables for a terminal and for a file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zkdns.observe.scraped import Glance

_MOST_ROWS = 8  # of a table; the rest of it is of no weight
_MICRO, _MILLI = 1e-6, 1e-3
_KIBI = 1024
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STATES = {"live": "green", "reading": "yellow", "readonly": "yellow", "away": "red"}


def view(seen: Glance, address: str) -> RenderableType:
    """What was seen at that address."""
    clock = time.strftime("%H:%M:%S", time.localtime(seen.time))
    rates = Table.grid(padding=(0, 4))
    rates.add_row(
        _rates("source", seen.sources), _rates("type", seen.types), _rates("response code", seen.rcodes)
    )
    parts: list[RenderableType] = [
        Text(f"zkdns {seen.version} at {address}, up {_long(seen.uptime_seconds)}, {clock}", style="bold"),
        Text(f"{_rate(seen.queries)} queries/s{_transports(seen.transports)}"),
        Text(
            f"half within {_short(seen.p50_seconds)}, 99 % within {_short(seen.p99_seconds)}; "
            f"hits: memo {_percent(seen.memo_share)}, cache {_percent(seen.cache_share)}"
        ),
        Text(""),
        rates,
        Text(""),
        _table_line(seen),
        Text(
            f"remembered: {seen.memo_answers:,} answers, {_size(seen.memo_bytes)}; "
            f"cached: {seen.cache_answers:,}, {_size(seen.cache_bytes)}"
        ),
    ]
    if seen.upstreams:
        parts += [Text(""), _upstreams(seen)]
    return Group(*parts)


def _transports(rates: Mapping[str, float]) -> str:
    told = ", ".join(f"{name} {_rate(rate)}" for name, rate in rates.items())
    return f" ({told})" if told else ""


def _table_line(seen: Glance) -> Text:
    members = ", ".join(f"{count:,} {state}" for state, count in seen.members.items() if count)
    line = Text(f"{seen.services:,} services, members: {members or 'none'}")
    if seen.zookeeper is not None:
        line.append("; ZooKeeper is ")
        line.append(seen.zookeeper, style=_STATES.get(seen.zookeeper, ""))
        if seen.zookeeper_stale_seconds:
            line.append(f", out of reach for {_long(seen.zookeeper_stale_seconds)}")
    return line


def _rates(title: str, rates: Mapping[str, float]) -> Table:
    table = Table(title, box=None, pad_edge=False, header_style="bold")
    table.add_column("per second", justify="right")
    for name, rate in list(rates.items())[:_MOST_ROWS]:
        table.add_row(Text(name), Text(_rate(rate)), style="" if rate else "dim")
    return table


def _upstreams(seen: Glance) -> Table:
    with_domains = any(one.domain for one in seen.upstreams)
    titles: Sequence[str] = ("upstream", *(("for",) if with_domains else ()), "state")
    table = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for title in ("answers in", "queries/s", "timeouts/s"):
        table.add_column(title, justify="right")
    for one in seen.upstreams:
        state = Text("silent", style="red") if one.dead else Text("well", style="green")
        domain = (Text(one.domain or "all others"),) if with_domains else ()
        numbers = (_short(one.rtt_seconds), _rate(one.queries), _rate(one.timeouts))
        table.add_row(Text(one.address), *domain, state, *map(Text, numbers))
    return table


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"  # noqa: PLR2004 - two digits tell enough


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _short(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < _MILLI:
        return f"{seconds / _MICRO:.0f} µs"
    return f"{seconds / _MILLI:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _long(seconds: float) -> str:
    """A time in its two largest units."""
    for unit, smaller, name, smaller_name in (
        (_DAY, _HOUR, "d", "h"),
        (_HOUR, _MINUTE, "h", "min"),
        (_MINUTE, 1, "min", "s"),
    ):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} {int(seconds % unit // smaller)} {smaller_name}"
    return f"{seconds:.0f} s"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < _KIBI:
            return f"{count:,.0f} {unit}"
        count /= _KIBI
    return f"{count:,.1f} GiB"
