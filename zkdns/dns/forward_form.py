"""`ForwardForm`: a query without its name, to forward queries for other names without parsing them.

Clients send many names in few forms. If two queries differ only in the name, and both names are resolved by
the upstreams of all names, everything else about them is equal. The form is made from the first such query,
so that the rules are only in the responder and the forwarder. For the same reason, the form learns from the
first response how to make similar ones. `OrdinaryNames` recognizes the names without rules of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zkdns.dns.edns import OPT
from zkdns.dns.message import TYPE_CLASS, Query
from zkdns.names import MAX_LABEL, MAX_NAME, Labels, to_wire

_MAX_KINDS = 16  # of responses that a form has learned
_AFTER_NAME = 1 + TYPE_CLASS.size  # the root label, type and class
_MAX_PARENTS = 1024


class ForwardForm:
    """A query without its name.

    Attributes:
        query: the query that the form was made from.
        limit: maximum size of a response in bytes.
        encode: makes a response after its id ready to send.
        after_name: the end of the question: the root label, type and class.
        do: whether the client accepts DNSSEC records.
    """

    __slots__ = ("_around_records", "after_name", "do", "encode", "limit", "query")

    def __init__(self, query: Query, limit: int, encode: Callable[[bytes, int], bytes]) -> None:
        self.query = query
        self.limit = limit
        self.encode = encode
        self.after_name = query.question[-_AFTER_NAME:]
        self.do = query.edns is not None and query.edns.do
        self._around_records: dict[bytes, tuple[bytes, bytes]] = {}

    def query_for(self, name: bytes) -> Query:
        """The query of this form for a name in wire format without the root label, in any spelling.

        `Query.name` is empty: only zones need the labels.
        """
        like, question = self.query, name + self.after_name
        return Query(like.id, like.rd, (), like.qtype, like.qclass, question, like.edns, like.ad, like.cd)

    def learn(self, kind: bytes, response: bytes, records: bytes, question: bytes) -> None:
        """Learn from a response, so that `respond` can make similar ones.

        Args:
            kind: two responses of the same kind to queries of this form differ only in question and records.
            response: the response, ready to send.
            records: its records without the OPT record. If it was truncated, it does not have them.
            question: its question. If the response has it, which a codec may leave out, nothing is learned.
        """
        end = len(response) - (OPT.size if self.query.edns is not None else 0)
        before = response[: end - len(records)]
        if response[len(before) : end] == records and question not in before:
            if len(self._around_records) >= _MAX_KINDS:
                self._around_records.clear()
            self._around_records[kind] = before, response[end:]

    def respond(self, kind: bytes, records: bytes) -> bytes | None:
        """Return a response of this kind with other records of equal size. None: it must be learned first."""
        around = self._around_records.get(kind)
        return around[0] + records + around[1] if around is not None else None


class OrdinaryNames:
    """The names for which there are no rules of their own.

    Most names are below few parents. So it remembers the parents of ordinary names: each name with such a
    parent is ordinary, and needs one look-up.

    Args:
        domains: in lower case; a name in one of them may have such rules.
    """

    def __init__(self, domains: Iterable[Labels]) -> None:
        domains = list(domains)
        self._domains = frozenset(to_wire(domain)[:-1] for domain in domains)
        self._parents: set[bytes] = set()

    def __contains__(self, name: bytes) -> bool:
        """Whether a name is valid and in none of the domains.

        Args:
            name: in wire format and lower case, without the root label. It may be malformed.
        """
        if not name or name[0] > MAX_LABEL or len(name) >= MAX_NAME:
            return False
        parent = name[1 + name[0] :]
        if parent in self._parents:
            # Such a domain has a parent without rules, such as a forward zone below a public domain.
            return name not in self._domains
        if not self._is_valid(name) or self._is_in_domain(name):
            return False
        if parent:
            if len(self._parents) >= _MAX_PARENTS:
                self._parents.clear()
            self._parents.add(parent)
        return True

    @staticmethod
    def _is_valid(name: bytes) -> bool:
        """Whether a name consists of whole labels."""
        at = 0
        while at < len(name):
            if name[at] > MAX_LABEL:
                return False
            at += name[at] + 1
        return at == len(name)

    def _is_in_domain(self, name: bytes) -> bool:
        """Whether a valid name is in one of the domains."""
        at = 0
        while at < len(name):
            if name[at:] in self._domains:
                return True
            at += 1 + name[at]
        return False
