"""`QueryForm`: a query without its name, so that queries for similar names are answered without parsing them.

Clients send many names in few forms. Two queries have the same form if only their names differ: header, type,
class and OPT record are equal. If both names have one record, the responses have equal flags and OPT records
too. The form of a query is made from its first response, so that the rules for it are only in the responder.
"""

from __future__ import annotations

import struct

import msgspec

from zkdns.dns.message import TYPE_CLASS, Query, ResponseTemplate, Type
from zkdns.dns.response_class import classify
from zkdns.names import Labels

_ID = 2
_AFTER_NAME = 1 + TYPE_CLASS.size  # the root label, type and class
_COUNTS = struct.Struct("!5H")
_TYPES = (Type.A, Type.AAAA, Type.SRV, Type.TXT)


class QueryForm(msgspec.Struct, frozen=True, gc=False):
    """A query and its positive responses, without the name.

    Attributes:
        query: a query of this form, without name and question.
        after_name: the end of the question: the root label, type and class.
        flags: header flags of responses.
        opt: OPT record of responses.
        limit: maximum bytes of a message.
        response_class: class of responses, for counting.
    """

    query: Query
    after_name: bytes
    flags: int
    opt: bytes
    limit: int
    response_class: int

    def query_for(self, name: Labels, question: bytes) -> Query:
        """The query of this form for a name; `question` is its question in wire format."""
        form = self.query
        return Query(form.id, form.rd, name, form.qtype, form.qclass, question, form.edns, form.ad, form.cd)

    def response(self, question: bytes, answer: bytes, additional: tuple[bytes, ...]) -> bytes | None:
        """The response with one answer record, after its id. None: it does not fit."""
        counts = _COUNTS.pack(self.flags, 1, 1, 0, len(additional) + bool(self.opt))
        body = b"".join((counts, question, answer, *additional, self.opt))
        return body if len(body) + _ID <= self.limit else None


def form_of(query: Query, template: ResponseTemplate, limit: int) -> QueryForm | None:
    """The form of a query with a positive response.

    Args:
        query: a query without EDNS options that belong to its client, except for a cookie of zeros.
        template: header and OPT record of its response.
        limit: maximum bytes of a message.

    Returns:
        None: the query has a type whose records depend on more than the name.
    """
    if query.qtype not in _TYPES:
        return None
    response_class = classify(template.build(b"", 0, 0, 0))
    after_name = query.question[-_AFTER_NAME:]
    query = msgspec.structs.replace(query, name=(), question=b"")
    return QueryForm(query, after_name, template.flags, template.opt, limit, response_class)
