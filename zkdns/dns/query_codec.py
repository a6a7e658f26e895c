"""`QueryCodec`: what a transport has to provide for the response cache (see `zkdns.transport.codecs`)."""

from __future__ import annotations

from typing import Protocol


class QueryCodec(Protocol):
    """The form of queries and responses of one transport."""

    echoes_question: bool
    """Whether the transport copies the question, and so its spelling, from the query into the response."""

    @property
    def max_cached_query(self) -> int:
        """Bytes of the longest query that is cached."""

    def key(self, query: bytes, /) -> bytes:
        """The key of a query without its id: the query, followed by bytes that the codec may add."""

    def query(self, key: bytes, /) -> bytes:
        """The query without its id that belongs to a key."""

    def response(self, body: bytes, question: int, response_class: int, /) -> bytes:
        """A response after its id, ready to send.

        Args:
            body: the response after its id.
            question: length of its question.
            response_class: as `classify` returns it, for counting.
        """

    def copy_name(self, response: bytes, query: bytes, name_end: int, /) -> bytes:
        """The response with the name of a query (after its id), which ends at `name_end`.

        Unchanged if the transport copies the question itself.
        """
