"""The keys and the spellings of servers for which Go and Python must agree."""

import random

_RANDOM = random.Random(1)
_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/._-äßключ鍵🗝"


def _key() -> str:
    return "".join(_RANDOM.choices(_ALPHABET, k=_RANDOM.randint(1, 60)))


KEYS = [
    *(f"user:{number}" for number in range(8_000)),
    *(_key() for _ in range(7_990)),
    *(str(number) + "x" * number for number in range(241, 251)),
]
"""16,000 keys: numbered ones, random text, and long ones."""

ADDRESSES = {
    "10.0.0.1:11211": "10.0.0.1:11211",
    "10.0.0.2:11211": "10.0.0.2:11211",
    "[2001:DB8::1]:11211": "[2001:db8::1]:11211",
    "[2001:db8:0:0::2]:11211": "[2001:db8::2]:11211",
    "[2001:db8::3]:11212": "[2001:db8::3]:11212",
    "[::ffff:10.0.0.3]:11211": "10.0.0.3:11211",
}
"""Servers with IP addresses: as a znode or a user spells them, and in canonical form."""

SPELLINGS = {
    **ADDRESSES,
    "cache4.example.:11211": "cache4.example:11211",
    "Cache5.example:11211": "Cache5.example:11211",
    "cache-6.example:1": "cache-6.example:1",
}
"""Also servers with host names."""
