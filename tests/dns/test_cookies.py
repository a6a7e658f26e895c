"""DNS cookies: the same as those of every server with the same secret (RFC 9018)."""

from __future__ import annotations

import hashlib
import ipaddress

import pytest

from zkdns.dns.cookies import Cookies, siphash

KEY = "e5e973e5a6b2a43f48e7dc849e37bfcf"
V4, V6 = "198.51.100.100", "2001:db8:220:1:59de:d0f4:8769:82b8"
CLIENT = bytes.fromhex("2464c4abcf10c957")
NOW = 1_559_731_985


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def shared(secret: str = KEY, now: float = NOW) -> Cookies:
    return Cookies(bytes.fromhex(secret), Clock(now), is_shared=True)


@pytest.mark.parametrize(
    ("size", "digest"), [(0, "310e0edd47db6f72"), (1, "fd67dc93c539f874"), (15, "e545be4961ca29a1")]
)
def test_siphash_matches_the_reference_vectors(size: int, digest: str) -> None:
    """The first vectors of the reference implementation, and the vector of the paper."""
    assert siphash(bytes(range(16)), bytes(range(size))).hex() == digest


# RFC 9018, appendix A: a new cookie, a renewed one, another client's, and one after a change of the secret.
@pytest.mark.parametrize(
    ("secret", "address", "now", "cookie"),
    [
        (KEY, V4, NOW, "2464c4abcf10c957010000005cf79f111f8130c3eee29480"),
        (KEY, V4, NOW + 2400, "2464c4abcf10c957010000005cf7a871d4a564a1442aca77"),
        (KEY, "203.0.113.203", 1_559_734_700, "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e"),
        (
            "445536bcd2513298075a5d379663c962",
            V6,
            1_559_741_961,
            "22681ab97d52c298010000005cf7c609a6bb79d16625507a",
        ),
    ],
    ids=["A.1", "A.2", "A.3", "A.4"],
)
def test_dns_23_cookies_match_rfc_9018(secret: str, address: str, now: int, cookie: str) -> None:
    client, server = bytes.fromhex(cookie)[:8], bytes.fromhex(cookie)[8:]
    cookies = shared(secret, now + 0.9)
    assert cookies.make(client, packed(address)) == server
    assert cookies.is_valid(client + server, packed(address))


def test_dns_23_reserved_bytes_of_a_cookie_are_hashed_unchanged() -> None:
    """RFC 9018, appendix A.3: a cookie of another implementation."""
    cookie = bytes.fromhex("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5")
    address = packed("203.0.113.203")
    assert shared(now=0x5CF78F71 + 60).is_valid(cookie, address)
    assert not shared(now=0x5CF78F71 + 60).is_valid(cookie.replace(b"\xab\xcd", b"\xab\xce"), address)


@pytest.mark.parametrize(
    ("age", "is_valid"),
    [(0, True), (3600, True), (3601, False), (-300, True), (-301, False), (1 << 31, False)],
)
@pytest.mark.parametrize("made", [NOW, (1 << 32) - 100], ids=["now", "before the time wraps"])
@pytest.mark.parametrize("is_shared", [True, False])
def test_dns_23_a_cookie_is_valid_for_an_hour(made: int, age: int, is_valid: bool, is_shared: bool) -> None:
    clock = Clock(made)
    cookies = Cookies(bytes(16), clock, is_shared=is_shared)
    cookie = CLIENT + cookies.make(CLIENT, packed(V4))
    clock.now = made + age
    assert cookies.is_valid(cookie, packed(V4)) is is_valid


def test_dns_23_a_cookie_is_valid_for_one_address_client_and_secret() -> None:
    cookies = shared()
    cookie = CLIENT + cookies.make(CLIENT, packed(V4))
    assert cookies.is_valid(cookie, packed(V4))
    assert not cookies.is_valid(cookie, packed("198.51.100.101"))
    assert not cookies.is_valid(cookie, packed(V6))
    assert not shared("00" * 16).is_valid(cookie, packed(V4))
    for at in range(len(cookie)):
        changed = bytearray(cookie)
        changed[at] ^= 1
        assert not cookies.is_valid(bytes(changed), packed(V4))


@pytest.mark.parametrize("size", [0, 8, 16, 23, 25, 40])
def test_dns_23_a_cookie_of_another_length_is_invalid(size: int) -> None:
    cookies = shared()
    cookie = CLIENT + cookies.make(CLIENT, packed(V4))
    assert not cookies.is_valid((cookie + bytes(16))[:size], packed(V4))


def test_dns_23_a_secret_that_is_not_shared_changes_daily() -> None:
    day = 86_400
    begins = NOW // day * day
    clock = Clock(begins - 60)
    cookies = Cookies(bytes(16), clock, is_shared=False)
    made = []
    for number in (-1, 0):
        cookie = CLIENT + cookies.make(CLIENT, packed(V4))
        of_day = (begins // day + number).to_bytes(4)
        key = hashlib.blake2b(of_day, digest_size=16, key=bytes(16), person=b"cookies").digest()
        assert cookie[8:12] == b"\xf0\0\0\0"  # a version for private use (RFC 9018)
        expected = hashlib.blake2s(key + cookie[:16] + packed(V4), digest_size=8).digest()
        assert cookie[16:] == expected
        made.append(cookie)
        clock.now = begins + 60
    assert all(cookies.is_valid(cookie, packed(V4)) for cookie in made)  # yesterday's cookie too


@pytest.mark.parametrize("is_shared", [True, False])
def test_dns_23_a_cookie_has_the_time_of_the_last_seconds(is_shared: bool) -> None:
    """A client that sends several queries a second gets the same cookie for ten seconds."""
    clock = Clock()
    cookies = Cookies(bytes(16), clock, is_shared=is_shared)
    for seconds, made_at in (
        (0, 0),
        (0.5, 0),
        (9.5, 0),
        (10, 10),
        (19, 10),
        (25, 25),
        (24, 24),
        (-7000, -7000),
    ):
        clock.now = NOW + seconds
        for client in (CLIENT, bytes(8)):
            for address in (V4, V6, V4):
                server = cookies.make(client, packed(address))
                assert server[4:8] == (NOW + made_at).to_bytes(4)
                assert cookies.is_valid(client + server, packed(address))
                assert server == Cookies(bytes(16), Clock(NOW + made_at), is_shared=is_shared).make(
                    client, packed(address)
                )


def test_dns_23_new_cookies_take_bounded_memory() -> None:
    cookies = Cookies(bytes(16), Clock(), is_shared=False)
    for number in range(3000):
        client = number.to_bytes(8)
        assert cookies.is_valid(client + cookies.make(client, packed(V6)), packed(V6))
    sizes = [len(found) for found in vars(cookies).values() if isinstance(found, dict)]
    assert sizes
    assert max(sizes) <= 1024
