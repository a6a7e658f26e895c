"""Zone files as they are read by whoever knows the format, and what their comments tell beside."""

from __future__ import annotations

import re
from collections.abc import Iterable

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from tests.differential.comparing import Section

_COMMENT = re.compile(r"; (?P<name>\S+) (?P<what>.+)")


class Reference:
    """What the zone files hold.

    Args:
        texts: of all files.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._records: dict[dns.name.Name, dict[str, list[tuple[int, str]]]] = {}
        self._remarks: dict[dns.name.Name, list[str]] = {}
        self._rrsets: dict[tuple[dns.name.Name, str], Section] = {}
        for line in (line for text in texts for line in text.splitlines()):
            if comment := _COMMENT.fullmatch(line):
                name = dns.name.from_text(comment["name"])
                self._remarks.setdefault(name, []).append(comment["what"])
            else:
                owner, ttl, _, qtype, data = line.split("\t")
                types = self._records.setdefault(dns.name.from_text(owner), {})
                types.setdefault(qtype, []).append((int(ttl), data))

    @property
    def names(self) -> list[dns.name.Name]:
        """All names that have records or are spoken of."""
        return [*self._records, *(self._remarks.keys() - self._records)]

    def rrset(self, name: dns.name.Name, qtype: str) -> Section:
        """The records of that name and type; of ANY, all of the name."""
        known = self._rrsets.get((name, qtype))
        if known is None:
            known = self._rrsets[name, qtype] = self._made(name, qtype)
        return known

    def _made(self, name: dns.name.Name, qtype: str) -> Section:
        owner = name.canonicalize().to_wire()
        assert owner is not None
        types = self._records.get(name, {})
        return frozenset(
            (owner, own, ttl, dns.rdata.from_text(dns.rdataclass.IN, own, data).to_digestable())
            for own in (types if qtype == "ANY" else [qtype])
            for ttl, data in types.get(own, ())
        )

    def glue_of(self, answer: Section) -> Section:
        """The address records of the targets of these SRV records; SRV and TXT of those of PTR too."""
        instances = {dns.name.from_wire(data, 0)[0] for _, own, _, data in answer if own == "PTR"}
        if instances:
            found = frozenset().union(
                *(self.rrset(instance, qtype) for instance in instances for qtype in ("SRV", "TXT"))
            )
            return found | self.glue_of(found)
        targets = {dns.name.from_wire(data, 6)[0] for _, own, _, data in answer if own == "SRV"}
        return frozenset().union(
            *(self.rrset(target, qtype) for target in targets for qtype in ("A", "AAAA"))
        )

    def is_said(self, what: str, name: dns.name.Name) -> bool:
        """Whether a comment with these words speaks of it, or of names below it and no record does."""
        if name in self._records:
            return any(what in remark for remark in self._remarks.get(name, ()))
        return any(
            other.is_subdomain(name) and any(what in remark for remark in remarks)
            for other, remarks in self._remarks.items()
        ) and not any(other.is_subdomain(name) for other in self._records)
