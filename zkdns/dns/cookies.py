"""DNS cookies (RFC 7873) in the interoperable format of RFC 9018.

    server cookie = version · reserved · time · hash
    hash = SipHash-2-4(client cookie · version · reserved · time · address)

All servers with the same secret accept each other's cookies. Cookies are optional. A valid server cookie
proves that the client's source address is not forged, because this server has sent the cookie there.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Final

from zkdns.dns.edns import CLIENT_COOKIE_SIZE

SECRET_SIZE: Final = 16
"""Bytes of a secret (RFC 9018 §4.4)."""
SERVER_COOKIE_SIZE: Final = 16
"""Bytes of a server cookie (RFC 9018 §4)."""

_VERSION = b"\1"
_RESERVED = bytes(3)
_HASH_SIZE = 8
_MAX_AGE_SECONDS, _MAX_CLOCK_SKEW_SECONDS = 3600, 300  # RFC 9018 §4.3
_SERIAL_BITS = 32
_DAY_SECONDS = 86_400
_MASK = (1 << 64) - 1


class Cookies:
    """Makes and verifies server cookies.

    Args:
        secret: 16 bytes.
        clock: returns seconds since 1970.
        is_shared: whether other servers use the same secret. If so, it is used unchanged. Otherwise a new
            secret is derived from it each day (RFC 7873 §7.1).
    """

    def __init__(self, secret: bytes, clock: Callable[[], float], *, is_shared: bool) -> None:
        self._secret = secret
        self._clock = clock
        self._is_shared = is_shared

    def make(self, client: bytes, address: bytes) -> bytes:
        """The server cookie for a client cookie and an address of 4 or 16 bytes, issued now."""
        seconds = int(self._clock()) % (1 << _SERIAL_BITS)
        head = _VERSION + _RESERVED + seconds.to_bytes(4)
        return head + self._hash(client + head, address)

    def is_valid(self, cookie: bytes, address: bytes) -> bool:
        """Whether an option's data holds a server cookie that was made for this address within the last hour.

        The reserved bytes may have any value, since they are part of the hash (RFC 9018 §4.2).
        """
        if len(cookie) != CLIENT_COOKIE_SIZE + SERVER_COOKIE_SIZE or not cookie.startswith(
            _VERSION, CLIENT_COOKIE_SIZE
        ):
            return False
        half = 1 << (_SERIAL_BITS - 1)
        # RFC 1982: the sign of a difference of serial numbers.
        age = (int(self._clock()) - _made_at(cookie) + half) % (1 << _SERIAL_BITS) - half
        if not -_MAX_CLOCK_SKEW_SECONDS <= age <= _MAX_AGE_SECONDS:
            return False
        return hmac.compare_digest(self._hash(cookie[:-_HASH_SIZE], address), cookie[-_HASH_SIZE:])

    def _hash(self, prefix: bytes, address: bytes) -> bytes:
        """The hash of a server cookie; `prefix` is everything before it, including the client cookie."""
        secret = self._secret
        if not self._is_shared:
            day = _made_at(prefix) // _DAY_SECONDS
            secret = hashlib.blake2b(
                day.to_bytes(4), digest_size=SECRET_SIZE, key=secret, person=b"cookies"
            ).digest()
        return siphash(secret, prefix + address)


def _made_at(cookie: bytes) -> int:
    """The time in a cookie: seconds since 1970 in 32 bits."""
    return int.from_bytes(cookie[12:16])


def siphash(key: bytes, data: bytes) -> bytes:
    """SipHash-2-4 of `data` with a key of 16 bytes (Aumasson and Bernstein, 2012), in 8 bytes."""
    first, second = struct.unpack("<2Q", key)
    state = (
        first ^ 0x736F6D6570736575,
        second ^ 0x646F72616E646F6D,
        first ^ 0x6C7967656E657261,
        second ^ 0x7465646279746573,
    )
    padded = data + bytes(7 - len(data) % 8) + bytes((len(data) & 0xFF,))
    for (word,) in struct.iter_unpack("<Q", padded):
        a, b, c, d = state
        a, b, c, d = _sip_round(*_sip_round(a, b, c, d ^ word))
        state = a ^ word, b, c, d
    a, b, c, d = state
    a, b, c, d = _sip_round(*_sip_round(*_sip_round(*_sip_round(a, b, c ^ 0xFF, d))))
    return (a ^ b ^ c ^ d).to_bytes(8, "little")


def _sip_round(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    """The state after one round."""
    a, c = (a + b) & _MASK, (c + d) & _MASK
    b, d = _rotate_left(b, 13) ^ a, _rotate_left(d, 16) ^ c
    a = _rotate_left(a, 32)
    c, a = (c + b) & _MASK, (a + d) & _MASK
    b, d = _rotate_left(b, 17) ^ c, _rotate_left(d, 21) ^ a
    return a, b, _rotate_left(c, 32), d


def _rotate_left(word: int, bits: int) -> int:
    """A word of 64 bits, rotated to the left."""
    return (word << bits | word >> (64 - bits)) & _MASK
