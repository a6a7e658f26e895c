"""`zkdns explain`: how a running server answers a name, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from zkdns.admin.api_types import ExplainedMember, Explanation
from zkdns.cli.api_options import make_client, request_or_exit, server_option
from zkdns.cli.command import Command
from zkdns.cli.options import config_option
from zkdns.cli.output import StyledLines, write_columns
from zkdns.cli.service_argument import service_argument
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import write_json, write_lines
from zkdns.durations import format_duration

_STYLES = {
    "answered": "green",
    "drained": "cyan",
    "dropped": "red",
    "hidden": "yellow",
    "held": "magenta",
    "bad": "red",
    "duplicate": "cyan",
    "unresolved": "red",
    "unread": "red",
    "beyond": "yellow",
}
_PERSISTENT = "0x0"
_COLUMNS = (
    *("verdict", "member", "endpoint", "additional", "shard", "weight", "session", "created", "changed"),
    "why",
)


@click.command(
    cls=Command,
    examples=(
        ("zkdns explain web.staging", "Which members the server answers with, and why"),
        ("zkdns explain /discovery/staging/web/member_0000000318", "One member, by its znode"),
    ),
)
@service_argument("name")
@server_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(name: str, server: str | None, config_file: str | None, as_json: bool) -> None:
    """Show how a running server answers NAME, and why.

    Also shows the verdict on each member: whether the server answers with it, and the reason. NAME is a
    domain name, with or without the zone (a dot at the end makes it absolute), the path of the znode of a
    service or member, or the address of a member. The exit status is 0 if there are records or the name is
    forwarded, 1 if there are no records, 2 for usage errors, 3 if the server does not respond.
    """
    explained = request_or_exit(make_client(server, config_file).explain, name)
    if as_json:
        write_json(explained)
    else:
        _show(explained)
    sys.exit(ExitStatus.SUCCESS if explained.is_answered else ExitStatus.NEGATIVE)


def _show(explained: Explanation) -> None:
    style = "bold green" if explained.is_answered else "bold red"
    StyledLines().write(f"{explained.name}: {explained.rule}", style=style)
    write_lines(*_lines(explained))
    if explained.members:
        write_lines("")
        write_columns(_COLUMNS, [_row(row, explained) for row in explained.members], _STYLES)


def _lines(explained: Explanation) -> Iterator[str]:
    """Yield the lines between the headline and the table of members."""
    if explained.answers:
        answers = ", ".join(
            f"{answer.type} {answer.records if answer.rcode == 'NOERROR' else answer.rcode}"
            for answer in explained.answers
        )
        yield f"answered now: {answers}{_policy(explained)}"
    if explained.nearest:
        yield f"similar names: {', '.join(explained.nearest)}"
    yield from explained.notes
    if znodes := [origin for origin in explained.origins if origin.startswith("/")]:
        yield f"znode: {', '.join(znodes)}"
    if explained.changed is not None:
        yield f"last change: {format_duration(explained.now - explained.changed)} ago"
    if explained.state is not None:
        yield f"{explained.source}: {', '.join(_source_state(explained))}"
        if explained.problem:
            yield f"problem: {explained.problem}"
    elif not explained.ready:
        yield "the table has not been read yet"
    elif explained.stale:
        yield "the source is unreachable: this is the last table that was read"


def _policy(explained: Explanation) -> str:
    if explained.ttl is None:
        return ""
    limit = f", at most {explained.max_answers}" if explained.max_answers is not None else ""
    return f" (TTL {explained.ttl}, {explained.order}{limit})"


def _source_state(explained: Explanation) -> Iterator[str]:
    state = str(explained.state)
    if explained.stale_seconds is not None:
        lasting = {"readonly": "readonly, without a quorum", "unreachable": "unreachable"}.get(state)
        state = f"{lasting or state + ', unreachable'} for {format_duration(explained.stale_seconds)}"
    yield state
    if explained.heard_seconds is not None:
        yield f"last response {format_duration(explained.heard_seconds)} ago"
    if explained.audited_seconds is not None:
        yield f"last audit {format_duration(explained.audited_seconds)} ago"


def _row(member: ExplainedMember, explained: Explanation) -> tuple[str, ...]:
    now, session = explained.now, member.session
    has_one_znode = len(explained.origins) == 1
    why = member.why
    if member.held_since is not None and member.held_until is not None:
        held, left = format_duration(now - member.held_since), format_duration(member.held_until - now)
        why = f"held for {held}, at most {left} more: {why}"
    is_changed = session is not None and session.modified - session.created > 1
    endpoint = member.endpoint or ""
    if member.addresses:
        endpoint = f"{endpoint} ({', '.join(member.addresses)})"
    return (
        member.verdict,
        member.member if has_one_znode or member.znode is None else member.znode,
        endpoint,
        " ".join(f"{name}={address}" for name, address in member.additional.items()),
        "" if member.shard is None else str(member.shard),
        "" if member.weight == 1 else f"{member.weight:g}",
        "" if session is None else "persistent" if session.owner == _PERSISTENT else session.owner,
        "" if session is None else f"{format_duration(now - session.created)} ago",
        f"{format_duration(now - session.modified)} ago" if session is not None and is_changed else "",
        why,
    )
