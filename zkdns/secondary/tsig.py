"""TSIG for a query and its responses (RFC 8945): signatures, and their verification."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from zkdns.dns.message import HEADER, RECORD, TSIG
from zkdns.names import to_wire
from zkdns.secondary.access import TsigKey
from zkdns.secondary.records import BadTransferError

if TYPE_CHECKING:
    import dns.name
    import dns.rdtypes.ANY.TSIG
    import dns.tsig

_FUDGE: Final = 300  # seconds by which the clocks may differ (RFC 8945 §10)
_MAX_UNSIGNED: Final = 100  # messages between two signatures (RFC 8945 §5.3.1)
_CLASS_ANY = 255


class SignedExchange:
    """One query and its responses: signs the query, and verifies each message.

    Args:
        key: the key.
        clock: returns the seconds since the epoch.
    """

    def __init__(self, key: TsigKey, clock: Callable[[], float] = time.time) -> None:
        import dns.name  # noqa: PLC0415 - only needed with a key
        import dns.tsig  # noqa: PLC0415 - as above

        name = dns.name.Name((*key.name, b""))
        self._key = dns.tsig.Key(name, base64.b64decode(key.secret.reveal()), f"{key.algorithm}.")
        self._clock = clock
        self._query_mac = b""
        self._context: Any = None  # of dnspython
        self._unsigned = 0

    def sign(self, query: bytes) -> bytes:
        """The query with a TSIG record."""
        import dns.rdataclass  # noqa: PLC0415 - as above
        import dns.rdatatype  # noqa: PLC0415 - as above
        import dns.rdtypes.ANY.TSIG  # noqa: PLC0415 - as above
        import dns.tsig  # noqa: PLC0415 - as above

        ident, flags, *counts, additional = HEADER.unpack_from(query)
        make_tsig: Any = dns.rdtypes.ANY.TSIG.TSIG  # dnspython has no types for these two
        sign: Any = dns.tsig.sign
        empty = make_tsig(
            dns.rdataclass.ANY, dns.rdatatype.TSIG, self._key.algorithm, 0, _FUDGE, b"", ident, 0, b""
        )
        signed, _ = sign(query, self._key, empty, int(self._clock()), b"")
        self._query_mac = signed.mac
        data = signed.to_wire() or b""
        head = HEADER.pack(ident, flags, *counts, additional + 1)
        owner = to_wire(tuple(self._key.name.labels[:-1]))
        return b"".join(
            (head, query[HEADER.size :], owner, RECORD.pack(TSIG, _CLASS_ANY, 0, len(data)), data)
        )

    def verify(self, message: bytes, tsig_at: int | None) -> None:
        """Verify a message of the response, in order.

        Args:
            message: the message.
            tsig_at: the offset of its TSIG record. None: it has none.

        Raises:
            BadTransferError: it is not signed as it must be.
        """
        import dns.exception  # noqa: PLC0415 - as above
        import dns.tsig  # noqa: PLC0415 - as above

        if tsig_at is None:
            self._unsigned += 1
            if self._context is None or self._unsigned >= _MAX_UNSIGNED:
                raise BadTransferError("a message is not signed")
            self._context.update(message)
            return
        self._unsigned = 0
        try:
            owner, rdata = _read_tsig(message, tsig_at)
            validate: Any = dns.tsig.validate
            self._context = validate(
                message,
                self._key,
                owner,
                rdata,
                int(self._clock()),
                self._query_mac,
                tsig_at,
                self._context,
                multi=True,
            )
        except (dns.exception.DNSException, ValueError, struct.error) as error:
            reason = _REASONS.get(type(error).__name__, f"its TSIG record is not valid ({error})")
            raise BadTransferError(reason) from None

    def finish(self) -> None:
        """Check that the last message was signed.

        Raises:
            BadTransferError: it was not.
        """
        if self._unsigned:
            raise BadTransferError("the last message is not signed")


_REASONS = {
    "PeerBadKey": "the primary does not accept the key (BADKEY): name or algorithm may differ",
    "PeerBadSignature": "the primary rejects the signature (BADSIG): the secret differs",
    "PeerBadTime": "the primary rejects the time of the signature (BADTIME): the clocks differ",
    "BadSignature": "a signature is wrong: the secret differs, or the message was changed",
    "BadTime": "the time of a signature is too far from this machine's: the clocks differ",
    "BadKey": "a message is signed with another key",
    "BadAlgorithm": "a message is signed with another algorithm",
}


def _read_tsig(message: bytes, at: int) -> tuple[dns.name.Name, dns.rdtypes.ANY.TSIG.TSIG]:
    import dns.name  # noqa: PLC0415 - only needed with a key
    import dns.rdata  # noqa: PLC0415 - as above
    import dns.rdataclass  # noqa: PLC0415 - as above
    import dns.rdatatype  # noqa: PLC0415 - as above

    owner, used = dns.name.from_wire(message, at)
    at += used
    _, _, _, size = RECORD.unpack_from(message, at)
    rdata = dns.rdata.from_wire(dns.rdataclass.ANY, dns.rdatatype.TSIG, message, at + RECORD.size, size)
    return owner, rdata  # type: ignore[return-value] # the type of the record
