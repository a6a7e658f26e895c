"""The codecs of UDP and TCP: convert queries to the keys of their lookup, and responses for sending.

They are apart from `batch`, which does I/O, because the response cache uses them without sockets.
"""

from __future__ import annotations

import struct
import sys

from zkdns.transport.batch import HEAD, ID, LENGTH, MAX_RESPONSE, PREFIX, SLOT
from zkdns.transport.counters import NOT_COUNTED

_SLOT_CAPACITY = SLOT - ID - LENGTH  # bytes of a query after its id that fit into a slot
# Lengths of the rest and of the question; and the response class, in the room for the id.
_LENGTHS = struct.Struct("=HHBx")
# By the last bytes of a key, the end of a query that fits into a slot.
_ENDS = {(ID + end).to_bytes(LENGTH, sys.byteorder): end for end in range(_SLOT_CAPACITY + 1)}
_MAX_REPEATED = _SLOT_CAPACITY - HEAD  # bytes of a question that is copied from its slot
_MAX_BODY = MAX_RESPONSE - ID
_QUESTION_AT = ID + HEAD  # offset of the question in a query
_REST_AT = PREFIX + HEAD  # offset of the rest in a response
_MAX_CACHED_TCP_QUERY = 512
_TYPE_AND_CLASS = 4


class UdpCodec:
    """The form of queries from a batch and of responses to it (`zkdns.transport.batch`)."""

    max_cached_query = _SLOT_CAPACITY
    """Bytes of the longest query that is cached: one that fits into a slot."""
    echoes_question = True
    """A response is sent with the question from the query's slot, and thus in the query's spelling."""

    @staticmethod
    def key(query: bytes) -> bytes:
        """The key of a query after its id."""
        return query.ljust(_SLOT_CAPACITY, b"\0") + (ID + len(query)).to_bytes(LENGTH, sys.byteorder)

    @staticmethod
    def query(key: bytes) -> bytes:
        """The query after its id; empty if it is longer than the slot.

        The response to an empty query is empty too, and the transport then looks the whole query up.
        """
        end = _ENDS.get(key[-LENGTH:])
        if end is not None:  # nearly always
            return key[:end]
        end = int.from_bytes(key[-LENGTH:], sys.byteorder) - ID
        return key[:end] if 0 <= end <= len(key) - LENGTH else b""

    @staticmethod
    def response(body: bytes, question: int, response_class: int = NOT_COUNTED) -> bytes:
        """A response after its id, ready to send.

        Args:
            body: the response after its id.
            question: length of its question.
            response_class: the response class.

        Raises:
            ValueError: the response does not fit into a datagram.
        """
        if not body:
            return body
        if len(body) > _MAX_BODY:
            raise ValueError(
                f"a response has {ID + len(body)} bytes, at most {MAX_RESPONSE} fit into a datagram"
            )
        if question > _MAX_REPEATED:
            question = 0  # the slot does not hold the whole question, so it is part of the rest
        rest = body[HEAD + question :]
        return _LENGTHS.pack(len(rest), question, response_class) + body[:HEAD] + rest

    @staticmethod
    def copy_name(response: bytes, query: bytes, name_end: int) -> bytes:
        """The response with the name of the query, which ends at `name_end`.

        Most responses have no question, and are returned unchanged.
        """
        if name_end + _TYPE_AND_CLASS <= _SLOT_CAPACITY:
            return response
        return response[: PREFIX + HEAD] + query[HEAD:name_end] + response[PREFIX + name_end :]

    @staticmethod
    def message(query: bytes, response: bytes) -> bytes:
        """The whole message that answers a query (with its id)."""
        if not response:
            return response
        _, question, _ = _LENGTHS.unpack_from(response)
        repeated = query[_QUESTION_AT : _QUESTION_AT + question]
        return query[:ID].ljust(ID, b"\0") + response[PREFIX:_REST_AT] + repeated + response[_REST_AT:]


class TcpCodec:
    """The form of messages on a stream: the DNS message itself, without its length prefix and id."""

    max_cached_query = _MAX_CACHED_TCP_QUERY
    """Bytes of the longest query that is cached."""
    echoes_question = False
    """A response contains the question."""

    @staticmethod
    def key(query: bytes) -> bytes:
        """The query itself."""
        return query

    @staticmethod
    def query(key: bytes) -> bytes:
        """The key itself."""
        return key

    @staticmethod
    def response(body: bytes, _question: int, _response_class: int = NOT_COUNTED) -> bytes:
        """The response itself; the TCP server derives its class from the message."""
        return body

    @staticmethod
    def copy_name(response: bytes, query: bytes, name_end: int) -> bytes:
        """The response with the name of the query, which ends at `name_end`."""
        return response[:HEAD] + query[HEAD:name_end] + response[name_end:]
