"""TSIG (RFC 8945): signatures of queries and responses, and their verification.

    client  SignedExchange.sign ──▶ query ──▶ read_tsig, verify ──▶ Signer     server
            SignedExchange.verify ◀────────── messages ◀─────────── Signer.sign

dnspython computes the signatures; this file has the rules. It is imported only where there is a key.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TSIG
import dns.tsig

from zkdns.dns.message import HEADER, HEADER_SIZE, RECORD, TSIG
from zkdns.names import to_wire

FUDGE: Final = 300
"""Seconds by which the clocks may differ (RFC 8945 §10)."""
BADSIG, BADKEY, BADTIME, BADTRUNC = 16, 17, 18, 22

Keys: TypeAlias = Mapping[dns.name.Name, dns.tsig.Key]
_Tsig: TypeAlias = dns.rdtypes.ANY.TSIG.TSIG

_sign: Any = dns.tsig.sign  # dnspython has no types for these three
_validate: Any = dns.tsig.validate
_make_tsig: Any = dns.rdtypes.ANY.TSIG.TSIG
_MIN_MAC = 10  # bytes (RFC 8945 §5.2.2.1)
_TIME_BYTES = 6
_MAX_UNSIGNED = 100  # messages between two signatures (RFC 8945 §5.3.1)


class MalformedTsigError(Exception):
    """The TSIG record is malformed, or is not the last record; the query gets FORMERR (RFC 8945 §5.2)."""


class TsigError(Exception):
    """A response is not signed as it must be. The text is the reason."""


class Request(NamedTuple):
    """A signed message."""

    message: bytes
    """The message without its TSIG record."""
    owner: dns.name.Name
    """The name of the key."""
    tsig: _Tsig


class _Key(dns.tsig.Key):
    """A key whose `repr` does not contain the secret."""

    def __repr__(self) -> str:
        return f"_Key({self.name}, {self.algorithm})"


def make_key(name: str, algorithm: str, secret: bytes) -> dns.tsig.Key:
    """A key; `name` is in presentation form."""
    return _Key(dns.name.from_text(name).canonicalize(), secret, algorithm)


def read_tsig(message: bytes, start: int) -> Request:
    """Read the TSIG record at this offset, which must be the last record of the message.

    Raises:
        MalformedTsigError: see there.
    """
    try:
        owner, used = dns.name.from_wire(message, start)
        at = start + used
        _, rclass, ttl, length = RECORD.unpack_from(message, at)
        at += RECORD.size
        if rclass != dns.rdataclass.ANY or ttl or at + length != len(message):
            raise MalformedTsigError
        rdata = dns.rdata.from_wire(rclass, dns.rdatatype.TSIG, message, at, length)
    except (dns.exception.DNSException, ValueError, struct.error):
        raise MalformedTsigError from None
    if not isinstance(rdata, dns.rdtypes.ANY.TSIG.TSIG):
        raise MalformedTsigError
    *counts, additional = HEADER.unpack_from(message)
    unsigned = HEADER.pack(*counts, additional - 1) + message[HEADER_SIZE:start]
    return Request(unsigned, owner.canonicalize(), rdata)


# -- server --------------------------------------------------------------------------------------------------


def verify(request: Request, keys: Keys, now: int) -> Signer:
    """Verify the signature of a query, in the order of RFC 8945 §5.2.

    Args:
        request: the query.
        keys: the keys by name.
        now: Unix time in seconds.

    Returns:
        the signer of the response. With an error, there is no other response than NOTAUTH.

    Raises:
        MalformedTsigError: the length of the signature is not allowed.
    """
    tsig = request.tsig
    key = keys.get(request.owner)
    if key is None or tsig.algorithm != key.algorithm:
        return Signer(request, None, now, BADKEY)
    expected: bytes = _sign(request.message, key, tsig, tsig.time_signed)[0].mac
    if len(tsig.mac) > len(expected) or len(tsig.mac) < max(_MIN_MAC, len(expected) // 2):
        raise MalformedTsigError
    if not hmac.compare_digest(expected[: len(tsig.mac)], tsig.mac):
        return Signer(request, None, now, BADSIG)
    if abs(now - tsig.time_signed) > tsig.fudge:
        return Signer(request, key, now, BADTIME)
    if len(tsig.mac) < len(expected):
        return Signer(request, key, now, BADTRUNC)
    return Signer(request, key, now)


class Signer:
    """Signs the messages of the response to one query.

    Attributes:
        error: the TSIG error; 0: the signature is valid.
        size: bytes that the signature adds to a message.

    Args:
        request: the query.
        key: None: the response has a TSIG record without a signature (RFC 8945 §5.3.2).
        now: Unix time in seconds.
        error: see above.
    """

    def __init__(self, request: Request, key: dns.tsig.Key | None, now: int, error: int = 0) -> None:
        self.error = error
        self._key, self._mac = key, request.tsig.mac
        self._owner = to_wire(request.owner.labels[:-1])
        is_late = error == BADTIME  # RFC 8945 §5.2.3: the client's time, and the server's as other data
        self._time = request.tsig.time_signed if is_late else now
        other = now.to_bytes(_TIME_BYTES) if is_late else b""
        self._record = _make_tsig(
            dns.rdataclass.ANY,
            dns.rdatatype.TSIG,
            request.tsig.algorithm,
            self._time,
            FUDGE,
            b"",
            request.tsig.original_id,
            error,
            other,
        )
        self._context: object = None
        mac_size = dns.tsig.mac_sizes[key.algorithm] if key is not None else 0
        self.size = len(self._owner) + RECORD.size + len(_data_of(self._record)) + mac_size

    @property
    def key_name(self) -> str:
        """The name of the key, for the log."""
        return "" if self._key is None else self._key.name.to_text(omit_final_dot=True)

    def sign(self, message: bytes) -> bytes:
        """Return a message with its signature. The messages of a response are signed in their order."""
        record = self._record
        if self._key is not None:
            record, self._context = _sign(
                message, self._key, record, self._time, self._mac, self._context, multi=True
            )
        return _append(message, self._owner, record)


# -- client --------------------------------------------------------------------------------------------------


class SignedExchange:
    """One query and its responses: signs the query, and verifies each message.

    Args:
        key: the key.
        clock: returns the seconds since the epoch.
    """

    def __init__(self, key: dns.tsig.Key, clock: Callable[[], float]) -> None:
        self._key, self._clock = key, clock
        self._query_mac = b""
        self._context: Any = None  # of dnspython
        self._unsigned = 0

    def sign(self, query: bytes) -> bytes:
        """Return the query with a TSIG record."""
        ident, *_ = HEADER.unpack_from(query)
        record = _make_tsig(
            dns.rdataclass.ANY, dns.rdatatype.TSIG, self._key.algorithm, 0, FUDGE, b"", ident, 0, b""
        )
        record, _ = _sign(query, self._key, record, int(self._clock()), b"")
        self._query_mac = record.mac
        return _append(query, to_wire(self._key.name.labels[:-1]), record)

    def verify(self, message: bytes, tsig_at: int | None) -> None:
        """Verify a message of the response, in order.

        Args:
            message: the message.
            tsig_at: the offset of its TSIG record. None: it has none.

        Raises:
            TsigError: it is not signed as it must be.
        """
        if tsig_at is None:
            self._unsigned += 1
            if self._context is None or self._unsigned >= _MAX_UNSIGNED:
                raise TsigError("a message is not signed")
            self._context.update(message)
            return
        self._unsigned = 0
        try:
            signed = read_tsig(message, tsig_at)
            self._context = _validate(
                message,
                self._key,
                signed.owner,
                signed.tsig,
                int(self._clock()),
                self._query_mac,
                tsig_at,
                self._context,
                multi=True,
            )
        except MalformedTsigError:
            raise TsigError("its TSIG record is malformed") from None
        except (dns.exception.DNSException, ValueError) as error:
            reason = _REASONS.get(type(error).__name__, f"its TSIG record is not valid ({error})")
            raise TsigError(reason) from None

    def finish(self) -> None:
        """Check that the last message was signed.

        Raises:
            TsigError: it was not.
        """
        if self._unsigned:
            raise TsigError("the last message is not signed")


_REASONS = {
    "PeerBadKey": "the primary does not accept the key (BADKEY): name or algorithm may differ",
    "PeerBadSignature": "the primary rejects the signature (BADSIG): the secret differs",
    "PeerBadTime": "the primary rejects the time of the signature (BADTIME): the clocks differ",
    "BadSignature": "a signature is wrong: the secret differs, or the message was changed",
    "BadTime": "the time of a signature is too far from this machine's: the clocks differ",
    "BadKey": "a message is signed with another key",
    "BadAlgorithm": "a message is signed with another algorithm",
}


# -- both ----------------------------------------------------------------------------------------------------


def _append(message: bytes, owner: bytes, record: _Tsig) -> bytes:
    """Return a message with a TSIG record; `owner` is the name of the key in wire format."""
    data = _data_of(record)
    *counts, additional = HEADER.unpack_from(message)
    head = RECORD.pack(TSIG, dns.rdataclass.ANY, 0, len(data))
    return b"".join((HEADER.pack(*counts, additional + 1), message[HEADER_SIZE:], owner, head, data))


def _data_of(record: _Tsig) -> bytes:
    data = record.to_wire()
    assert data is not None  # noqa: S101 - None only if it is written to a file
    return data
