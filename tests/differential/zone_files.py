"""The records of zone files, and the comments in them about names that a zone file cannot express."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from tests.differential.response import Section

_COMMENT = re.compile(r"; (?P<name>\S+) (?P<remark>.+)")


class ZoneFiles:
    """Records and comments of zone files as `zkdns dump --zone` writes them.

    Args:
        texts: the text of each file.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._records: dict[dns.name.Name, dict[str, list[tuple[int, str]]]] = {}
        self._remarks: dict[dns.name.Name, list[str]] = {}
        self._rrsets: dict[tuple[dns.name.Name, str], Section] = {}
        for line in (line for text in texts for line in text.splitlines()):
            if comment := _COMMENT.fullmatch(line):
                name = dns.name.from_text(comment["name"])
                self._remarks.setdefault(name, []).append(comment["remark"])
            else:
                owner, ttl, _, qtype, data = line.split("\t")
                types = self._records.setdefault(dns.name.from_text(owner), {})
                types.setdefault(qtype, []).append((int(ttl), data))

    @property
    def names(self) -> list[dns.name.Name]:
        """All names with records or comments."""
        return [*self._records, *(self._remarks.keys() - self._records)]

    def rrset(self, name: dns.name.Name, qtype: str) -> Section:
        """The records of this name and type; for ANY, all records of the name."""
        cached = self._rrsets.get((name, qtype))
        if cached is None:
            cached = self._rrsets[name, qtype] = self._make_rrset(name, qtype)
        return cached

    def _make_rrset(self, name: dns.name.Name, qtype: str) -> Section:
        owner = name.canonicalize().to_wire()
        assert owner is not None
        types = self._records.get(name, {})
        return frozenset(
            (owner, own, ttl, dns.rdata.from_text(dns.rdataclass.IN, own, data).to_digestable())
            for own in (types if qtype == "ANY" else [qtype])
            for ttl, data in types.get(own, ())
        )

    def additional_of(self, answer: Section) -> Section:
        """The additional records for an answer.

        For SRV, the addresses of its targets. For PTR, SRV and TXT of its targets, and the additional records
        of those.
        """
        instances = {dns.name.from_wire(data, 0)[0] for _, own, _, data in answer if own == "PTR"}
        if instances:
            found = frozenset().union(
                *(self.rrset(instance, qtype) for instance in instances for qtype in ("SRV", "TXT"))
            )
            return found | self.additional_of(found)
        targets = {dns.name.from_wire(data, 6)[0] for _, own, _, data in answer if own == "SRV"}
        return frozenset().union(
            *(self.rrset(target, qtype) for target in targets for qtype in ("A", "AAAA"))
        )

    def has_remark(self, text: str, name: dns.name.Name) -> bool:
        """Whether a comment about the name contains the text.

        For an empty non-terminal: whether a comment about a name below it does, and no name below has
        records.
        """
        if name in self._records:
            return any(text in remark for remark in self._remarks.get(name, ()))
        return name not in self._above_records and any(
            any(text in remark for remark in remarks) and other.is_subdomain(name)
            for other, remarks in self._remarks.items()
        )

    @functools.cached_property
    def _above_records(self) -> set[dns.name.Name]:
        """All names that have records below them."""
        found: set[dns.name.Name] = set()
        for name in self._records:
            above = name
            while above != dns.name.root and (above := above.parent()) not in found:
                found.add(above)
        return found
