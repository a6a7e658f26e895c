"""What a server tells of itself to who asks in class CH, if it tells anything (RFC 4892)."""

from __future__ import annotations

from typing import Final

import msgspec

from zkdns.dns.message import CLASS_CH, QUESTION_POINTER, Query, Response, Type, pack_record
from zkdns.names import Labels

NAME_NAMES: Final = frozenset({(b"id", b"server"), (b"hostname", b"bind")})
VERSION_NAMES: Final = frozenset({(b"version", b"server"), (b"version", b"bind")})


class ServerIdentity(msgspec.Struct, frozen=True):
    """Who a server is, and what it is; what is empty is not told."""

    name: str = ""
    version: str = ""

    def answer(self, query: Query) -> Response | None:
        """The answer to a query of another class than IN; None: it is none of what is told."""
        text = self._text_of(query.name).encode()
        if not text or query.qclass != CLASS_CH or query.qtype not in (Type.TXT, Type.ANY):
            return None
        # TTL 0: it is about whoever happens to answer (RFC 4892 §3).
        record = pack_record(QUESTION_POINTER, Type.TXT, 0, bytes((len(text),)) + text, CLASS_CH)
        return Response(query, authoritative=True, answers=(record,))

    def _text_of(self, name: Labels) -> str:
        if name in NAME_NAMES:
            return self.name
        return self.version if name in VERSION_NAMES else ""
