"""The codecs of UDP and TCP: the keys by which queries are looked up, and responses ready to send."""

from __future__ import annotations

import struct
import sys

from zkdns.transport.batch import HEAD, ID, LEAD, LENGTH, MAX_RESPONSE, SLOT
from zkdns.transport.counters import NOT_COUNTED

_SLOT_CAPACITY = SLOT - ID - LENGTH  # bytes of a query after its id that fit into a slot
# Lengths of the rest and of the question; and the response class, in the room for the id.
_LENGTHS = struct.Struct("=HHBx")
_MAX_CACHED_TCP_QUERY = 512


class UdpCodec:
    """The form of queries from a batch and of responses to it (`zkdns.transport.batch`)."""

    max_cached_query = _SLOT_CAPACITY
    """Bytes of the longest query that fits into a slot."""
    echoes_question = True
    """A response is sent with the question of its slot, in the spelling of the query."""

    @staticmethod
    def key(query: bytes) -> bytes:
        """The key of a query after its id."""
        return query.ljust(_SLOT_CAPACITY, b"\0") + (ID + len(query)).to_bytes(LENGTH, sys.byteorder)

    @staticmethod
    def query(key: bytes) -> bytes:
        """The query after its id; empty if it is longer than the slot.

        The response to an empty query is empty too, and the transport then looks the whole query up.
        """
        end = int.from_bytes(key[-LENGTH:], sys.byteorder) - ID
        return key[:end] if 0 <= end <= len(key) - LENGTH else b""

    @staticmethod
    def response(body: bytes, question: int, mark: int = NOT_COUNTED) -> bytes:
        """A response after its id, ready to send.

        Args:
            body: the response after its id.
            question: length of its question.
            mark: the response class.

        Raises:
            ValueError: the response does not fit into a datagram.
        """
        if not body:
            return body
        if len(body) > MAX_RESPONSE - ID:
            raise ValueError(
                f"a response has {ID + len(body)} bytes, at most {MAX_RESPONSE} fit into a datagram"
            )
        if question > _SLOT_CAPACITY - HEAD:  # the slot does not hold the whole question
            question = 0
        rest = body[HEAD + question :]
        return _LENGTHS.pack(len(rest), question, mark) + body[:HEAD] + rest

    @staticmethod
    def copy_case(response: bytes, _key: bytes, _name_end: int) -> bytes:
        """The response itself."""
        return response

    @staticmethod
    def message(query: bytes, response: bytes) -> bytes:
        """The whole message that answers a query (with its id)."""
        if not response:
            return response
        _, question, _ = _LENGTHS.unpack_from(response)
        head, asked = response[LEAD : LEAD + HEAD], query[ID + HEAD : ID + HEAD + question]
        return b"".join((query[:ID].ljust(ID, b"\0"), head, asked, response[LEAD + HEAD :]))


class TcpCodec:
    """The form of messages on a stream: unchanged, without their lengths and ids."""

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
    def response(body: bytes, _question: int, _mark: int = NOT_COUNTED) -> bytes:
        """The response itself; the TCP server derives its class from the message."""
        return body

    @staticmethod
    def copy_case(response: bytes, key: bytes, name_end: int) -> bytes:
        """The response with the name of the key, which ends at `name_end`."""
        return response[:HEAD] + key[HEAD:name_end] + response[name_end:]
