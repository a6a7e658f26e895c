"""The views of `zkdns top`, for a terminal or a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.table import Table
from rich.text import Text

from zkdns.cli.output import styled
from zkdns.cli.top_rates import Rates, ServiceRates, UpstreamRates
from zkdns.cli.top_state import SORTS, VIEWS, TopState
from zkdns.durations import format_duration
from zkdns.plurals import counted
from zkdns.telemetry.traffic import TopRow

_KIBI = 1024
_STATES = {"live": "green", "reading": "yellow", "readonly": "yellow", "unreachable": "red"}
_KINDS = {"cached": "response cache", "computed": "zone", "forwarded": "upstreams"}
_WIDE = 72  # columns of the terminal from which tables stand side by side
_SIDE_BY_SIDE_ROWS = 8  # of each of these tables
_STACKED_ROWS = 3
_CHROME_ROWS = 5  # of a live display with one table: two lines above it, its head, and two lines below it
# The longest one that fits is shown.
_KEYS = (
    "1 overview  2 services  3 upstreams  4 names  s sort  / filter  ? help  q quit",
    "1-4 views  s sort  / filter  ? help  q quit",
    "1-4  s  /  ?  q",
)
_HELP = (
    ("1 2 3 4", "overview, services, upstreams, names"),
    ("Tab, arrows", "next or previous view"),
    ("s", "next order of the rows"),
    ("/", "filter by parts of names: Enter keeps it, Esc removes it"),
    ("?", "this help"),
    ("q, Ctrl-C", "quit"),
)
_NOTES = (
    "Rates are per second, over the last three seconds. p50 and p99: half of the responses, "
    "and 99 of 100, took at most this long. Rows of zeros are left out."
)

T = TypeVar("T")


def whole_view(rates: Rates, address: str, state: TopState) -> RenderableType:
    """Return a view with all its rows, for a file."""
    return Group(*_header(rates, address), *_body(rates, state, _WIDE, None))


def live_view(rates: Rates | str, address: str, state: TopState, console: Console) -> RenderableType:
    """Return a view that fills the terminal.

    Args:
        rates: the rates, or a sentence why there are none.
        address: the address of the server.
        state: view, order and filter.
        console: the terminal.
    """
    width, height = console.size
    if isinstance(rates, str):
        body: list[RenderableType] = [styled(rates, "red")]
    elif state.has_help:
        body = [_help(), styled(""), styled(_NOTES)]
    else:
        header = [_one_line(text) for text in _header(rates, address)]
        body = [*header, *_body(rates, state, width, max(height - _CHROME_ROWS, 1))]
    layout = Layout()
    layout.split_column(Layout(Group(*body)), Layout(_footer(state, width), size=1))
    return layout


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _header(rates: Rates, address: str) -> list[Text]:
    clock = time.strftime("%H:%M:%S", time.localtime(rates.time))
    up = format_duration(rates.uptime_seconds)
    return [
        styled(f"zkdns {rates.version} at {address}, up {up}, {clock}", "bold"),
        styled(f"{_rate(rates.queries)} queries/s{_transports(rates.transports)}"),
    ]


def _body(rates: Rates, state: TopState, width: int, rows: int | None) -> list[RenderableType]:
    """Return the current view.

    Args:
        rates: the rates.
        state: view, order and filter.
        width: columns of the terminal.
        rows: maximum number of rows of its table. None: no limit.
    """
    match state.view:
        case "overview":
            return _overview(rates, width)
        case "services":
            return _services(rates.services_by_rate, state, rows)
        case "upstreams":
            return _upstreams(rates.upstreams, state, width, rows)
        case "names":
            return _names(rates, state, width, rows)


def _footer(state: TopState, width: int) -> Text:
    if state.is_editing:
        return _one_line(Text.assemble(styled(f"/{state.words}"), ("█", "blink")))
    line = styled(next((keys for keys in _KEYS if len(keys) <= width), _KEYS[-1]), "dim")
    current = f"{VIEWS.index(state.view) + 1} {state.view}"
    line.highlight_words([current], "not dim reverse")
    return _one_line(line)


def _help() -> Table:
    table = Table.grid(padding=(0, 2))
    for key, text in _HELP:
        table.add_row(styled(key, "bold"), styled(text))
    return table


# -- overview ---------------------------------------------------------------------------------------------


def _overview(rates: Rates, width: int) -> list[RenderableType]:
    limit = _SIDE_BY_SIDE_ROWS if width >= _WIDE else _STACKED_ROWS
    tables = [
        _rates("source", rates.sources, limit),
        _rates("type", rates.types, limit),
        _rates("response code", rates.rcodes, limit),
    ]
    if width >= _WIDE:
        columns = Table.grid(padding=(0, 4))
        columns.add_row(*tables)
        shown: list[RenderableType] = [columns]
    else:
        shown = [*tables]
    return [
        _table_line(rates),
        styled(""),
        *shown,
        styled(""),
        _latencies(rates),
        styled(""),
        _cache_line("response", rates.response_cache_share, rates.response_cache_entries).append_text(
            styled(f", {_size(rates.response_cache_bytes)}")
        ),
        _cache_line("forward", rates.forward_cache_share, rates.forward_cache_entries).append_text(
            styled(f", {_size(rates.forward_cache_bytes)}")
        ),
    ]


def _transports(rates: Mapping[str, float]) -> str:
    text = ", ".join(f"{name} {_rate(rate)}" for name, rate in rates.items() if rate)
    return f" ({text})" if text else ""


def _table_line(rates: Rates) -> Text:
    members = ", ".join(f"{count:,} {state}" for state, count in rates.members.items() if count)
    line = styled(f"{counted(rates.services, 'service')}, members: {members or 'none'}")
    if rates.source_state is not None:
        line.append_text(styled(f"; {rates.source}: "))
        line.append_text(styled(rates.source_state, _STATES.get(rates.source_state, "")))
        if rates.source_stale_seconds:
            line.append_text(styled(f" for {format_duration(rates.source_stale_seconds)}"))
    return line


def _cache_line(name: str, share: float | None, entries: int) -> Text:
    return styled(f"{name} cache: {_percent(share)} hits, {counted(entries, 'entry', 'entries')}")


def _rates(title: str, rates: Mapping[str, float], limit: int) -> Table:
    table = _table(title, "per second")
    for name, rate in [(name, rate) for name, rate in rates.items() if rate][:limit]:
        table.add_row(styled(name.replace("_", " ")), styled(_rate(rate)))
    return table


def _latencies(rates: Rates) -> Table:
    """The latencies of the kinds of responses, and of all responses together."""
    table = _table("latency", "per second", "p50", "p99")
    kinds = [one for one in rates.latencies if one.responses]
    for one in kinds:
        numbers = _rate(one.responses), _latency(one.p50_seconds), _latency(one.p99_seconds)
        table.add_row(styled(_KINDS[one.kind]), *map(styled, numbers))
    numbers = (
        _rate(sum(one.responses for one in kinds)),
        _latency(rates.p50_seconds),
        _latency(rates.p99_seconds),
    )
    table.add_row(styled("all responses"), *map(styled, numbers))
    return table


# -- tables of rows ---------------------------------------------------------------------------------------


def _services(
    services: Sequence[ServiceRates] | None, state: TopState, rows: int | None
) -> list[RenderableType]:
    if services is None:
        return [styled("measuring …")]
    # With a filter, services without queries are shown too.
    found = [one for one in services if state.selects(one.name) and (one.queries or one.held or state.words)]
    keys: Mapping[str, Callable[[ServiceRates], float]] = {
        "queries/s": lambda one: one.queries,
        "members": lambda one: one.members,
        "held": lambda one: one.held,
    }
    table = _table("service", "queries/s", "members", "held")
    for one in _top(found, keys, lambda one: one.name, state, rows):
        held = styled(f"{one.held:,}", "yellow" if one.held else "dim")
        table.add_row(_name(one.name), styled(_rate(one.queries)), styled(f"{one.members:,}"), held)
    return [table, _count_line(len(found), len(services), "services", state, rows)]


def _upstreams(
    upstreams: Sequence[UpstreamRates], state: TopState, width: int, rows: int | None
) -> list[RenderableType]:
    if not upstreams:
        return [styled("this server forwards no queries")]
    found = [one for one in upstreams if state.selects(f"{one.address} {one.domain}")]
    keys: Mapping[str, Callable[[UpstreamRates], float]] = {
        "queries/s": lambda one: one.queries,
        "timeouts/s": lambda one: one.timeouts,
        "rtt": lambda one: one.rtt_seconds or 0.0,
    }
    with_domains = any(one.domain for one in upstreams) and width >= _WIDE
    table = _table(
        "upstream", "queries/s", "timeouts/s", "rtt", after=("state", "for") if with_domains else ("state",)
    )
    for one in _top(found, keys, lambda one: one.address, state, rows):
        domain = (_name(one.domain or "all others"),) if with_domains else ()
        numbers = _rate(one.queries), _rate(one.timeouts), _latency(one.rtt_seconds)
        up = styled("down", "red") if one.is_dead else styled("up", "green")
        table.add_row(_name(one.address), up, *domain, *map(styled, numbers))
    return [table, _count_line(len(found), len(upstreams), "upstreams", state, rows)]


def _names(rates: Rates, state: TopState, width: int, rows: int | None) -> list[RenderableType]:
    if rates.top is None:
        return [styled("names and clients are not counted; the setting top_names = true counts them")]
    keys: Mapping[str, Callable[[TopRow], float]] = {"queries/s": lambda one: one.rate}
    is_wide = width >= _WIDE
    limit = rows if rows is None or is_wide else max((rows - 1) // 2, 1)
    tables = []
    for title, all_rows in (("name", rates.top.names), ("client", rates.top.clients)):
        found = [one for one in all_rows if state.selects(one.name) and one.rate]
        table = _table(title, "queries/s")
        for one in _top(found, keys, lambda one: one.name, state, limit):
            table.add_row(_name(one.name), styled(("≤ " if one.error else "") + _rate(one.rate)))
        tables.append(table)
    line = _one_line(styled(f"the most frequent of some ten seconds, {_order(state)}", "dim"))
    if not is_wide:
        return [*tables, line]
    columns = Table.grid(padding=(0, 4))
    columns.add_row(*tables)
    return [columns, line]


def _top(
    found: Iterable[T],
    keys: Mapping[str, Callable[[T], float]],
    name: Callable[[T], str],
    state: TopState,
    rows: int | None,
) -> list[T]:
    """Return the first rows in the current order."""
    key = keys.get(state.sort)
    ordered = (
        sorted(found, key=name) if key is None else sorted(found, key=lambda one: (-key(one), name(one)))
    )
    return ordered[:rows]


def _count_line(found: int, total: int, kind: str, state: TopState, rows: int | None) -> Text:
    shown = found if rows is None else min(found, rows)
    return _one_line(styled(f"{shown:,} of {total:,} {kind}, {_order(state)}", "dim"))


def _order(state: TopState) -> str:
    text = f"by {state.sort}" if len(SORTS[state.view]) > 1 else ""
    return f"{text}, with “{state.words}”" if state.words else text


def _table(title: str, *numbers: str, after: Sequence[str] = ()) -> Table:
    table = Table(title, *after, box=None, pad_edge=False, header_style="bold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def _name(name: str) -> Text:
    return styled(name, is_shortened=True)


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
