"""Aliases from upstreams that lead into the zones of this server.

    upstream: www.example CNAME web.staging.discovery, and whatever it believes about that name
      └▶ OwnNames.cut     only the CNAME record, which the forward cache keeps
           └▶ OwnNames.complete     for each response: the CNAME record, and the present answer of the zone

The answer of the zone comes from response caches of its own, so that it is current and rotates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final

import msgspec

from zkdns.dns.answer_source import AnswerSources
from zkdns.dns.authority import Authority
from zkdns.dns.edns import MAX_UDP_SIZE, pack_opt
from zkdns.dns.message import CLASS_IN, HEADER, HEADER_SIZE, RD, TYPE_CLASS, Query, Rcode, Type
from zkdns.forward.message import Question, read_reply
from zkdns.forward.records import walk
from zkdns.forward.reply import Reply
from zkdns.forward.rewriting import Writer, is_subdomain, name_at
from zkdns.names import Labels, to_wire
from zkdns.transport.codecs import TcpCodec
from zkdns.transport.contract import ResponseLookup

_MAX_CACHE_BYTES: Final = 4 << 20
_ID_SIZE = 2


class OwnNames:
    """The names in the zones of this server, as targets of aliases.

    Args:
        apexes: the names of the zones in lower case.
        datagrams: responses of the zones, of at most `MAX_UDP_SIZE` bytes, by query without id.
        streams: the same of up to 64 KiB.
        at_once: a context in which no response is deferred.
    """

    def __init__(
        self,
        apexes: Iterable[Labels],
        datagrams: ResponseLookup,
        streams: ResponseLookup,
        at_once: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._apexes = tuple(map(to_wire, apexes))
        self._at_once = at_once
        self._datagrams, self._streams = datagrams, streams

    def cut(self, reply: Reply, question: Question) -> Reply | None:
        """Return the part of a reply that leads into a zone of this server. None: it does not."""
        if question.qtype == Type.DS:  # the parent zone has these records
            return None
        for count, alias in enumerate(reply.aliases, 1):
            # One call into C excludes nearly all names.
            if alias.endswith(self._apexes) and any(is_subdomain(alias, apex) for apex in self._apexes):
                return _cut(reply, question, count)
        return None

    def complete(self, reply: Reply, query: Query, limit: int) -> Reply:
        """Return the reply with the answer of the zone.

        Args:
            reply: as returned by `cut`, with the TTLs to send.
            query: the query of the client.
            limit: maximum size of the response in bytes.
        """
        name = reply.aliases[-1]
        responses = self._streams if limit > MAX_UDP_SIZE else self._datagrams
        header = HEADER.pack(0, RD, 1, 0, 0, 1)
        question = name + TYPE_CLASS.pack(query.qtype, CLASS_IN)
        with self._at_once():
            response = next(responses[(header + question + pack_opt())[_ID_SIZE:]])
        if not response:
            return msgspec.structs.replace(reply, rcode=int(Rcode.SERVFAIL))
        message = bytes(_ID_SIZE) + response
        answer = read_reply(message, Question(name, query.qtype))
        writer = Writer(bytes(HEADER_SIZE) + query.question)
        owner = query.question[: -TYPE_CLASS.size].lower()
        for alias, ttl in zip(reply.aliases, reply.ttls, strict=True):
            writer.add_alias(owner, alias, ttl)
            owner = alias
        start = HEADER_SIZE + len(question)
        writer.add(message, walk(message, start, sum(answer.counts)), answer.counts)
        counts = (len(reply.aliases) + answer.counts[0], *answer.counts[1:])
        return _reply(bytes(writer.written), HEADER_SIZE + len(query.question), counts, answer)


def make_own_names(authority: Authority) -> OwnNames:
    """Return the names of an authority, with response caches of their own."""
    datagrams, streams = (
        authority.make_cache(TcpCodec, stream=stream, max_bytes=_MAX_CACHE_BYTES, sources=AnswerSources())
        for stream in (False, True)
    )
    return OwnNames(authority.zone.apexes, datagrams, streams, authority.zone.steps.without_deferral)


def labels_of(name: bytes) -> Labels:
    """Return the labels of a name in wire format without compression."""
    labels = []
    at = 0
    while length := name[at]:
        labels.append(name[at + 1 : at + 1 + length])
        at += 1 + length
    return tuple(labels)


def _cut(reply: Reply, question: Question, count: int) -> Reply:
    """Return the first CNAME records of a reply, in order."""
    head = bytes(HEADER_SIZE) + question.name + TYPE_CLASS.pack(question.qtype, CLASS_IN)
    message = head + reply.records
    ttls: dict[bytes, int] = {}
    known: dict[int, bytes] = {}
    at = len(head)
    records = walk(message, at, reply.counts[0])
    for rtype, ttl, end in zip(records.types, records.ttls, records.ends, strict=True):
        if rtype == Type.CNAME:
            ttls.setdefault(name_at(message, at, known).lower(), ttl)
        at = len(head) + end
    writer = Writer(head)
    owner = question.name
    for alias in reply.aliases[:count]:
        writer.add_alias(owner, alias, ttls[owner])
        owner = alias
    cut = msgspec.structs.replace(
        reply, rcode=0, truncated=False, authentic=False, is_negative=False, ede=b""
    )
    return msgspec.structs.replace(
        _reply(bytes(writer.written), len(head), (count, 0, 0), cut),
        aliases=reply.aliases[:count],
        is_alias_of_ours=True,
    )


def _reply(message: bytes, start: int, counts: tuple[int, int, int], like: Reply) -> Reply:
    """Return a reply with the records of a message, and the other attributes of another reply."""
    records = walk(message, start, sum(counts))
    return msgspec.structs.replace(
        like,
        records=message[start:],
        counts=counts,
        ttl=min(records.ttls, default=0),
        longest_ttl=max(records.ttls, default=0),
        ends=tuple(records.ends),
        ttls=tuple(records.ttls),
        ttls_at=tuple(records.ttls_at),
        kind=b"",
    )
