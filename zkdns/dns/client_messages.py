"""Queries that zkdns itself sends as a client, and the check of their responses. Bytes only, no sockets.

`zkdns lookup`, the doctor and the server's self-checks use these. The forwarder has a stricter and faster
parser of its own (`zkdns.forward.message`), because it passes the responses of upstreams on to clients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkdns.dns.edns import pack_opt
from zkdns.dns.message import CLASS_IN, HEADER, HEADER_SIZE, QR, RD, TYPE_CLASS
from zkdns.errors import ZkdnsError
from zkdns.names import Labels, to_wire

if TYPE_CHECKING:
    import dnslib


class BadResponseError(ZkdnsError):
    """A message that is not a well-formed response to the query; the text describes the message."""


def build_query(name: Labels, qtype: int, *, ident: int, rd: bool = True, edns: bool = False) -> bytes:
    """Build a query of class IN.

    Args:
        name: the name in the question.
        qtype: the type in the question.
        ident: the message id, 16 bits.
        rd: whether recursion is desired.
        edns: whether to add an OPT record, which allows extended errors and larger UDP responses.
    """
    header = HEADER.pack(ident, RD if rd else 0, 1, 0, 0, edns)
    question = to_wire(name) + TYPE_CLASS.pack(qtype, CLASS_IN)
    return header + question + (pack_opt() if edns else b"")


def is_response_to(query: bytes, message: bytes) -> bool:
    """Whether a message is a response with the query's id and question.

    A response without a question is accepted: a server sends it if it could not parse the query.

    Args:
        query: as `build_query` returns it.
        message: any bytes.
    """
    if len(message) < HEADER_SIZE:
        return False
    ident, flags, questions, *_ = HEADER.unpack_from(message)
    if ident != int.from_bytes(query[:2]) or not flags & QR:
        return False
    if not questions:
        return True
    question = query[HEADER_SIZE : _question_end(query)]
    # A label length (at most 63) is never the code of a letter, so lower() changes only letters.
    found = message[HEADER_SIZE : HEADER_SIZE + len(question)]
    return questions == 1 and found.lower() == question.lower()


def _question_end(query: bytes) -> int:
    at = HEADER_SIZE
    while query[at]:
        at += 1 + query[at]
    return at + 1 + TYPE_CLASS.size


def parse_response(query: bytes, message: bytes) -> dnslib.DNSRecord:
    """Parse the response to a query.

    Args:
        query: as `build_query` returns it.
        message: the received bytes.

    Raises:
        BadResponseError: the message is malformed, or does not match the query.
    """
    import dnslib  # noqa: PLC0415 - the processes of the server only build queries, and start faster without it

    try:
        response = dnslib.DNSRecord.parse(message)
    except (dnslib.DNSError, ValueError) as error:
        raise BadResponseError(f"sent a malformed response: {error}") from None
    if not is_response_to(query, message):
        raise BadResponseError("sent a response to another query")
    return response
