"""All members of a table with all their fields, for `zkdns dump --json` and the HTTP API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from zkdns.address import HostPort
from zkdns.admin.api_types import MemberRow
from zkdns.names import Labels, to_text
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import MemberSet, Table

_encoder = msgspec.json.Encoder()


def member_rows(table: Table, keys: Iterable[Labels] | None = None) -> Iterator[MemberRow]:
    """Yield the members of each service, sorted by its name. The table may change between two services.

    Args:
        table: the table.
        keys: only these services. None: all services.
    """
    for key in sorted(table.services if keys is None else keys, key=lambda key: key[::-1]):
        service = table.services.get(key)
        if service is not None:
            name = to_text(key)
            for owner, members in [(one, list(one.members.values())) for one in service.by_precedence()]:
                for member in members:
                    yield _row(name, owner, member, table)


def _row(service: str, owner: MemberSet, member: Member, table: Table) -> MemberRow:
    addresses = member.addresses
    if not addresses and member.service is not None:
        addresses = table.addresses_of(member.service.host)
    return MemberRow(
        service=service,
        member=member.name,
        origin=owner.origin,
        endpoint=_text(member.service) if member.service is not None else None,
        additional={name: _text(endpoint) for name, endpoint in member.additional.items()},
        status=member.status.value,
        shard=member.shard,
        weight=member.weight,
        metadata=dict(member.metadata),
        addresses=addresses,
        held_since=owner.held.get(member.name),
    )


def _text(endpoint: Endpoint) -> str:
    return str(HostPort(endpoint.host, endpoint.port))


def encode_lines(rows: Iterable[object]) -> bytes:
    """Encode objects as JSON, each on its own line."""
    return _encoder.encode_lines(rows)
