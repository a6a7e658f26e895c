"""The members at a service's own name, and which of them have records of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from zkdns.dns.member_records import Use, Uses, endpoint_key, representative
from zkdns.dns.rrset import Weighting
from zkdns.dns.service_names import ServiceView
from zkdns.serverset.member import Member


class ServedMember(NamedTuple):
    """A served member, with its label and weighting.

    `represented_by` is the member whose records stand for this one, because it has the same endpoint. None:
    this member has records of its own.
    """

    label: bytes
    origin: str
    member: Member
    weighting: Weighting
    represented_by: Member | None


def served_members(view: ServiceView) -> Iterator[ServedMember]:
    """The members at the service's own name.

    The newest one represents all members with the same endpoint.
    """
    uses: Uses[tuple[str, int]] = Uses()
    for entry in view.present():
        if entry.member.service:
            uses.add(endpoint_key(entry.member.service), Use(entry.order, entry, entry.member.service))
    newest = {key: representative(uses.of(key)).entry for key in uses}
    for entry in view.present():
        first = newest[endpoint_key(entry.member.service)] if entry.member.service else entry
        represented_by = first.member if first is not entry else None
        yield ServedMember(entry.label, entry.origin, entry.member, entry.weighting, represented_by)
