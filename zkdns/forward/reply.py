"""What an upstream has said, made into the responses to those who ask for it, now or later."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import Final

import msgspec

from zkdns.dns.edns import pack_ede, response_opt
from zkdns.dns.message import AD, CD, HEADER, HEADER_SIZE, QR, RA, RD, TC, Query, Rcode

MOST_TTL: Final = 0x7FFFFFFF  # RFC 2181 §8

_TTL = struct.Struct("!I")


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A reply of an upstream, that goes for everyone who asks the same.

    Attributes:
        rcode: 12 bits, those of the OPT record too.
        truncated: whether the upstream had to leave out something (TC).
        authentic: whether the upstream says that it has checked the data (AD).
        has_edns: whether it came with an OPT record.
        is_negative: whether it denies the name, or that it has records of the type (RFC 2308 §2).
        ttl: seconds for which it may be kept; 0: not at all. It is the least TTL of all its records.
        records: as they came, without the OPT record.
        counts: how many there are in the answer, authority and additional section.
        ends: where each ends in `records`.
        ttls: of each; an SOA's in a negative reply is at most its MINIMUM.
        ttls_at: where each has its TTL in `records`.
        ede: the extended errors that came with it (RFC 8914), as EDNS options.
    """

    rcode: int
    truncated: bool
    authentic: bool
    has_edns: bool
    is_negative: bool
    ttl: int
    records: bytes
    counts: tuple[int, int, int]
    ends: tuple[int, ...]
    ttls: tuple[int, ...]
    ttls_at: tuple[int, ...]
    ede: bytes = b""

    @property
    def is_conclusive(self) -> bool:
        """Whether it says all that there is to say about its question (RFC 8767 §4)."""
        return self.rcode in (Rcode.NOERROR, Rcode.NXDOMAIN) and not self.truncated

    def render(
        self,
        query: Query,
        limit: int,
        seconds: int,
        *,
        least_ttl: int = 0,
        most_ttl: int = MOST_TTL,
        ede: int | None = None,
        ede_text: str = "",
        trust_ad: bool = False,
    ) -> bytes:
        """The response to a query for it.

        Args:
            query: asks for the same name and type; the spelling may be another.
            limit: bytes that the message may have. Additional records go first; when others must go, from
                the end, TC says so (RFC 2181 §9).
            seconds: how long ago the upstream said it. TTLs are less by that, and not below 0.
            least_ttl: what shorter TTLs count as, before time is taken off.
            most_ttl: what longer TTLs count as, before time is taken off. With both the same and no seconds
                all TTLs are that (RFC 8767 §4: 30 for what has expired).
            ede: an extended error to add to those of the upstream.
            ede_text: what people are told with it.
            trust_ad: whether the upstream's word is passed on that the data are authentic, to those who want
                to know (RFC 6840 §5.8).
        """
        edns, rcode = query.edns, self.rcode
        if edns is None and rcode > 0xF:  # noqa: PLR2004 - what a header can hold; its lower bits mean something else
            rcode = Rcode.SERVFAIL
        flags = QR | RA | (query.rd and RD) | (query.cd and CD) | (self.truncated and TC) | rcode & 0xF
        if trust_ad and self.authentic and (query.ad or (edns is not None and edns.do)):
            flags |= AD
        room = limit - HEADER_SIZE - len(query.question)
        errors = self.ede if ede is None else pack_ede(ede, ede_text) + self.ede
        opt = response_opt(edns, rcode, errors, room)
        room -= len(opt)
        records: bytes | bytearray = self._records_after(seconds, least_ttl, most_ttl)
        answers, authorities, additionals = self.counts
        if len(records) > room:
            kept = bisect_right(self.ends, room)
            if kept < answers + authorities:
                flags |= TC
            records = records[: self.ends[kept - 1] if kept else 0]
            answers = min(answers, kept)
            authorities = min(authorities, kept - answers)
            additionals = kept - answers - authorities
        header = HEADER.pack(query.id, flags, 1, answers, authorities, additionals + bool(opt))
        return b"".join((header, query.question, records, opt))

    def _records_after(self, seconds: int, least_ttl: int, most_ttl: int) -> bytearray:
        """The records as they are when that time has passed."""
        records = bytearray(self.records)
        pack_into = _TTL.pack_into
        for at, ttl in zip(self.ttls_at, self.ttls, strict=True):
            left = min(max(ttl, least_ttl), most_ttl) - seconds
            pack_into(records, at, left if left > 0 else 0)  # noqa: FURB136 - a third of max()'s time
        return records
