"""DNS cookies (RFC 7873) in the format of RFC 9018.

    server cookie = version · reserved · time · hash
    hash = hash function(client cookie · version · reserved · time · address)

The version selects the hash function:

    1      SipHash-2-4. All servers with the same secret accept each other's cookies (RFC 9018 §4.4).
    240    BLAKE2s of the secret and the data, for a secret that no other server has. RFC 9018 reserves the
           number for private use. BLAKE2s takes 0.5 µs, because Python includes it. SipHash-2-4 in Python
           code takes 15 µs (measured), three times as long as the response to a query.

Cookies are optional. A valid server cookie proves that the client's source address is not forged, because
this server has sent the cookie there.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Final

from zkdns.dns.edns import CLIENT_COOKIE_SIZE
from zkdns.dns.serial import MODULUS, difference

SECRET_SIZE: Final = 16
"""Bytes of a secret (RFC 9018 §4.4)."""
SERVER_COOKIE_SIZE: Final = 16
"""Bytes of a server cookie (RFC 9018 §4)."""
COOKIES_SIZE: Final = CLIENT_COOKIE_SIZE + SERVER_COOKIE_SIZE
"""Bytes of both cookies in an option."""

_SIPHASH_VERSION, _PRIVATE_VERSION = b"\1", b"\xf0"
_RESERVED = bytes(3)
_HASH_SIZE = 8
_MAX_AGE_SECONDS, _MAX_CLOCK_SKEW_SECONDS = 3600, 300  # RFC 9018 §4.3
_DAY_SECONDS = 86_400
_MASK = (1 << 64) - 1
_MAX_MADE = 1024
_MADE_SECONDS = 10


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
        self._version = _SIPHASH_VERSION if is_shared else _PRIVATE_VERSION
        self._head = self._version + _RESERVED
        # Pairs of client and server cookie that were made in the last seconds, by client cookie and address:
        # most clients send several queries in that time, and this saves the hash. RFC 9018 §4.3 permits to
        # send a cookie for half an hour.
        self._made: dict[bytes, bytes] = {}
        self._since = self._until = 0.0
        self._time, self._start = 0, b""

    def make(self, client: bytes, address: bytes) -> bytes:
        """The server cookie for a client cookie and an address of 4 or 16 bytes, made in the last seconds."""
        return self.finish(bytes(COOKIES_SIZE), client, address)[CLIENT_COOKIE_SIZE:]

    def finish(self, response: bytes, cookie: bytes, address: bytes) -> bytes:
        """The response for a client, with its own cookie and a server cookie (RFC 7873 §5.2).

        Args:
            response: a response with room for both cookies at its end.
            cookie: starts with the client cookie.
            address: the client's address in 4 or 16 bytes.
        """
        now = self._clock()
        if not self._since <= now < self._until or len(self._made) >= _MAX_MADE:
            self._begin(now)
        client = cookie[:CLIENT_COOKIE_SIZE]
        key = client + address
        both = self._made.get(key)
        if both is None:
            both = client + self._start
            both = self._made[key] = both + self._hash(both + address, self._time)
        return response[:-COOKIES_SIZE] + both

    def _begin(self, now: float) -> None:
        """Begin a period in which all cookies have the same time."""
        self._made, self._since, self._until = {}, now, now + _MADE_SECONDS
        self._time = int(now) % MODULUS
        self._start = self._head + self._time.to_bytes(4)

    def is_valid(self, cookie: bytes, address: bytes) -> bool:
        """Whether an option's data holds a server cookie that was made for this address within the last hour.

        The reserved bytes may have any value, since they are part of the hash (RFC 9018 §4.2).
        """
        if len(cookie) != COOKIES_SIZE or not cookie.startswith(self._version, CLIENT_COOKIE_SIZE):
            return False
        made_at = int.from_bytes(cookie[12:16])
        age = difference(int(self._clock()), made_at)
        if not -_MAX_CLOCK_SKEW_SECONDS <= age <= _MAX_AGE_SECONDS:
            return False
        return hmac.compare_digest(self._hash(cookie[:-_HASH_SIZE] + address, made_at), cookie[-_HASH_SIZE:])

    def _hash(self, data: bytes, made_at: int) -> bytes:
        """The hash of a server cookie.

        Args:
            data: the client cookie, the server cookie before its hash, and the client's address.
            made_at: the time in the cookie.
        """
        if self._is_shared:
            return siphash(self._secret, data)
        hasher = _hasher_of_day(self._secret, made_at // _DAY_SECONDS).copy()
        hasher.update(data)
        return hasher.digest()


@functools.lru_cache(maxsize=4)
def _hasher_of_day(secret: bytes, day: int) -> hashlib.blake2s:
    """A hash function with the secret of a day. A copy of it takes half the time of a new one.

    The secret precedes the data, and one block has room for both. The keyed mode takes two blocks, and so
    twice the time. For a hash function without length extension, such as this one, both are equally safe.
    """
    key = hashlib.blake2b(day.to_bytes(4), digest_size=SECRET_SIZE, key=secret, person=b"cookies").digest()
    return hashlib.blake2s(key, digest_size=_HASH_SIZE)


# A client with a fixed cookie that sends many queries a second gets the same cookie for each of them.
@functools.lru_cache(maxsize=1024)
def siphash(key: bytes, data: bytes) -> bytes:
    """SipHash-2-4 of `data` with a key of 16 bytes (Aumasson and Bernstein, 2012), in 8 bytes."""
    first, second = struct.unpack("<2Q", key)
    a, b = first ^ 0x736F6D6570736575, second ^ 0x646F72616E646F6D
    c, d = first ^ 0x6C7967656E657261, second ^ 0x7465646279746573
    padded = data + bytes(7 - len(data) % 8) + bytes((len(data) & 0xFF,))
    for (word,) in struct.iter_unpack("<Q", padded):
        a, b, c, d = _sip_rounds(2, a, b, c, d ^ word)
        a ^= word
    a, b, c, d = _sip_rounds(4, a, b, c ^ 0xFF, d)
    return (a ^ b ^ c ^ d).to_bytes(8, "little")


def _sip_rounds(count: int, a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    """The state after some rounds. Rotations are written out, because calls would double the time."""
    mask = _MASK
    for _ in range(count):
        a = (a + b) & mask
        c = (c + d) & mask
        b = ((b << 13 | b >> 51) & mask) ^ a
        d = ((d << 16 | d >> 48) & mask) ^ c
        a = (a << 32 | a >> 32) & mask
        c = (c + b) & mask
        a = (a + d) & mask
        b = ((b << 17 | b >> 47) & mask) ^ c
        d = ((d << 21 | d >> 43) & mask) ^ a
        c = (c << 32 | c >> 32) & mask
    return a, b, c, d
