"""The server's identity and version in class CH (RFC 4892)."""

from __future__ import annotations

from typing import Final

import msgspec

from zkdns.dns.message import CLASS_CH, QUESTION_POINTER, Query, Response, Type, pack_record
from zkdns.names import Labels

IDENTITY_NAMES: Final = frozenset({(b"id", b"server"), (b"hostname", b"bind")})
VERSION_NAMES: Final = frozenset({(b"version", b"server"), (b"version", b"bind")})


class ServerIdentity(msgspec.Struct, frozen=True):
    """Name and version of this server. Queries for a value that is empty are refused."""

    name: str = ""
    version: str = ""

    def answer(self, query: Query) -> Response | None:
        """The response to a query of a class other than IN; None if there is no such record."""
        text = self._text_of(query.name).encode()
        if not text or query.qclass != CLASS_CH or query.qtype not in (Type.TXT, Type.ANY):
            return None
        # TTL 0: the next query may reach another server (RFC 4892 §3).
        record = pack_record(QUESTION_POINTER, Type.TXT, 0, bytes((len(text),)) + text, CLASS_CH)
        return Response(query, authoritative=True, answers=(record,))

    def _text_of(self, name: Labels) -> str:
        if name in IDENTITY_NAMES:
            return self.name
        return self.version if name in VERSION_NAMES else ""
