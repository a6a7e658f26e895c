"""Queries of the abuse benchmark: those of the hostile clients, and those of the polite one."""

import itertools
import random
import struct
from collections.abc import Iterator, Sequence

from tests.bench.queries import Question, encode, service_questions
from tests.bench.zone import Service

_ECS, _COOKIE, _PADDING = 8, 10, 12  # EDNS options (RFC 7871, 7873, 7830)
_CLIENT_COOKIE = 8  # bytes
_BLOCK = 128  # bytes; the block length for queries that RFC 8467 recommends
_CACHED_SERVICES = 100


def absent_endpoints(owner: str, count: int) -> list[Question]:
    """SRV questions for different endpoints that no member of the service has."""
    return [(f"_random{number}._tcp.{owner}", "SRV") for number in range(count)]


def absent_labels(owner: str, count: int) -> list[Question]:
    """Questions for different absent names below a service: labels like those of members, and endpoints."""
    return [
        (f"x{number}.{owner}", "A") if number % 2 else (f"_x{number}._tcp.{owner}", "SRV")
        for number in range(count)
    ]


def with_options(questions: Sequence[Question], count: int, seed: int = 4) -> list[bytes]:
    """Encode `count` queries with a new cookie, a client subnet, padding, and all three, in turn."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        question = questions[number // 4 % len(questions)]
        cookie = _option(_COOKIE, rng.randbytes(_CLIENT_COOKIE))
        subnet = _option(_ECS, struct.pack("!HBB", 1, 24, 0) + rng.randbytes(3))
        chosen = (cookie, subnet, b"", cookie + subnet)[number % 4]
        if number % 4 >= 2:
            length = len(encode(question, edns=True, options=chosen + _option(_PADDING, b"")))
            chosen += _option(_PADDING, bytes(-length % _BLOCK))
        made.append(encode(question, edns=True, options=chosen))
    return made


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("!HH", code, len(value)) + value


def polite_questions(services: Sequence[Service]) -> Iterator[Question]:
    """Questions of the polite client: repeated ones and new ones in turn.

    The repeated ones are for A and SRV of the first services, the new ones for the members of the others.
    When there are no more new ones, they are repeated too.
    """
    repeated = service_questions(services[:_CACHED_SERVICES])
    new = [
        (f"m{number}.{service.owner}", "A")
        for service in services[_CACHED_SERVICES:]
        for number in range(len(service.members))
    ]
    random.Random(5).shuffle(new)
    return alternate(repeated, new)


def alternate(repeated: Sequence[Question], new: Sequence[Question]) -> Iterator[Question]:
    """Questions of both lists in turn, each list repeated for ever."""
    pairs = zip(itertools.cycle(repeated), itertools.cycle(new), strict=False)
    return itertools.chain.from_iterable(pairs)
