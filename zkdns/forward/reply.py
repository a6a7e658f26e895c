"""The reply of an upstream, and the responses made from it for clients, at once or later."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import Final

import msgspec

from zkdns.dns.edns import pack_ede, response_opt
from zkdns.dns.message import AD, CD, HEADER, HEADER_SIZE, QR, RA, RD, TC, Query, Rcode

MAX_TTL: Final = 0x7FFFFFFF  # RFC 2181 §8
NOT_VERBATIM: Final = MAX_TTL + 1
"""`Reply.longest_ttl` if the records have other TTLs than the reply."""

_RECORD_OVERHEAD = 110  # bytes of memory of each record's TTL and offsets (measured)

_FLAGS = QR | RA
_CONCLUSIVE = frozenset({int(Rcode.NOERROR), int(Rcode.NXDOMAIN)})

TTL_FIELD: Final = struct.Struct("!I")
"""A TTL, or another number of seconds in a record."""


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A reply of an upstream, valid for every client with the same question.

    Attributes:
        rcode: 12 bits, including those of the OPT record.
        truncated: whether the upstream had to omit records (TC).
        authentic: whether the upstream reports that it has validated the data (AD).
        has_edns: whether there was an OPT record.
        is_negative: whether it denies the name, or records of the type (RFC 2308 §2).
        is_referral: whether it only names other servers (RFC 2308 §2.2): the upstream does not recurse.
        ttl: seconds for which it may be cached: the shortest TTL of all its records. 0: do not cache.
        records: the records as they came, without the OPT record.
        counts: number of records in the answer, authority and additional section.
        ends: offset of each record's end in `records`.
        ttls: TTL of each record; that of an SOA record in a negative reply is at most its MINIMUM field.
        ttls_at: offset of each record's TTL in `records`.
        ede: the extended errors (RFC 8914), as EDNS options.
        aliases: the names to which CNAME records lead, in order; in wire format and lower case.
        longest_ttl: the longest TTL if `records` has the positive TTLs in `ttls`; otherwise `NOT_VERBATIM`.
        is_alias_of_ours: whether the last alias is in a zone of this server. The reply has only the CNAME
            records that lead to it, and the zone has the answer (`own_names.py`).
        kind: the header after its id, if the reply has only addresses of the name and an OPT record without
            options. Then equal headers lead to responses that differ only in `records`. Otherwise empty.
    """

    rcode: int = 0
    truncated: bool = False
    authentic: bool
    has_edns: bool
    is_negative: bool = False
    ttl: int
    records: bytes
    counts: tuple[int, int, int]
    ends: tuple[int, ...]
    ttls: tuple[int, ...]
    ttls_at: tuple[int, ...]
    ede: bytes = b""
    aliases: tuple[bytes, ...] = ()
    longest_ttl: int = NOT_VERBATIM
    is_alias_of_ours: bool = False
    is_referral: bool = False
    kind: bytes = b""

    @property
    def size(self) -> int:
        """Approximate memory in bytes."""
        return len(self.records) + len(self.ede) + _RECORD_OVERHEAD * len(self.ends)

    @property
    def is_conclusive(self) -> bool:
        """Whether it answers its question completely, positively or negatively (RFC 8767 §4)."""
        return self.rcode in _CONCLUSIVE and not self.truncated

    @property
    def is_partial_answer(self) -> bool:
        """Whether it is truncated, and has some of the requested records."""
        return self.truncated and not self.is_negative and self.rcode == Rcode.NOERROR

    def render(
        self,
        query: Query,
        limit: int,
        age: int,
        *,
        min_ttl: int = 0,
        max_ttl: int = MAX_TTL,
        ede: int | None = None,
        ede_text: str = "",
        trust_ad: bool = False,
    ) -> bytes:
        """Return the response to a query.

        Args:
            query: a query for the same name and type; the case of the name may differ.
            limit: maximum size of the message in bytes. Additional records are removed first. If answer or
                authority records are removed, from the end, TC is set (RFC 2181 §9).
            age: seconds since the upstream replied, subtracted from the TTLs; the results are at least 0.
            min_ttl: lower limit of the TTLs before the age is subtracted.
            max_ttl: upper limit of the TTLs before the age is subtracted. If both limits are equal and the
                age is 0, every TTL has this value (RFC 8767 §4: 30 in stale responses).
            ede: an extended error to add to those of the upstream.
            ede_text: the text of `ede`.
            trust_ad: whether AD is passed on to clients that want it (RFC 6840 §5.8).
        """
        edns, question, rcode = query.edns, query.question, self.rcode
        if edns is None and rcode > 0xF:  # noqa: PLR2004 - the size of the header's field; the lower bits are another code
            rcode = Rcode.SERVFAIL
        flags = _FLAGS | rcode & 0xF
        if query.rd:
            flags |= RD
        if query.cd:
            flags |= CD
        if self.truncated:
            flags |= TC
        if trust_ad and self.authentic and (query.ad or (edns is not None and edns.do)):
            flags |= AD
        errors = self.ede if ede is None else pack_ede(ede, ede_text) + self.ede
        room = limit - HEADER_SIZE - len(question)
        opt = response_opt(edns, rcode, errors, room)
        records: bytes | bytearray = self.records
        if age or min_ttl or self.longest_ttl > max_ttl:
            records = self._records_at(age, min_ttl, max_ttl)
        answers, authorities, additionals = self.counts
        if len(records) + len(opt) > room:
            room -= len(opt)
            kept = bisect_right(self.ends, room)
            if kept < answers + authorities:
                flags |= TC
            records = records[: self.ends[kept - 1] if kept else 0]
            answers = min(answers, kept)
            authorities = min(authorities, kept - answers)
            additionals = kept - answers - authorities
        if opt:
            additionals += 1
        header = HEADER.pack(query.id, flags, 1, answers, authorities, additionals)
        return b"".join((header, question, records, opt))

    def at_age(self, age: int, min_ttl: int = 0, max_ttl: int = MAX_TTL) -> Reply:
        """Return the reply with the TTLs that it has at this age; the arguments are those of `render`."""
        ttls = tuple(max(0, min(max(ttl, min_ttl), max_ttl) - age) for ttl in self.ttls)
        return msgspec.structs.replace(self, ttls=ttls)

    def _records_at(self, age: int, min_ttl: int, max_ttl: int) -> bytearray:
        """Return the records with the TTLs that they have at this age."""
        records = bytearray(self.records)
        pack_into = TTL_FIELD.pack_into
        for at, ttl in zip(self.ttls_at, self.ttls, strict=True):
            left = min(max(ttl, min_ttl), max_ttl) - age
            pack_into(records, at, left if left > 0 else 0)  # noqa: FURB136 - a third of max()'s time
        return records
